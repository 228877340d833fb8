"""Where the time of some work goes: by operator of PyTorch, and by Python function."""

from __future__ import annotations

import cProfile
import io
import pstats
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

ROWS = 30


def profiled(work: Callable[[], float]) -> str:
    """Run some work four times (warm-up, bare, under each profiler) and say where its seconds go.

    Args:
        work: returns its own seconds.
    """
    work()
    bare = work()
    with profile(activities=[ProfilerActivity.CPU]) as operators:
        under_operators = work()
    functions = cProfile.Profile()
    functions.enable()
    under_functions = work()
    functions.disable()
    listed = io.StringIO()
    pstats.Stats(functions, stream=listed).sort_stats("tottime").print_stats(ROWS)
    return (
        f"{bare:.3f} s; {under_operators:.3f} s under PyTorch's profiler, {under_functions:.3f} s under Python's\n\n"
        f"{operators.key_averages().table(sort_by='self_cpu_time_total', row_limit=ROWS, max_name_column_width=50)}\n\n"
        f"{listed.getvalue()}"
    )
