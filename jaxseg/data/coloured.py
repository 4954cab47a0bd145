"""Coloured shapes, "red circle" or "blue star", of which some combinations are held out.

Every colour and every shape occurs in training, and some of their combinations never do: a
detector that is told by words can find those all the same, if it has learned what colours and
shapes are called.
"""

from dataclasses import dataclass

import numpy as np

from jaxseg.data.classes import Numbering
from jaxseg.data.edits import Size
from jaxseg.data.scenes import Scene, sentence
from jaxseg.data.shapes import COLOURS, SHAPES, TEXTURES
from jaxseg.data.synthetic import Synthetic
from jaxseg.errors import UserError

SHADES = ("red", "yellow", "green", "blue", "purple", "white")
NAMES = tuple(f"{colour} {shape}" for colour in SHADES for shape in SHAPES)
# One of each colour and of each shape.
HELD_OUT = tuple(f"{colour} {shape}" for colour, shape in zip(SHADES, SHAPES, strict=True))
SPLITS = ("train", "seen", "held_out")


def open_coloured(
    location: str,
    *,
    numbering: Numbering = "contiguous",
    count: int = 2000,
    seed: int = 0,
    size: int = 128,
    vary: float = 0.0,
    objects: int = 4,
    held_out: str = ",".join(HELD_OUT),
    textured: bool = False,
    masks: bool = False,
    shuffled: bool = False,
) -> Synthetic:
    """Open `coloured:train`, `coloured:seen` or `coloured:held_out`.

    Args:
      location: the split.
        - "train": objects of the combinations that are not held out; the others have no class.
        - "seen": other images of the same, to evaluate on; all combinations are classes.
        - "held_out": each image has an object of a held-out combination, others perhaps, and
          objects that were trained on. Only the held-out ones are annotated, so that average
          precision is theirs: the others stand in the image to be told apart from.
      numbering, count, seed, size, vary, masks: as `synthetic.open_synthetic` has them. Splits of
        one seed have no image in common.
      objects: at most so many in an image; at least one.
      held_out: names of combinations, with commas between them.
      textured: whether objects are striped, checked and dotted too.
      shuffled: whether every combination has the name of another, drawn at random: how well a
        detector does that does not listen.

    Raises:
      UserError: no such split or combination, a number out of its range, or combinations without
        which a colour or a shape would not be seen in training.
    """
    if location not in SPLITS:
        splits = ", ".join(f"coloured:{split}" for split in SPLITS)
        raise UserError(f"the splits of coloured shapes are {splits}; got {location!r}")
    limits = {
        "count": count >= 1,
        "seed": 0 <= seed < 2**64,
        "size": size >= 32,
        "vary": 0 <= vary < 1,
        "objects": objects > 0,
    }
    if wrong := [name for name, fine in limits.items() if not fine]:
        raise UserError(
            "coloured shapes need count ≥ 1, 0 ≤ seed < 2**64, size ≥ 32, 0 ≤ vary < 1, objects "
            f"≥ 1; wrong is {', '.join(wrong)}"
        )
    held = _held_out(held_out)
    painter = Coloured(location, held, textured, shuffled)
    return Synthetic(count, seed, size, vary, objects, masks, numbering, painter)


@dataclass(frozen=True)
class Coloured:
    """Draws the scenes of a split; see `open_coloured`."""

    split: str
    held_out: tuple[str, ...] = HELD_OUT
    textured: bool = False
    shuffled: bool = False

    @property
    def title(self) -> str:
        return f"coloured-{self.split}"

    @property
    def stream(self) -> int:
        return 1 + SPLITS.index(self.split)

    @property
    def seen(self) -> tuple[str, ...]:
        """What is trained on."""
        return tuple(name for name in NAMES if name not in self.held_out)

    @property
    def combinations(self) -> tuple[str, ...]:
        """The classes: of training those that occur in it, of evaluations all."""
        return self.seen if self.split == "train" else NAMES

    @property
    def names(self) -> tuple[str, ...]:
        """What the classes are called."""
        if not self.shuffled:
            return self.combinations
        order = np.random.default_rng(0).permutation(len(self.combinations))
        return tuple(self.combinations[i] for i in order)

    def draw(
        self, size: Size, most: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, list[int], str]:
        """A picture, the visible masks of what is annotated, their classes, and a caption."""
        chosen = self._choose(int(rng.integers(1, most, endpoint=True)), rng)
        used = {name.split()[0] for name in chosen}
        grounds = [colour for colour in COLOURS if colour not in used]
        scene = Scene(size, grounds[rng.integers(len(grounds))], rng)
        drawn = []
        for name in chosen:
            colour, shape = name.split()
            texture = TEXTURES[rng.integers(len(TEXTURES))] if self.textured else "plain"
            if scene.add(shape, colour, texture, rng):
                drawn.append(name)
        told = self.held_out if self.split == "held_out" else self.combinations
        kept = [i for i, name in enumerate(drawn) if name in told]
        kinds = [self.combinations.index(drawn[i]) for i in kept]
        return scene.image, scene.visible[kept], kinds, sentence([f"a {name}" for name in drawn])

    def _choose(self, count: int, rng: np.random.Generator) -> list[str]:
        """What an image shows, the back first: nothing is in the way of the first."""
        if self.split != "held_out":
            return [self.seen[i] for i in rng.integers(len(self.seen), size=count)]
        first = self.held_out[rng.integers(len(self.held_out))]
        return [first, *(NAMES[i] for i in rng.integers(len(NAMES), size=count - 1))]


def _held_out(text: str) -> tuple[str, ...]:
    held = tuple(" ".join(name.split()) for name in text.split(",") if name.strip())
    for name in held:
        if name not in NAMES:
            raise UserError(
                f"held_out has the unknown combination {name!r}: it takes colours "
                f"({', '.join(SHADES)}) and shapes ({', '.join(SHAPES)}), as in 'red circle'"
            )
    if not held:
        raise UserError("held_out must name one combination or more, as in 'red circle,blue star'")
    left = {word for name in NAMES if name not in held for word in name.split()}
    if gone := [word for word in (*SHADES, *SHAPES) if word not in left]:
        raise UserError(
            f"held_out leaves nothing {gone[0]} to train on: every colour and every shape must be "
            "seen in other combinations"
        )
    return held
