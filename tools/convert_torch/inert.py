"""What else training scripts pickle beside the weights, as plain data that no code stands behind.

Values of `INERT` stand for calling the name; a name that is only mentioned evaluates to them.
"""

from collections.abc import Callable
from typing import Any

from jaxseg_convert_torch.pickles import Record


def _text(*parts: Any) -> str:
    return "/".join(map(str, parts)).replace("//", "/")


def _device(kind: Any = "", index: Any = None) -> str:
    return str(kind) if index is None else f"{kind}:{index}"


def _items(items: Any = ()) -> tuple:
    return tuple(items) if isinstance(items, list | tuple) else ()


def _counts(items: Any = None) -> dict:
    return dict(items) if isinstance(items, dict) else {}


def _record(*_: Any) -> Record:
    return Record()


PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
DTYPES = (
    *("float16", "float32", "float64", "bfloat16", "uint8", "int8", "int16", "int32", "int64"),
    *("bool", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2"),
)

INERT: dict[str, Callable | str] = {
    "argparse Namespace": _record,
    "types SimpleNamespace": _record,
    "collections Counter": _counts,
    "collections defaultdict": _record,
    "torch Size": _items,
    "torch device": _device,
    "numpy dtype": _record,  # numbers and generators' states: nothing here reads them
    "numpy ndarray": "numpy.ndarray",
    "_codecs encode": _record,
    **{f"torch {name}": f"torch.{name}" for name in DTYPES},
    **{f"{module} {name}": _text for module in ("pathlib", "pathlib._local") for name in PATHS},
}
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):
    INERT[f"{_core} scalar"] = INERT[f"{_core} _reconstruct"] = _record
# Protocol 2 writes the name that Python 2 had. Types that a defaultdict makes are not called.
for _module in ("builtins", "__builtin__"):
    INERT |= {f"{_module} set": list, f"{_module} frozenset": _items}
    INERT |= {f"{_module} {name}": name for name in ("int", "float", "str", "list", "dict", "bool")}
