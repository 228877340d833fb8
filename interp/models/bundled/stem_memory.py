"""What a frozen stem makes of each picture, computed once.

    tokens(picture) = trained(stem(pixels))

Where a tower is trained its tokens change with every step, and the maps of the stem before it never do: on a CPU they
are most of a tower's forward pass. While a memory is at hand (:func:`remembered`) each picture goes through the stem
alone and once, so that its maps are the same to the last bit in whatever batch it comes.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

LIMIT_BYTES = 512 * 2**20
"""As many maps as 3,800 pictures of the perception model have."""
ROOMY_BYTES = 2 * 2**30
"""For a study: the pictures of a mixture and of all shifts of its test items."""

Compute: TypeAlias = Callable[[Tensor], Tensor]


class StemMemory:
    """Maps of pictures, by the bytes of their pixels; those that were not needed for longest are dropped.

    Attributes:
        limit: most bytes that are held.
        computed: how many pictures went through the stem so far.
    """

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self.limit = limit
        self.computed = 0
        self._held: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0
        self._state: tuple[object, ...] = ()

    def maps(
        self, pixels: Float[Tensor, "I 3 H W"], compute: Compute, weights: Sequence[nn.Parameter]
    ) -> Float[Tensor, "I ..."]:
        """Maps of pictures, without gradients.

        Args:
            pixels: on the CPU, as the stem reads them.
            compute: the stem.
            weights: of the stem; when they change, all that is held is forgotten.
        """
        state = (torch.is_autocast_enabled("cpu"), *((w.data_ptr(), w._version, w.dtype) for w in weights))
        if state != self._state:
            self._held.clear()
            self._bytes, self._state = 0, state
        return torch.stack([self._one(picture, compute) for picture in pixels.detach().contiguous()])

    def _one(self, picture: Float[Tensor, "3 H W"], compute: Compute) -> Tensor:
        shape = f"{picture.dtype} {tuple(picture.shape)}".encode()
        pixels = picture.view(torch.uint8).numpy().tobytes()
        key = hashlib.blake2b(pixels, digest_size=16, key=shape).digest()
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        with torch.inference_mode(False), torch.no_grad():  # what is held may be needed for a gradient later
            found = compute(picture[None].clone())[0]
        self.computed += 1
        self._held[key] = found
        self._bytes += found.nbytes
        while self._bytes > self.limit and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
        return found


@contextmanager
def remembered(module: nn.Module, memory: StemMemory | None = None) -> Iterator[StemMemory | None]:
    """Hold what frozen stems in a model make of pictures; a memory that is at work already stays.

    Only on a CPU, and never where a stem is trained itself. Models without such a stem are as before.

    Args:
        module: the model.
        memory: what to hold maps in, so that it lasts longer than this; a new one if None.

    Yields:
        The memory that is at work; None if the model has no such stem.
    """
    from interp.models.bundled.tower import ConvStemEmbeddings

    stems = [part for part in module.modules() if isinstance(part, ConvStemEmbeddings)]
    before = [stem.memory for stem in stems]
    if any(before):
        yield next(filter(None, before))
        return
    at_work = (memory or StemMemory()) if len(stems) == 1 else None  # one memory knows one stem's weights
    for stem in stems:
        stem.memory = at_work
    try:
        yield at_work
    finally:
        for stem in stems:
            stem.memory = None
