"""What every experiment's command line has in common: parsing, quiet libraries, and how it ends.

Exit codes: 0 done; 2 bad input, said in one sentence on stderr; 130 interrupted.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import tyro

from interp.errors import CrosstaskError

if TYPE_CHECKING:
    from pandas import DataFrame

    from interp.models.base import Model

Arguments = TypeVar("Arguments")


def run(
    arguments: type[Arguments],
    main: Callable[[Arguments], None],
    *,
    module: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Parses the command line, runs the experiment and returns the exit code.

    Args:
        arguments: a dataclass whose docstring describes the experiment and whose fields are the options.
        main: the experiment; it imports heavy libraries itself, so that --help stays fast.
        module: as it is run, e.g. "experiments.cross_modal_patch".
        argv: arguments without the program's name; None reads the process's own.
    """
    try:
        parsed = tyro.cli(arguments, args=argv, prog=f"python -m {module}")
    except SystemExit as stop:  # --help is 0, an unparsable command line is 2
        return int(stop.code or 0)
    quieten()
    try:
        main(parsed)
    except CrosstaskError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept: run the same command again to continue.", file=sys.stderr)
        return 130
    return 0


def model_loader(*, dtype: str, device: str) -> "Callable[[str], Model]":
    """A function that loads each model once, when it is first asked for, without the libraries' progress bars."""
    from transformers.utils import logging

    from interp.models.base import load_model

    logging.disable_progress_bar()
    return cache(lambda name: load_model(name, dtype=dtype, device=device))


def markdown(table: "DataFrame") -> str:
    """A table in Markdown, cells as they are."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def replace_table(text: str, name: str, table: str) -> str:
    """A document with what stands between `<!-- name -->` and `<!-- end -->` replaced by a table.

    Raises:
        CrosstaskError: if the document has no such place.
    """
    pattern = rf"(<!-- {re.escape(name)} -->\n).*?(\n?<!-- end -->)"
    if not re.search(pattern, text, re.DOTALL):
        raise CrosstaskError(f"the document has no place for the table {name!r}: <!-- {name} --> and <!-- end -->")
    return re.sub(pattern, lambda found: f"{found[1]}{table}\n<!-- end -->", text, count=1, flags=re.DOTALL)


def quieten() -> None:
    """Keeps the libraries' own progress bars and advice off the terminal; set before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
