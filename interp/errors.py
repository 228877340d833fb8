"""The one exception that means: the input was wrong, and here is the sentence that says how."""


class CrosstaskError(ValueError):
    """Bad input, said in one clear sentence.

    The message quotes what was given and says what was expected. Command-line programs print it
    without a traceback and exit with code 2.
    """
