"""Settings of CoVFT, named as in the paper's ablations."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from interp.errors import CrosstaskError
from interp.tuning.strategies.vision import VisionOptions

Routing = Literal["dense", "sparse", "uniform", "random"]
Context = Literal["cve", "text", "image", "concat"]


@dataclass(frozen=True)
class CoVFTOptions(VisionOptions):
    """What of the tower is trained, and by what its experts are chosen."""

    num_experts: int = 4
    """Copies of the pretrained feed-forward part in each block that is changed."""
    layers: str = "auto"
    """Which blocks of those that are read: auto or late (the later half), early, all, a number, or a range as 4-7."""
    routing: Routing = "dense"
    """dense: all experts, weighed by the router; sparse: the `active` best; uniform: all alike, without a router;
    random: `active` by lot, drawn micro-batch by micro-batch."""
    active: int = 2
    """Experts of an image under sparse and random routing."""
    context: Context = "cve"
    """What the router reads: cve (attention of the question over the image), text, image, or concat (both, the image
    as its mean)."""
    heads: int = 4
    """Of the attention."""
    res_mult: float = 2.0
    """Width of the residual blocks' hidden layer, as a multiple of their input."""
    balance: float = 0.0
    """Weight of the loss that holds experts to equal shares among the images of a micro-batch, of which there should
    be several; the paper has none."""
    train_norms: bool = True
    """Whether the norms of all the tower's blocks are trained."""
    text: str = "minilm"
    """The question's encoder: minilm, hashing, or the hub id of one like BERT (google-bert/bert-base-uncased in the
    paper)."""

    def __post_init__(self) -> None:
        for name in ("num_experts", "active", "heads"):
            if getattr(self, name) < 1:
                raise CrosstaskError(f"option {name} of covft is at least 1, and was given as {getattr(self, name)}")
        if self.routing in ("sparse", "random") and self.active > self.num_experts:
            raise CrosstaskError(
                f"option active of covft is at most num_experts ({self.num_experts}), and was given as {self.active}"
            )
        if not 0 < self.res_mult < math.inf:
            raise CrosstaskError(f"option res_mult of covft is a number above 0, and was given as {self.res_mult}")
        if not 0 <= self.balance < math.inf:
            raise CrosstaskError(f"option balance of covft is a number of 0 or more, and was given as {self.balance}")
        if self.balance and not self.routes:
            raise CrosstaskError(f"option balance of covft needs a router, and {self.routing} routing has none")
        if not re.fullmatch(r"auto|late|early|all|\d+(-\d+)?", self.layers):
            raise CrosstaskError(
                f"option layers of covft is auto, late, early, all, a number, or a range such as 4-7, and was given as "
                f"{self.layers!r}"
            )

    @property
    def routes(self) -> bool:
        """Whether there is a router, and what it reads."""
        return self.routing in ("dense", "sparse")

    @property
    def reads_text(self) -> bool:
        return self.routes and self.context != "image"

    def chosen(self, used: int, blocks: int) -> list[int]:
        """The blocks that are changed.

        Args:
            used: blocks whose output is read, the first ones: of CLIP-L under LLaVA 23 of 24, so `late` is 11 to 22.
            blocks: all blocks.

        Raises:
            CrosstaskError: a range leaves the blocks that are read, or holds none.
        """
        half = used // 2
        named = {"auto": (half, used), "late": (half, used), "early": (0, half), "all": (0, used)}
        if self.layers in named:
            found = list(range(*named[self.layers]))
        else:
            first, _, last = self.layers.partition("-")
            found = list(range(int(first), int(last or first) + 1))
        if not found or found[-1] >= used:
            read = f"0 to {used - 1}" if used == blocks else f"0 to {used - 1} of {blocks}; nothing reads the others"
            raise CrosstaskError(f"option layers of covft is {self.layers!r}, but the tower's blocks are {read}")
        return found
