"""Batch augmentation of drawings: a new ground, place, size, tilt and palette every time a picture is seen.

All work is done on tensors, a whole batch at once. Flags are never mirrored, and no picture is cut to a circle, since
the circle is what sets the held-out style of flags apart.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional

from interp.models.bundled.pictures import Drawing


def _uniform(generator: torch.Generator, count: int, low: float, high: float) -> torch.Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def grounds(count: int, side: int, generator: torch.Generator) -> Float[torch.Tensor, "I 3 H W"]:
    """Backgrounds in 0..1: white for half of them, else a flat colour, a gradient or soft blobs."""
    kind = torch.randint(0, 8, (count,), generator=generator)
    corners = torch.rand(count, 3, 2, 2, generator=generator)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    out = torch.ones(count, 3, side, side)
    out[(kind == 4) | (kind == 5)] = corners[(kind == 4) | (kind == 5)][..., :1, :1]
    for value, few, mode in ((6, corners, "bilinear"), (7, coarse, "bicubic")):
        if (kind == value).any():
            out[kind == value] = functional.interpolate(few[kind == value], (side, side), mode=mode, align_corners=True)
    return out.clamp(0, 1)


def place(
    drawings: list[Drawing], side: int, generator: torch.Generator, *, mirror: bool = True
) -> Float[torch.Tensor, "I 4 H W"]:
    """Scale (0.55 to 1.1), stretch, shift, tilt and perhaps mirror each drawing; RGBA in 0..1, alpha premultiplied."""
    count = len(drawings)
    rgba = torch.from_numpy(np.stack([d.pixels for d in drawings])).permute(0, 3, 1, 2).float() / 255
    rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
    scale = _uniform(generator, count, 0.55, 1.1)
    stretch = torch.exp(_uniform(generator, count, -0.2, 0.2))
    angle = _uniform(generator, count, -math.pi / 9, math.pi / 9)
    angle = torch.where(torch.rand(count, generator=generator) < 0.5, angle * 0.15, angle)
    flip = torch.where(torch.rand(count, generator=generator) < (0.5 if mirror else 0.0), -1.0, 1.0)
    flip = torch.tensor(
        [1.0 if d.entity.family == "country" else f for d, f in zip(drawings, flip.tolist(), strict=True)]
    )
    room = (1 - scale).clamp(min=0.05)
    shift = torch.stack([_uniform(generator, count, -1, 1) * room, _uniform(generator, count, -1, 1) * room], 1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rotate = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)
    linear = torch.diag_embed(torch.stack([flip / (scale * stretch), stretch / scale], -1)) @ rotate
    theta = torch.cat([linear, -(linear @ shift[..., None])], -1)
    grid = functional.affine_grid(theta, [count, 4, side, side], align_corners=False)
    return functional.grid_sample(rgba, grid, align_corners=False)


def recolour(pixels: Float[torch.Tensor, "I 3 H W"], generator: torch.Generator, hue: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast, saturation and a turn of the hue (at most `hue` radians, one a picture)."""
    count = len(pixels)
    angle = (hue * _uniform(generator, count, -1, 1))[:, None, None]
    saturation = _uniform(generator, count, 0.5, 1.4)[:, None, None]
    contrast = _uniform(generator, count, 0.7, 1.25)[:, None, None]
    bright = _uniform(generator, count, -0.12, 0.12)[:, None, None, None]
    # A turn of the hue is a rotation of RGB about the grey axis; all that is linear becomes one 3 x 3 matrix.
    axis = torch.full((3,), 1 / math.sqrt(3))
    cross = torch.tensor([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = torch.cos(angle) * torch.eye(3) + torch.sin(angle) * cross + (1 - torch.cos(angle)) * torch.outer(axis, axis)
    luma = torch.tensor([0.299, 0.587, 0.114]).expand(3, 3)
    matrix = contrast * (luma + saturation * (turn - luma))
    out = torch.bmm(matrix, pixels.flatten(2)).view_as(pixels)
    return out.add_(0.6 * (1 - contrast[..., None]) + bright).clamp_(0, 1)


def soften(pixels: Float[torch.Tensor, "I 3 H W"], generator: torch.Generator) -> torch.Tensor:
    """Blur a fifth of the pictures, add noise to a fifth, wipe a rectangle from a fifth; in place."""
    count, _, height, width = pixels.shape
    blur, noise, wipe = torch.rand(3, count, generator=generator) < 0.2
    if blur.any():
        padded = functional.pad(pixels[blur], (2, 2, 2, 2), mode="replicate")
        pixels[blur] = functional.avg_pool2d(padded, 5, stride=1)
    if noise.any():
        pixels[noise] += torch.randn(int(noise.sum()), 3, height, width, generator=generator) * 0.06
    corner = (torch.rand(count, 2, generator=generator) * 0.7 * height).long().tolist()
    size = height // 4
    for row in wipe.nonzero()[:, 0].tolist():
        top, left = corner[row]
        pixels[row, :, top : top + size, left : left + size] = 0.5
    return pixels.clamp_(0, 1)


def normalise(pixels: Float[torch.Tensor, "I 3 H W"]) -> Float[torch.Tensor, "I 3 H W"]:
    """From 0..1 to what the tower reads: (255 x - 127) / 128."""
    return (pixels * 255 - 127) / 128


def augmented(drawings: list[Drawing], side: int, generator: torch.Generator) -> Float[torch.Tensor, "I 3 H W"]:
    """The drawings as the tower sees them in training: placed, recoloured, softened, normalised."""
    placed = place(drawings, side, generator)
    hue = torch.tensor([0.12 if d.entity.family == "country" else 0.5 for d in drawings])
    colour = recolour(placed[:, :3], generator, hue) * (placed[:, 3:] > 0)
    colour = torch.minimum(colour, placed[:, 3:])  # stays premultiplied
    picture = colour + grounds(len(drawings), side, generator) * (1 - placed[:, 3:])
    return normalise(soften(picture, generator))


def plain(drawings: list[Drawing], side: int) -> Float[torch.Tensor, "I 3 H W"]:
    """The drawings on white, untouched: how held-out styles are looked at."""
    rgba = torch.from_numpy(np.stack([d.pixels for d in drawings])).permute(0, 3, 1, 2).float() / 255
    picture = rgba[:, :3] * rgba[:, 3:] + (1 - rgba[:, 3:])
    return normalise(functional.interpolate(picture, size=(side, side), mode="bilinear", antialias=True).clamp(0, 1))
