"""A sheet of multiple-choice items to look at: each one's pictures side by side, its prompt and its answer below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

Pixels = UInt8[np.ndarray, "H W 3"]
_LINE, _TEXT, _GAP = 0.135, 7.0, 4
"""Height of a line of text in inches, its size in points, pixels between two pictures of an item."""


def contact_sheet(
    items: Sequence[tuple[Sequence[Pixels], str, str]],
    *,
    title: str = "",
    columns: int = 4,
    heads: Sequence[str] = (),
    inches: float = 1.5,
) -> Figure:
    """A grid of items, row by row.

    Args:
        items: pictures, prompt and answer of each; pictures may differ in size and number.
        title: above the sheet.
        columns: items in a row.
        heads: what stands before each row, such as its difficulty; none by default.
        inches: height at which pictures are shown.

    Raises:
        ValueError: there are no items, or not as many heads as rows.
    """
    if not items:
        raise ValueError("a contact sheet of no items")
    rows = -(-len(items) // columns)
    if heads and len(heads) != rows:
        raise ValueError(f"{len(heads)} heads for {rows} rows")
    strips = [_strip(pictures) for pictures, _, _ in items]
    widest = max(strip.shape[1] / strip.shape[0] for strip in strips) * inches
    characters = max(24, int(widest * 18))
    texts = [_text(prompt, answer, characters) for _, prompt, answer in items]
    below = (max(text.count("\n") for text in texts) + 1) * _LINE + 0.1
    above = 0.45 if title else 0.1
    left = 0.25 if heads else 0.05
    width, height = left + columns * (widest + 0.15), above + rows * (inches + below)
    figure = Figure(figsize=(width, height))
    if title:
        figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="center", size=11)
    for number, (strip, text) in enumerate(zip(strips, texts, strict=True)):
        row, column = divmod(number, columns)
        x, top = left + column * (widest + 0.15), height - above - row * (inches + below)
        shown = inches * strip.shape[1] / strip.shape[0]
        axes = figure.add_axes((x / width, (top - inches) / height, shown / width, inches / height))
        axes.imshow(strip, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        figure.text(x / width, (top - inches - 0.05) / height, text, size=_TEXT, va="top", linespacing=1.15)
        if heads and column == 0:
            middle = (top - inches / 2) / height
            figure.text(0.12 / width, middle, heads[row], size=9, rotation=90, ha="center", va="center")
    return figure


def _strip(pictures: Sequence[Pixels]) -> Pixels:
    """Pictures side by side on white, centred in height."""
    height = max(len(picture) for picture in pictures)
    edges = np.cumsum([0, *(picture.shape[1] + _GAP for picture in pictures)])
    strip = np.full((height, int(edges[-1]) - _GAP, 3), 255, np.uint8)
    for picture, (start, _) in zip(pictures, pairwise(edges.tolist()), strict=True):
        top = (height - len(picture)) // 2
        strip[top : top + len(picture), start : start + picture.shape[1]] = picture
    return strip


def _text(prompt: str, answer: str, characters: int) -> str:
    """The prompt's lines, each cut into as many as it needs, and the answer."""
    lines = [part for line in prompt.split("\n") for part in textwrap.wrap(line, characters) or [""]]
    answer_lines = textwrap.wrap(f"-> {answer}", characters)
    return "\n".join([*lines, *answer_lines]).replace("$", r"\$")
