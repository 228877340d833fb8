"""What decides the numbers of a benchmark run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experiments.benchmark.measure import TOLERANCE
from experiments.benchmark.peers import PEERS
from experiments.benchmark.workloads import Materials
from interp.errors import CrosstaskError
from interp.prompts import Template
from interp.tasks import Task

OURS, BARE = "ours", "bare"
CAPTURES = ("capture_text", "capture_images")


@dataclass(frozen=True)
class Settings:
    """What decides the numbers.

    Attributes:
        models: names of the ``vlm`` and the ``llm``.
        repeats: interleaved measurements of each peer.
        seconds: most seconds of any peer on a workload, all repeats together.
        queries: most queries of a workload.
    """

    models: dict[str, str]
    tasks: tuple[str, ...]
    peers: tuple[str, ...]
    repeats: int
    seconds: float
    queries: int
    lengths: tuple[int, int]
    vectors: int
    threads: int
    seed: int
    template: str
    dtype: str
    device: str

    def __post_init__(self) -> None:
        for name, least in (("repeats", 1), ("queries", 1), ("vectors", 1), ("threads", 1), ("seconds", 0)):
            if getattr(self, name) < least:
                raise CrosstaskError(f"--{name} is {getattr(self, name)}; it must be at least {least}.")
        if not 1 <= self.lengths[0] <= self.lengths[1]:
            raise CrosstaskError(f"--lengths {self.lengths[0]} {self.lengths[1]}: give the shortest, then the longest.")
        if self.dtype not in TOLERANCE:
            raise CrosstaskError(f"--dtype {self.dtype!r}: numbers are compared in {' or '.join(TOLERANCE)}.")
        if unknown := [name for name in self.peers if name not in PEERS]:
            raise CrosstaskError(f"--peers {unknown[0]!r} is unknown; expected some of {', '.join(PEERS)}.")
        if OURS not in self.peers:
            raise CrosstaskError(f"--peers leaves out {OURS!r}, which all others are compared with.")

    def config(self) -> dict[str, Any]:
        """As config.json has it."""
        return asdict(self)

    def memory_keys(self, workload: str) -> list[tuple[str, str, int, str]]:
        """The units that measure peak memory: of captures, ours and the bare forward passes by turns."""
        if workload not in CAPTURES:
            return []
        return [("memory", workload, repeat, peer) for repeat in range(self.repeats) for peer in (OURS, BARE)]

    def materials(self, tasks: Sequence[Task]) -> Materials:
        """What the calls are built from."""
        template = Template.parse(self.template)
        return Materials(tuple(tasks), template, self.lengths, self.vectors, self.seed)
