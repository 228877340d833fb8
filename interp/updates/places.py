"""Where in a model a weight is: its name without what wraps it, its layer, and its projection.

The same weight goes by other names in other places: `base_model.model.model.language_model.layers.3.self_attn.q_proj`
in a peft adapter, `language_model.model.layers.3.self_attn.q_proj.weight` in an older checkpoint. Here it is
`layers.3.self_attn.q_proj` in all of them, so that updates from anywhere meet. A vision tower keeps its own name, since
its layers are others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from interp.errors import CrosstaskError

WRAPPERS = ("base_model", "model", "language_model", "text_model", "transformer", "decoder", "gpt_neox", "llm")
"""What language models are kept in."""
ATTENTION_OUTPUT = ("o_proj", "out_proj", "c_proj", "dense", "wo")
"""What architectures call the attention's output projection."""

_WRAPPED = re.compile(rf"^(?:(?:{'|'.join(WRAPPERS)})\.)+(?=.)")
_BLOCK = re.compile(r"^(?:layers|h|blocks|block)\.(\d+)\.(.+)$")


@dataclass(frozen=True, order=True)
class Place:
    """A weight's place.

    Attributes:
        layer: number of the decoder's block, or -1 outside of the blocks (embeddings, head, vision).
        name: the name without wrappers and without `.weight`.
    """

    layer: int
    name: str

    @property
    def projection(self) -> str:
        """The last part of the name, such as "q_proj", or "q_proj.bias" of a bias.

        Outside of the blocks the first part stands before it, so that a tower's "q_proj" is not the decoder's.
        """
        parts = self.name.split(".")
        last = ".".join(parts[-2:]) if parts[-1] == "bias" else parts[-1]
        return last if self.layer >= 0 or last == self.name else f"{parts[0]}.{last}"

    @property
    def is_attention_output(self) -> bool:
        """Whether this is the attention's output projection, which a head writes through."""
        return self.layer >= 0 and self.projection in ATTENTION_OUTPUT and "att" in self.name


def place(name: str) -> Place:
    """The place that a module's or a parameter's name says.

    >>> place("model.language_model.layers.3.self_attn.q_proj.weight")
    Place(layer=3, name='layers.3.self_attn.q_proj')
    """
    bare = _WRAPPED.sub("", name.removesuffix(".weight"))
    block = _BLOCK.match(bare)
    return Place(int(block[1]), f"layers.{block[1]}.{block[2]}") if block else Place(-1, bare)


def places(names: Iterable[str], *, of: str) -> dict[Place, str]:
    """Places of names, each with its name.

    Args:
        names: of modules or parameters.
        of: whose they are, for the message.

    Raises:
        CrosstaskError: two names have one place, so that they cannot be told apart.
    """
    found: dict[Place, str] = {}
    for name in names:
        where = place(name)
        if where in found:
            raise CrosstaskError(f"{of} has two weights at {where.name!r}: {found[where]!r} and {name!r}")
        found[where] = name
    return found


def last_attention_output(found: Iterable[Place]) -> Place | None:
    """The output projection of the last layer, which is the published choice (Sachdeva et al. 2025, supplement A.7)."""
    return max((where for where in found if where.is_attention_output), default=None)
