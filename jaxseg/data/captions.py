"""Captions as arrays: of a training batch, and of the classes that an evaluation asks for."""

import dataclasses
from collections.abc import Mapping, Sequence

import flax.struct
import jax
import numpy as np

from jaxseg.data.classes import HOLE, Classes
from jaxseg.data.dataset import Example
from jaxseg.data.prompts import NOTHING, UNNAMED, Prompt, Prompter, tidied
from jaxseg.errors import UserError
from jaxseg.structures import Batch, Captions
from jaxseg.text.spans import caption_of, encode_captions, pack_names, positive_map
from jaxseg.text.wordpiece import WordPiece
from jaxseg.typing import Array, Bool

NO_PROMPT = Prompt(NOTHING, (), np.zeros(0, np.int32))


@flax.struct.dataclass
class ClassPrompts:
    """What an evaluation asks for in every image: p captions that together name k classes.

    Attributes:
      captions: p of them.
      tokens: True on the tokens of the caption that name a class; all False for the classes that
        another caption names.
    """

    captions: Captions
    tokens: Bool[Array, "p k s"]

    @property
    def count(self) -> int:
        """Of the classes."""
        return self.tokens.shape[1]


def name_objects(
    example: Example, prompt: Prompt, prompter: Prompter
) -> tuple[Example, Bool[np.ndarray, "n s"]]:
    """The objects that a caption names, and the tokens that name each.

    An object's label becomes the place of its name in the caption. Objects that the caption does
    not name, or names with tokens past its end, are left out.
    """
    length = prompter.prompts.length
    tokens = prompter.tokenizer([prompt.caption])
    width = max(length, tokens.ids.shape[1])
    # A row for each object: a caption names more than there is.
    spans = [() if place == UNNAMED else prompt.spans[place] for place in prompt.places]
    named = positive_map(tokens, 0, spans, width)
    kept = named.any(1) & ~named[:, length:].any(1)
    example = dataclasses.replace(example.select(kept), labels=prompt.places[kept])
    return example, named[kept, :length]


def caption_batch(
    batch: Batch,
    prompts: Sequence[Prompt | None],
    named: Sequence[Bool[np.ndarray, "_n s"] | None],
    prompter: Prompter,
) -> Batch:
    """A batch with the captions of its rows, and the tokens that name each target.

    Args:
      prompts: None for a row without an image.
      named: of `name_objects`.
    """
    length = prompter.prompts.length
    texts = [(prompt or NO_PROMPT).caption for prompt in prompts]
    rows, slots = batch.targets.mask.shape
    tokens = np.zeros((rows, slots, length), bool)
    for row, own in enumerate(named):
        if own is not None:
            tokens[row, : len(own)] = own[:slots]
    return batch.replace(
        captions=encode_captions(prompter.tokenizer, texts, length, pad_to=length),
        targets=batch.targets.replace(tokens=tokens),
    )


def class_prompts(
    names: Sequence[str],
    tokenizer: WordPiece,
    length: int,
    *,
    at_once: int | None = None,
    clean: bool = True,
) -> ClassPrompts:
    """Captions that name all of some classes, in their order.

    Args:
      length: tokens of a caption; as many captions are made as it takes.
      at_once: names of a caption at most, such as 40 for LVIS; None: as many as it holds.

    Raises:
      UserError: no names, or one that no caption can hold.
    """
    if not names:
        raise UserError("there are no classes to ask for")
    texts = tidied(tuple(names), clean)
    what = [f"the class {name!r}" for name in names]
    captions, maps = [], []
    for chunk in pack_names(tokenizer, texts, length, at_once=at_once, what=what):
        caption, spans = caption_of(texts[chunk.start : chunk.stop])
        captions.append(caption)
        every: list = [[] for _ in names]
        every[chunk.start : chunk.stop] = spans
        maps.append(positive_map(tokenizer([caption]), 0, every, length))
    return ClassPrompts(encode_captions(tokenizer, captions, length, pad_to=length), np.stack(maps))


def ask_classes(
    classes: Classes,
    tokenizer: WordPiece,
    length: int,
    *,
    at_once: int | None = None,
    clean: bool = True,
    names: Mapping[str, str] | None = None,
) -> tuple[ClassPrompts, tuple[int, ...]]:
    """Captions of a data set's classes, and the category id of each of their labels.

    Classes that have one name once it is tidied are asked for each by itself.

    Args:
      names: what to ask for instead of the names of some classes.
      length, at_once, clean: of `class_prompts`.

    Raises:
      UserError: no classes, one that no caption can hold, or `names` of what is no class.
    """
    found = zip(classes.names, classes.category_ids, strict=True)
    known = [(name, id_) for name, id_ in found if id_ is not None and name != HOLE]
    names = names or {}
    if unknown := sorted(set(names) - {name for name, _ in known}):
        raise UserError(
            f"there is no class {unknown[0]!r} that could be asked for by another name; there are "
            + ", ".join(repr(name) for name, _ in known[:20])
        )
    words = [names.get(name, name) for name, _ in known]
    asked = class_prompts(words, tokenizer, length, at_once=at_once, clean=clean)
    return asked, tuple(id_ for _, id_ in known)


def grouped(prompts: ClassPrompts, size: int) -> tuple[Captions, Bool[np.ndarray, "g c k s"]]:
    """Captions and maps in groups of equal size; the last is filled up with what names nothing."""
    count = len(prompts.tokens)
    filling = -count % size
    order = np.append(np.arange(count), np.zeros(filling, int))
    tokens = np.asarray(prompts.tokens)[order]
    tokens[count:] = False
    split = lambda x: np.asarray(x)[order].reshape(-1, size, *x.shape[1:])  # noqa: E731
    return jax.tree.map(split, prompts.captions), tokens.reshape(-1, size, *tokens.shape[1:])
