"""How long an overriding run will take, from a short timing of the model on a conflict of its own."""

import time
from collections.abc import Callable

from interp.protocol.override import OverrideWork
from interp.tasks.conflicts import ConflictSet


def seconds_left(work: OverrideWork) -> float:
    """Seconds that the units should take that the journal does not hold, without a judge's.

    One conflict of the first set with short answers, and of the first with sentences, is asked as in either unit; sets
    are weighed by their conflicts. What is read meanwhile is kept, so that only the asking is done twice.
    """
    left = {unit.key for unit in work.units() if work.run.done(unit.key) is None}
    total, measured = 0.0, dict[bool, dict[str, float]]()
    for found in work.inputs.sets:
        counts = {"selection": len(work.inputs.selected(found)), "test": len(work.inputs.tested(found))}
        due = {kind: count for kind, count in counts.items() if f"{kind} / {found.name}" in left}
        if due:
            invents = found.vector_form.invents
            each = measured.get(invents) or measured.setdefault(invents, _measure(work, found))
            total += each["vectors"] + sum(each[kind] * count for kind, count in due.items())
    return total


def _measure(work: OverrideWork, found: ConflictSet) -> dict[str, float]:
    """Seconds of reading a set's vectors, and of a conflict in either unit."""
    layers = dict.fromkeys(work.inputs.sources(found), work.inputs.layers[len(work.inputs.layers) // 2])
    chosen, scored = work.inputs.selected(found)[:1], work.inputs.tested(found)[:1]

    def test() -> object:
        return work.answers(found, scored, layers)

    seconds = {"vectors": _timed(test) - _timed(test)}  # the first call reads the vectors, and warms up
    seconds["selection"], seconds["test"] = _timed(lambda: work.by_layer(found, chosen)), _timed(test)
    return seconds | {"vectors": max(0.0, seconds["vectors"])}


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
