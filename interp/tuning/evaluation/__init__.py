"""Accuracy on perception tasks: option letters by likelihood, generated answers by rules, and flags for both.

`questions` says what is asked of an item, `packing` puts all option shifts of an item into one sequence,
`forced_choice` scores the letters, `generation` reads generated answers, `records` makes a row of each item and
`flags` names cells whose accuracy is that of a constant answer. `variants` are the models that are compared: the frozen
one and its adapters, evaluated on the same batches and vision features.
"""
