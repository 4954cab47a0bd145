"""What a conversion table says: how one family of checkpoints names what a model has."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxseg_convert_torch.templates import Template

# Official leaf -> the leaves it may be here; which one, the model's own tree says.
LEAVES = {
    "weight": ("kernel", "scale", "embedding"),
    "bias": ("bias",),
    "running_mean": ("mean",),
    "running_var": ("var",),
}
OFFICIAL_LEAVES = {ours: official for official, many in LEAVES.items() for ours in many}


class Rename(NamedTuple):
    """A module under its official name and its path here."""

    official: Template
    path: Template


class Fusion(NamedTuple):
    """An official tensor that holds several of ours, one after the other along its first axis.

    Attributes:
      fused: the official key.
      part: the key each part would have on its own, with the hole `{part}`.
      parts: what stands in that hole, in order.
    """

    fused: Template
    part: Template
    parts: tuple[str, ...]

    def part_keys(self, holes: dict[str, str]) -> list[str]:
        return [self.part.write(holes | {"part": part}) for part in self.parts]


class Buffer(NamedTuple):
    """An official buffer that follows from the shape of a tensor beside it.

    Attributes:
      key: the buffer's.
      source: the tensor's.
      build: the tensor's shape → the buffer.
    """

    key: Template
    source: Template
    build: Callable[[tuple[int, ...]], np.ndarray]


class Layout(NamedTuple):
    """How a tensor lies here that is neither a kernel nor as it is there.

    Attributes:
      read: (official tensor, shape that it has here) → ours, resized where the sizes differ;
        what cannot be read is returned as it is and reported as misshapen.
      write: ours → the official tensor.
    """

    read: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray] = lambda value: value


def rename(official: str, path: str | None = None) -> Rename:
    """A rename; a module of the same name on both sides is written once."""
    return Rename(Template(official), Template(path or official))


@dataclass(frozen=True)
class Table:
    """How one family of checkpoints names what a model has.

    Attributes:
      name: the key in `TABLES`.
      title: what reports call it.
      modules: module names; the first that fits decides.
      tensors: whole names of tensors that are no module's weight or bias.
      fusions: tensors that hold several of ours.
      layouts: (regex of our path, layout) of tensors that lie otherwise than kernels do.
      buffers: official tensors that are checked, left out, and built again.
      defaults: (regex of our path, value) of parameters that this form does not have: they
        start at the value, and only with that value can they be left out on the way back.
      drops: regexes of keys that are left out on purpose. Integers among them (counters) are
        kept in the origin and come back; floats do not.
      aliases: (regex, replacement) of keys that repeat another key's tensor.
      lone_aliases: an alias may stand alone, for the key that it would repeat.
      shared: (regex of a key, replacement): a file may leave the key out where its tensor is the
        other key's.
      repeats: official state dict → the aliases that belong to it, where no origin lists them.
      spellings: (regex, replacement) that bring other spellings of a key to the table's.
    """

    name: str
    title: str
    modules: tuple[Rename, ...]
    tensors: tuple[Rename, ...] = ()
    fusions: tuple[Fusion, ...] = ()
    layouts: tuple[tuple[str, Layout], ...] = ()
    buffers: tuple[Buffer, ...] = ()
    defaults: tuple[tuple[str, float], ...] = ()
    drops: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    lone_aliases: bool = False
    shared: tuple[tuple[str, str], ...] = ()
    repeats: Callable[[Mapping[str, Any]], dict[str, str]] = lambda state: {}
    spellings: tuple[tuple[str, str], ...] = ()

    def spell(self, key: str) -> str:
        for pattern, replacement in self.spellings:
            key = re.sub(pattern, replacement, key)
        return key

    def dropped(self, key: str) -> bool:
        return any(re.fullmatch(pattern, key) for pattern in self.drops)

    def alias_of(self, key: str) -> str | None:
        return _replaced(self.aliases, key)

    def shared_with(self, key: str | None) -> str | None:
        """The key whose tensor stands for a key that is not there."""
        return None if key is None else _replaced(self.shared, key)

    def paths(self, key: str) -> tuple[str, ...]:
        """Our flat paths that a key may stand for; none for a name not in the table."""
        for rule in self.tensors:
            if (holes := rule.official.read(key)) is not None:
                return (rule.path.write(holes),)
        module, _, leaf = key.rpartition(".")
        for rule in self.modules if leaf in LEAVES else ():
            if (holes := rule.official.read(module)) is not None:
                return tuple(f"{rule.path.write(holes)}/{ours}" for ours in LEAVES[leaf])
        return ()

    def key(self, path: str) -> str | None:
        """The official key of one of our flat paths, parts of fused tensors on their own."""
        for rule in self.tensors:
            if (holes := rule.path.read(path)) is not None:
                return rule.official.write(holes)
        module, _, leaf = path.rpartition("/")
        for rule in self.modules if leaf in OFFICIAL_LEAVES else ():
            if (holes := rule.path.read(module)) is not None:
                return f"{rule.official.write(holes)}.{OFFICIAL_LEAVES[leaf]}"
        return None

    def layout(self, path: str) -> Layout | None:
        return next((layout for p, layout in self.layouts if re.fullmatch(p, path)), None)

    def default(self, path: str) -> float | None:
        return next((value for p, value in self.defaults if re.fullmatch(p, path)), None)

    def buffer_source(self, key: str) -> tuple[Buffer, str] | None:
        """The rule for a buffer's key, and the key of the tensor that it follows from."""
        for rule in self.buffers:
            if (holes := rule.key.read(key)) is not None:
                return rule, rule.source.write(holes)
        return None

    def buffers_of(self, key: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """The buffers that follow from a tensor."""
        found = ((rule, rule.source.read(key)) for rule in self.buffers)
        return {r.key.write(holes): r.build(shape) for r, holes in found if holes is not None}

    def is_part(self, key: str) -> bool:
        """Whether the key is of a tensor that the official model only has fused with others."""
        return any(fusion.part.read(key) is not None for fusion in self.fusions)

    def covers(self, key: str) -> bool:
        """Whether the table knows an official key at all."""
        key = self.alias_of(self.spell(key)) or self.spell(key)
        fused = any(fusion.fused.read(key) is not None for fusion in self.fusions)
        known = bool(self.paths(key)) and not self.is_part(key)
        return fused or self.dropped(key) or known or self.buffer_source(key) is not None


def _replaced(rules: tuple[tuple[str, str], ...], key: str) -> str | None:
    """What the first rule makes of a key that it fits as a whole."""
    for pattern, replacement in rules:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, replacement, key)
    return None
