"""How large a picture may be for a processor that takes any size: the pixel limits of the Qwen-VL line.

A processor scales each picture so that its number of pixels lies between the limits, which decides how many tokens it
takes: one for 28 x 28 pixels. What a model was trained with, it should be tested with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from interp.errors import CrosstaskError
from interp.models.base import Model


@contextlib.contextmanager
def pixel_limits(model: Model, least: int | None, most: int | None) -> Iterator[None]:
    """Other pixel limits for a while; None leaves a limit as it is.

    Args:
        model: whose processor.
        least: fewest pixels of a picture.
        most: most pixels.

    Raises:
        CrosstaskError: the processor takes pictures of one size, or the limits contradict each other.
    """
    if least is None and most is None:
        yield
        return
    processor: Any = getattr(model.processor, "image_processor", None)
    if not hasattr(processor, "merge_size"):  # for others the size is that of an edge
        raise CrosstaskError(
            f"the processor of model {model.name!r} scales pictures in its own way, without pixel limits; leave out "
            "min_pixels and max_pixels"
        )
    size, known = processor.size, ("shortest_edge", "longest_edge")
    limits = (least or size["shortest_edge"], most or size["longest_edge"])
    if limits[0] > limits[1]:
        raise CrosstaskError(f"the fewest pixels of a picture, {limits[0]}, are more than the most, {limits[1]}")
    processor.size = type(size)(**(dict(size) | dict(zip(known, limits, strict=True))))
    model._images.clear()  # pictures were processed at another size
    try:
        yield
    finally:
        processor.size = size
        model._images.clear()
