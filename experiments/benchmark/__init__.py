"""Speed, measured side by side: the same work through this package and other tools; see :mod:`experiments.bench`.

workloads.py    what is done: prompts, vectors, and which vector is patched where
peers/          who does it, a file each
worker.py       a peer that runs in a Python environment of its own
measure.py      seconds, peak memory, and the comparison with plain full forwards
work.py         the units of a run, how many queries fit the time, and the tables
"""
