"""TorchScript archives, `torch.jit.save`'s: their tensors under the names of a state dict.

Such a zip holds a pickle of nested objects whose classes are scripts in the same zip. Nothing of
the scripts is run or compiled: an object becomes a record of its attributes, and of a class's
script only the two lines are read that list which attributes are parameters and buffers.
"""

import itertools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxseg_convert_torch.pickles import Record, RefusedGlobal

ROOT = "__torch__"
NAME = re.compile(rf"{ROOT}(\.\w+)* \w+")
# The head of a module's script: its name, then the lists of tensors.
HEAD = re.compile(
    r"^class (?P<name>\w+)\(Module\):\n"
    r"(?P<lists>(?:[ \t]+__\w+__ = \[[^\]\n]*\]\n)*)",
    re.MULTILINE,
)
LIST = re.compile(r"__(?:parameters|buffers)__ = \[([^\]]*)\]")
QUOTED = re.compile(r'"([^"]*)"')
MAX_SCRIPT = 2**24  # bytes; CLIP's largest has some ten thousand
MAX_DEPTH, MAX_MODULES = 100, 10**5  # one object may stand in many places


class ScriptObject(Record):
    """The attributes of an object whose class is a script; `kind` is the name of the class."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def restore(self, state: Any) -> None:
        """Take the attributes.

        Raises:
          RefusedGlobal: the object would make them of its state by code.
        """
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise RefusedGlobal(f"{self.kind}, whose objects are rebuilt by code of their own")
        self.update(state)


class ScriptNames(Mapping):
    """What a script archive's pickle may name: `builders`, and every class of its scripts."""

    def __init__(self, builders: Mapping[str, Callable]):
        self.builders = dict(builders) | LISTS

    def __contains__(self, name) -> bool:
        return name in self.builders or NAME.fullmatch(name) is not None

    def __getitem__(self, name: str) -> Any:
        if name in self.builders:
            return self.builders[name]
        kind = name.replace(" ", ".")
        return lambda *_: ScriptObject(kind)

    def __iter__(self) -> Iterator[str]:
        return iter(self.builders)

    def __len__(self) -> int:
        return len(self.builders)


def _first(value: Any = None, *_: Any) -> Any:
    return value


# How the archives write typed lists and dictionaries; the types are of no use here.
LISTS = {
    f"torch.jit._pickle {name}": _first
    for name in (
        *("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist"),
        "restore_type_tag",
    )
}


def is_script(archive: zipfile.ZipFile, prefix: str) -> bool:
    """Whether what lies under `prefix` of a zip is a TorchScript archive."""
    names = archive.namelist()
    return f"{prefix}constants.pkl" in names and any(n.startswith(f"{prefix}code/") for n in names)


class _Scripts:
    """Which attributes of a class are in its state dict, by the class's name."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str):
        self.archive, self.prefix = archive, prefix
        self.files: dict[str, dict[str, list[str]]] = {}

    def tensors(self, kind: str) -> list[str] | None:
        """Names of parameters and buffers; None of a class that is no module."""
        module, _, name = kind.rpartition(".")
        path = f"{self.prefix}code/{module.replace('.', '/')}.py"
        if path not in self.files:
            self.files[path] = self._read(path)
        return self.files[path].get(name)

    def _read(self, path: str) -> dict[str, list[str]]:
        try:
            info = self.archive.getinfo(path)
        except KeyError:
            raise RefusedGlobal(f"a class without a script ({path})") from None
        if info.file_size > MAX_SCRIPT:
            raise ValueError(f"the script {path} has {info.file_size} bytes")
        text = self.archive.read(info).decode("utf-8")
        return {
            head["name"]: [n for row in LIST.findall(head["lists"]) for n in QUOTED.findall(row)]
            for head in HEAD.finditer(text)
        }


def state_dict(root: Any, archive: zipfile.ZipFile, prefix: str) -> dict[str, Any]:
    """The tensors of a module and of those in it by their dotted names, as it lists them.

    Args:
      root: the object that the archive's pickle holds.

    Raises:
      ValueError: no module, one in itself, or one without a tensor that its script lists.
      RefusedGlobal: an object whose class has no script.
    """
    scripts, found, met = _Scripts(archive, prefix), {}, itertools.count()

    def visit(module: ScriptObject, names: list[str], path: str, depth: int) -> None:
        if depth > MAX_DEPTH or next(met) > MAX_MODULES:
            raise ValueError(f"modules nested deeper than {MAX_DEPTH}, or too many of them")
        for name in names:
            if module[name] is not None:  # parameters may be left out
                found[path + name] = module[name]
        for name, child in module.items():
            inside = scripts.tensors(child.kind) if isinstance(child, ScriptObject) else None
            if inside is not None:
                visit(child, inside, f"{path}{name}.", depth + 1)

    names = scripts.tensors(root.kind) if isinstance(root, ScriptObject) else None
    if names is None:
        raise ValueError("the archive holds no module")
    visit(root, names, "", 0)
    return found
