"""The synthetic source's paint box: outlines, colours, textures and ground."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from jaxseg.data.edits import Size

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")

COLOURS = {
    "red": (205, 45, 45),
    "orange": (235, 140, 35),
    "yellow": (230, 210, 60),
    "green": (60, 160, 70),
    "blue": (50, 90, 200),
    "purple": (135, 65, 165),
    "white": (235, 235, 230),
    "grey": (110, 110, 115),
}

TEXTURES = ("plain", "striped", "checked", "dotted")

_OVERSAMPLING = 4


def outline(
    shape: str, centre: Sequence[float], radius: float, angle: float, size: Size
) -> np.ndarray:
    """Coverage in [0, 1] of a shape, antialiased; float32 (h, w).

    Args:
      shape: one of `SHAPES`.
      centre: (y, x) in pixels.
      radius: of the circle around the shape, in pixels.
      angle: by which it is turned.
      size: (h, w) of the picture.
    """
    n = _OVERSAMPLING
    picture = Image.new("L", (size[1] * n, size[0] * n))
    draw = ImageDraw.Draw(picture)
    for points, value in _polygons(shape):
        turn = np.asarray([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        placed = (points @ turn * radius + np.asarray(centre)[::-1]) * n
        draw.polygon([tuple(p) for p in placed.tolist()], fill=value)
    return np.asarray(picture.reduce(n), np.float32) / 255


def _polygons(shape: str) -> list[tuple[np.ndarray, int]]:
    """Outlines (points, 2) in a unit circle, filled (255) or cut out (0), in this order."""
    if shape == "circle":
        return [(_star(40), 255)]
    if shape == "square":
        return [(_star(4), 255)]
    if shape == "triangle":
        return [(_star(3), 255)]
    if shape == "star":
        return [(_star(10, inner=0.42), 255)]
    if shape == "ring":
        return [(_star(40), 255), (_star(40) * 0.52, 0)]
    arm, width = 0.94, 0.33
    bar = np.asarray([(-arm, -width), (arm, -width), (arm, width), (-arm, width)])
    return [(bar, 255), (bar[:, ::-1], 255)]


def _star(corners: int, inner: float = 1.0) -> np.ndarray:
    turn = np.arange(corners) * 2 * np.pi / corners
    radius = np.where(np.arange(corners) % 2, inner, 1.0)
    return np.stack([np.sin(turn) * radius, -np.cos(turn) * radius], -1)


def textured(
    texture: str, colour: Sequence[int], size: Size, scale: float, rng: np.random.Generator
) -> np.ndarray:
    """A picture full of one texture; float32 (h, w, 3) in 0..255.

    Args:
      texture: one of `TEXTURES`.
      colour: red, green and blue.
      size: (h, w).
      scale: pixels of the side of the scene; the texture's period is some 5 % of it.
    """
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.04, 0.07) * scale + 2
    u = (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period)
    v = (y * np.cos(angle) - x * np.sin(angle)) * (2 * np.pi / period)
    pattern = {
        "plain": lambda: np.zeros(size, np.float32),
        "striped": lambda: np.tanh(3 * np.sin(u)),
        "checked": lambda: np.tanh(4 * np.sin(u / 1.5) * np.sin(v / 1.5)),
        "dotted": lambda: np.tanh(4 * (np.sin(u) * np.sin(v) - 0.45)),
    }[texture]()
    light = 1 + 0.28 * pattern + 0.10 * _clouds(size, 4, rng)
    grain = rng.normal(0, 5, (*size, 1)).astype(np.float32)
    return np.asarray(colour, np.float32) * light[..., None] + grain


def ground(size: Size, colour: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """A calm, uneven ground; float32 (h, w, 3) in 0..255."""
    dull = 0.45 * np.asarray(colour, np.float32) + 0.55 * rng.uniform(60, 190)
    light = 1 + 0.25 * _clouds(size, 3, rng) + 0.15 * _clouds(size, 12, rng)
    grain = rng.normal(0, 7, (*size, 3)).astype(np.float32)
    return (dull * light[..., None] + grain).astype(np.float32)


def _clouds(size: Size, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise in about [-1, 1]."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))
