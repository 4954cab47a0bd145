"""Scenes of shapes, drawn back to front.

An object that would leave too little of an earlier one in sight is placed anew; masks are of what
remains visible.
"""

from collections.abc import Sequence

import numpy as np

from jaxseg.data.edits import Size
from jaxseg.data.shapes import COLOURS, SHAPES, TEXTURES, ground, outline, textured

VISIBLE = 0.6  # of an object's area, at least
TRIES = 30


class Scene:
    """A picture to which objects are added, back to front.

    Attributes:
      visible: bool (n, h, w); of each object what is in sight.
    """

    def __init__(self, size: Size, colour: str, rng: np.random.Generator):
        self._canvas = ground(size, COLOURS[colour], rng)
        self.visible = np.zeros((0, *size), bool)
        self._whole: list[int] = []

    @property
    def image(self) -> np.ndarray:
        """uint8 (h, w, 3)."""
        return np.clip(np.rint(self._canvas), 0, 255).astype(np.uint8)

    def add(self, shape: str, colour: str, texture: str, rng: np.random.Generator) -> bool:
        """Add an object somewhere; False where there is no place for it."""
        size = self.visible.shape[1:]
        placed = _place(shape, size, self.visible, self._whole, rng)
        if placed is None:
            return False
        window, alpha = placed
        paint = textured(texture, COLOURS[colour], alpha.shape, min(size), rng)
        self._canvas[window] += alpha[..., None] * (paint - self._canvas[window])
        mask = np.zeros((1, *size), bool)
        mask[0][window] = alpha > 0.5
        self.visible = np.concatenate([self.visible & ~mask, mask])
        self._whole.append(mask.sum())
        return True


def draw_scene(
    size: Size, most: int, rng: np.random.Generator, shapes: Sequence[str] = SHAPES
) -> tuple[np.ndarray, np.ndarray, list[int], str]:
    """A picture with one to `most` objects.

    Returns:
      uint8 (h, w, 3); bool (n, h, w) visible masks; the index in `shapes` of each; a caption.
    """
    colours = list(COLOURS)
    base = rng.integers(len(colours))
    scene = Scene(size, colours[base], rng)
    wanted = int(rng.integers(1, most, endpoint=True))
    kinds, words = [], []
    for _ in range(wanted):
        kind = int(rng.integers(len(shapes)))
        # Never the colour of the ground: an object must show.
        colour = colours[int((base + rng.integers(1, len(colours))) % len(colours))]
        texture = TEXTURES[rng.integers(len(TEXTURES))]
        if scene.add(shapes[kind], colour, texture, rng):
            kinds.append(kind)
            words.append(f"a {colour} {texture} {shapes[kind]}")
    return scene.image, scene.visible, kinds, sentence(words)


def _place(
    shape: str, size: Size, visible: np.ndarray, whole: list[int], rng: np.random.Generator
) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """Window and coverage of an object where it hides none of the others too far, or None."""
    for _ in range(TRIES):
        radius = min(size) * rng.uniform(0.09, 0.22)
        centre = [rng.uniform(radius, side - radius) for side in size]
        low = [int(c - radius) for c in centre]
        window = tuple(
            slice(start, min(side, int(c + radius) + 2))
            for start, c, side in zip(low, centre, size, strict=True)
        )
        inside = [c - start for c, start in zip(centre, low, strict=True)]
        extent = tuple(part.stop - part.start for part in window)
        alpha = outline(shape, inside, radius, rng.uniform(0, 2 * np.pi), extent)
        hidden = (visible[:, *window] & (alpha > 0.5)).sum((1, 2))
        if (visible.sum((1, 2)) - hidden >= VISIBLE * np.asarray(whole, float)).all():
            return window, alpha
    return None


def sentence(words: Sequence[str]) -> str:
    """One or several things, as one says them."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
