"""A picture as data: where it comes from, what its content is, and how it becomes RGB."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image as Pillow
from PIL import ImageOps

from interp.errors import CrosstaskError


@dataclass(frozen=True, eq=False)
class Image:
    """A picture, from a file or from memory; two are equal when their contents are."""

    path: Path | None = None
    pixels: Pillow.Image | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.pixels is None):
            raise CrosstaskError("an image has either a path or pixels")

    def __str__(self) -> str:
        return f"image {str(self.path)!r}" if self.path is not None else f"an image of {self.pixels!r}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @cached_property
    def key(self) -> str:
        """sha256 of the content: the file's bytes, or mode, size and bytes of the pixels."""
        if self.pixels is not None:
            head = f"{self.pixels.mode} {self.pixels.size} ".encode()
            return hashlib.sha256(head + self.pixels.tobytes()).hexdigest()
        return hashlib.sha256(self._bytes()).hexdigest()

    def load(self) -> Pillow.Image:
        """The picture as RGB, upright, transparent parts on white.

        Raises:
            CrosstaskError: if the file is missing or cannot be decoded; the message names it.
        """
        try:
            picture = self.pixels if self.pixels is not None else Pillow.open(io.BytesIO(self._bytes()))
            picture = ImageOps.exif_transpose(picture)
            if not picture.has_transparency_data:
                return picture.convert("RGB")
            picture = picture.convert("RGBA")
            return Pillow.alpha_composite(Pillow.new("RGBA", picture.size, "white"), picture).convert("RGB")
        except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as error:
            raise CrosstaskError(f"{self} cannot be decoded: {error}") from error

    def _bytes(self) -> bytes:
        assert self.path is not None
        try:
            return Path(self.path).read_bytes()
        except OSError as error:
            raise CrosstaskError(f"{self} cannot be read: {error.strerror or error}") from error
