"""What a detector is told to look for in an image: names, and which object each one names.

Of an image whose data set has classes, the names are those of its objects and some that occur
nowhere in it. An image with phrases of a caption is asked for these alone: what they leave out may
be there all the same.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from jaxseg.data.classes import HOLE
from jaxseg.data.dataset import Example
from jaxseg.errors import UserError
from jaxseg.text.spans import ENDS, LENGTH, caption_of, name_costs
from jaxseg.text.vocabulary import open_vocabulary

NOTHING = "."  # the caption of an image that is asked for nothing
UNNAMED = -1
PARENTHESES = re.compile(r"\([^()]*\)")


@dataclass(frozen=True)
class Prompts:
    """How captions are made of names.

    Attributes:
      vocabulary: of the tokeniser: a `vocab.txt`, a `tokenizer.json`, or a folder with one; for a
        training a Hugging Face id too, and None for that of the weights it starts from.
      length: tokens of every caption, padding included.
      max_labels: names of a caption; those of the image's objects stay, however many they are.
      negatives: how many names of absent classes: "fill" up to `max_labels`; "vary" does that for
        half of the images, and takes a random part of them for the others (MM-Grounding-DINO).
      grounding: of an image with a caption of its own: "phrases" asks for its distinct phrases one
        after the other, "sentence" takes the caption as it is, where the data says which words of
        it name each object.
      clean: whether names of classes are tidied (see `clean_name`), and one part is drawn of
        "a/b". Phrases of a caption stay as they are but for case and spaces.
    """

    vocabulary: str | None = None
    length: int = LENGTH
    max_labels: int = 80
    negatives: Literal["fill", "vary"] = "fill"
    grounding: Literal["phrases", "sentence"] = "phrases"
    clean: bool = True


class Prompt(NamedTuple):
    """A caption, and what it names.

    Attributes:
      caption: it ends with a full stop or a question mark, so that it means the same whatever
        captions stand beside it in a batch.
      spans: for each name the (begin, end) of its words in the caption.
      places: int32 (n,), the name of each object; `UNNAMED` where the caption had no room.
    """

    caption: str
    spans: Sequence[Sequence[tuple[int, int]]]
    places: np.ndarray


def clean_name(name: str) -> str:
    """Lower case, spaces for "_", and nothing in parentheses: "Bow_(weapon)" is "bow"."""
    plain = " ".join(name.lower().replace("_", " ").split())
    return " ".join(PARENTHESES.sub(" ", plain).split()) or plain


class Prompter:
    """Draws prompts; what it draws depends on its arguments alone.

    Raises:
      UserError: there is no vocabulary.
    """

    def __init__(self, prompts: Prompts):
        if prompts.vocabulary is None:
            raise UserError("captions need a vocabulary: give Prompts one")
        self.prompts = prompts
        self.tokenizer = open_vocabulary(Path(prompts.vocabulary).expanduser())
        self._costs: dict[str, int] = {}

    def cost(self, name: str) -> int:
        """Tokens of a name and its full stop."""
        if name not in self._costs:
            self._costs[name] = int(name_costs(self.tokenizer, [name])[0])
        return self._costs[name]

    def draw(
        self,
        example: Example,
        classes: Sequence[str],
        rng: np.random.Generator,
        unsure: Sequence[int] = (),
    ) -> Prompt:
        """A prompt for one image.

        Objects whose name finds no room are `UNNAMED`. The caption does not ask for them, so they
        must be no targets.

        Args:
          classes: what the labels stand for, if the example has no names of its own; `HOLE` is no
            class.
          unsure: labels that must not be taken for absent, such as those of crowds.
        """
        if self.prompts.grounding == "sentence" and example.spans is not None:
            return _sentence(example)
        names = classes if example.names is None else example.names
        tidy = self.prompts.clean and example.exhaustive
        words = {label: _word(names[label], rng, tidy) for label in np.unique(example.labels)}
        kept, room = self._fitting(_shuffled(dict.fromkeys(words.values()), rng))
        if example.exhaustive:
            known = {*words, *map(int, unsure)}
            absent = [x for i, x in enumerate(names) if i not in known and x != HOLE]
            kept += self._absent(absent, set(words.values()), room, rng)
        kept = _shuffled(kept, rng)
        caption, spans = caption_of(kept)
        place = {name: i for i, name in enumerate(kept)}
        places = [place.get(words[label], UNNAMED) for label in example.labels.tolist()]
        return Prompt(caption or NOTHING, spans, np.asarray(places, np.int32))

    def _fitting(self, names: Sequence[str]) -> tuple[list[str], int]:
        """The names that find room, and how much is left."""
        kept, room = [], self.prompts.length - ENDS
        for name in names:
            if 1 < self.cost(name) <= room:
                kept.append(name)
                room -= self.cost(name)
        return kept, room

    def _absent(
        self,
        names: Sequence[str],
        present: set[str],
        room: int,
        rng: np.random.Generator,
    ) -> list[str]:
        """Some of the names of absent classes, in random order, up to the first too long."""
        wanted = min(max(0, self.prompts.max_labels - len(present)), len(names))
        if self.prompts.negatives == "vary" and wanted and rng.random() < 0.5:
            wanted = int(rng.integers(1, wanted, endpoint=True))
        chosen: dict[str, None] = {}
        for i in rng.permutation(len(names)):
            if len(chosen) == wanted:
                break
            name = _word(names[i], rng, self.prompts.clean)
            # Two classes may have one name once it is tidied.
            if name in present or name in chosen or self.cost(name) == 1:
                continue
            room -= self.cost(name)
            if room < 0:
                break
            chosen[name] = None
        return list(chosen)


@lru_cache(maxsize=256)
def tidied(names: tuple[str, ...], clean: bool = True) -> tuple[str, ...]:
    """Names of classes as an evaluation asks for them: tidied, "a/b" as it is."""
    return tuple(clean_name(name) if clean else _plain(name) for name in names)


def _word(name: str, rng: np.random.Generator, tidy: bool) -> str:
    """A name as it is asked for."""
    if not tidy:
        return _plain(name)
    parts = [part.strip() for part in clean_name(name).split("/") if part.strip()]
    return parts[rng.integers(len(parts))] if len(parts) > 1 else "".join(parts)


def _plain(name: str) -> str:
    return " ".join(name.lower().split())


def _sentence(example: Example) -> Prompt:
    caption = example.caption.rstrip()
    if not caption.endswith((".", "?")):
        caption += " ."
    return Prompt(caption, example.spans, example.labels.astype(np.int32))


def _shuffled(names, rng: np.random.Generator) -> list[str]:
    names = list(names)
    return [names[i] for i in rng.permutation(len(names))]
