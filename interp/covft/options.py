"""What a study compares and how large it is; nothing heavy is imported, so that a command line's help is fast."""

from __future__ import annotations

from dataclasses import dataclass

from interp.errors import CrosstaskError

STRATEGIES = (
    "covft",
    "vision_bitfit",
    "vision_full",
    "vision_lora",
    "vision_freeze",
    "vpt",
    "qa_vit",
    "text_connector",
    "vision_full+pcgrad",
    "vision_full+cagrad",
)
"""Of table A: the paper's, its counterparts, and two kinds of gradient surgery, which it lacks."""


@dataclass(frozen=True)
class StudyOptions:
    """Arms and sizes of the tables.

    Raises:
        CrosstaskError: on construction, for a value that is out of range or given twice.
    """

    strategies: tuple[str, ...] = STRATEGIES
    """A and E: strategies; with +pcgrad or +cagrad behind a name, its gradients are combined in that way."""
    layers: tuple[str, ...] = ("auto", "early", "all")
    """D: where experts are put: auto (the late half), early, all, or a range of blocks such as 4-7."""
    experts: tuple[int, ...] = (2, 4, 8)
    """F and H: numbers of experts."""
    fractions: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    """G: shares of the examples, and of the steps."""
    types: tuple[int, ...] = (3, 5, 9, 13)
    """H: how many types of task are mixed."""
    balance: float = 0.01
    """C: weight of the balancing loss in the arm that has one."""
    text: str = "minilm"
    """The question's encoder in all arms that read it: minilm, hashing, or the hub id of one like BERT."""

    def __post_init__(self) -> None:
        for name in ("strategies", "layers", "experts", "fractions", "types"):
            given = getattr(self, name)
            if not given:
                raise CrosstaskError(f"{name} is empty; at least one is needed")
            if len(set(given)) < len(given):
                twice = next(value for value in given if given.count(value) > 1)
                raise CrosstaskError(f"{name} has {twice!r} twice; each is measured once")
        if not all(0 < fraction <= 1 for fraction in self.fractions):
            raise CrosstaskError(f"fractions are above 0 and at most 1, not {', '.join(map(str, self.fractions))}")
        if min(self.experts) < 1 or min(self.types) < 1:
            raise CrosstaskError("numbers of experts and of types of task are at least 1")
        if not self.balance > 0:
            raise CrosstaskError(f"the balancing loss has a weight above 0, not {self.balance}")
