"""Read `.pth` files, the zip format and the one before it, without torch and without running them.

Both hold a pickle that describes tensors (storage, offset, shape, strides) and, apart from it,
the storages' bytes. `pickles.read_pickle` reads the first against the allow-list below; here
every size is checked against the bytes there are, so a damaged file is an error and no crash.
TorchScript archives, which are such zips with scripts beside them, give their state dict.
"""

import math
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from jaxseg.errors import UserError
from jaxseg_convert_torch.inert import INERT
from jaxseg_convert_torch.pickles import RefusedGlobal, read_pickle
from jaxseg_convert_torch.torchscript import ScriptNames, is_script, state_dict

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# What the standard library raises on files that are not what they seem.
DAMAGE = (
    *(ValueError, KeyError, EOFError, MemoryError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_ELEMENTS = 2**40  # of one tensor; a stride of 0 could otherwise stand for any number


class _OldTar(Exception):
    """A tar file, as torch wrote them before 0.1.10."""


@dataclass(frozen=True)
class StorageType:
    """What a file's `torch.FloatStorage` is read as."""

    dtype: np.dtype


class Storage:
    """A flat array; in the old format its bytes come only after the pickle."""

    def __init__(self, dtype: np.dtype, numel: int, data: np.ndarray | None = None):
        if not isinstance(numel, int) or not 0 <= numel < MAX_ELEMENTS:
            raise ValueError(f"a storage of {numel!r} elements")
        self.dtype, self.numel, self.data = dtype, numel, data


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose storage may not have been read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """The tensor as a read-only view of its storage, without a copy."""
        if self.storage.data is None:
            raise ValueError("a storage that the file does not hold")
        size = self.storage.dtype.itemsize
        return np.lib.stride_tricks.as_strided(
            self.storage.data[self.offset :],
            self.shape,
            [stride * size for stride in self.strides],
            writeable=False,
        )


def read_pth(path: str | os.PathLike) -> Any:
    """Read what `torch.save` wrote: containers as they are, tensors as read-only arrays; of what
    `torch.jit.save` wrote, the state dict.

    A pickled `argparse.Namespace` becomes a dictionary, and other settings plain data (`inert`).
    bfloat16 has ml_dtypes' type.

    Raises:
      UserError: not such a file, a damaged one, or one that names code; it is not run.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            loaded = _read_zip(file) if is_zip else _read_legacy(file)
            return _resolve(loaded)
    except _OldTar:
        raise UserError(
            f"{path} is in PyTorch's tar format of before 0.1.10, which is not read; load it with "
            "torch and save it again (if you trust its source: torch.save(torch.load(FILE, "
            "weights_only=False), NEW)), or use a newer file, such as torchvision's "
            "resnet50-0676ba61.pth"
        ) from None
    except RefusedGlobal as refused:
        raise UserError(
            f"{path} was refused: its pickle names {refused}, and only tensors, containers and "
            "plain settings are read. Nothing in it was run. If you trust its source, load it "
            "with torch and save the plain state dict: torch.save(model.state_dict(), ...)."
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except DAMAGE as error:
        raise UserError(
            f"{path} is not a checkpoint that torch.save wrote, or it is damaged ({error}); "
            "download it again, or compare its SHA-256 with the publisher's"
        ) from error


def _builders() -> dict[str, Any]:
    allowed: dict[str, Any] = {
        **INERT,
        "collections OrderedDict": _ordered_dict,
        "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils _rebuild_parameter": _rebuild_parameter,
    }
    for name, dtype in STORAGES.items():
        allowed[f"torch {name}"] = StorageType(np.dtype(dtype))
    return allowed


def _ordered_dict(items=()) -> dict:
    if not isinstance(items, list | tuple) or not all(len(item) == 2 for item in items):
        raise ValueError("damaged pickle (an OrderedDict of no pairs)")
    if not all(isinstance(key, str | int) for key, _ in items):
        raise ValueError("damaged pickle (an OrderedDict's key)")
    return dict(items)


def _rebuild_tensor(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
    numbers = (offset, *size, *stride)
    if not isinstance(storage, Storage) or len(size) != len(stride):
        raise ValueError("damaged pickle (a tensor without storage, shape and strides)")
    if not all(isinstance(n, int) and 0 <= n < MAX_ELEMENTS for n in numbers):
        raise ValueError(f"a tensor of shape {size}, strides {stride} at {offset}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    fits = last < storage.numel if math.prod(size) else offset <= storage.numel
    if not fits or math.prod(size) >= MAX_ELEMENTS:
        raise ValueError(f"a tensor of shape {size} reaches past its {storage.numel} elements")
    return LazyTensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(data, requires_grad=False, hooks=None):
    if not isinstance(data, LazyTensor):
        raise ValueError("damaged pickle (a parameter that is no tensor)")
    return data


def _resolve(loaded: Any) -> Any:
    """Every tensor in nested containers as an array; a container met twice is resolved once."""
    done: dict[int, Any] = {}

    def visit(x, depth):
        if isinstance(x, LazyTensor):
            return x.array()
        if not isinstance(x, dict | list | tuple):
            return x
        if depth > 100:
            raise ValueError("containers nested deeper than 100")
        if id(x) not in done:
            if isinstance(x, dict):
                done[id(x)] = type(x)((k, visit(v, depth + 1)) for k, v in x.items())
            else:
                done[id(x)] = type(x)([visit(v, depth + 1) for v in x])
        return done[id(x)]

    return visit(loaded, 0)


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.split("/", 1)[-1] == "data.pkl"]
        if len(names) != 1:
            raise ValueError("no data.pkl in the archive")
        prefix = names[0].removesuffix("data.pkl")
        order = "little"
        if f"{prefix}byteorder" in archive.namelist():
            order = archive.read(f"{prefix}byteorder").decode()
        storages: dict[str, Storage] = {}

        def load_persistent(identifier):
            dtype, key, numel, _ = _storage_id(identifier)
            if key not in storages:
                info = archive.getinfo(f"{prefix}data/{key}")
                if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                    raise ValueError(f"storage {key} is compressed")
                storages[key] = Storage(dtype, numel)
                storages[key].data = _flat(archive.read(info), dtype, numel, order)
            return storages[key]

        script = is_script(archive, prefix)
        builders = ScriptNames(_builders()) if script else _builders()
        with archive.open(names[0]) as pickle:
            loaded = read_pickle(pickle, builders, load_persistent)
        return state_dict(loaded, archive, prefix) if script else loaded


def _read_legacy(file: BinaryIO) -> Any:
    if file.read(262)[257:] == b"ustar":
        raise _OldTar
    file.seek(0)
    try:
        magic = read_pickle(file, {})
    except (ValueError, RefusedGlobal):
        magic = None
    if magic != LEGACY_MAGIC or read_pickle(file, {}) != LEGACY_PROTOCOL:
        raise ValueError("it has no magic number")
    order = "little" if read_pickle(file, {}).get("little_endian", True) else "big"
    storages: dict[str, Storage] = {}
    views: list[tuple[Storage, Storage, int]] = []

    def load_persistent(identifier):
        dtype, key, numel, view = _storage_id(identifier)
        root = storages.setdefault(key, Storage(dtype, numel))
        if view is None:
            return root
        _, offset, size = view
        part = Storage(dtype, size)
        if not isinstance(offset, int) or not 0 <= offset <= numel - size:
            raise ValueError(f"a view of {size} elements at {offset} of {numel}")
        views.append((part, root, offset))
        return part

    loaded = read_pickle(file, _builders(), load_persistent)
    for key in read_pickle(file, {}):
        storage = storages[key]
        count = int.from_bytes(file.read(8), order)
        if count != storage.numel:
            raise ValueError(f"storage {key} has {count} elements, the pickle says {storage.numel}")
        length = count * storage.dtype.itemsize
        if length > os.fstat(file.fileno()).st_size:
            raise ValueError(f"storage {key} is longer than the file")
        data = file.read(length)
        storage.data = _flat(data, storage.dtype, count, order)
    for part, root, offset in views:
        part.data = None if root.data is None else root.data[offset : offset + part.numel]
    return loaded


def _storage_id(identifier) -> tuple[np.dtype, str, int, Any]:
    if not isinstance(identifier, tuple) or len(identifier) < 5 or identifier[0] != "storage":
        raise ValueError(f"a persistent id that is no storage: {str(identifier)[:80]}")
    _, kind, key, _, numel, *rest = identifier
    if not isinstance(kind, StorageType) or not isinstance(key, str):
        raise ValueError("damaged pickle (a storage without type or key)")
    return kind.dtype, key, numel, rest[0] if rest else None


def _flat(data: bytes, dtype: np.dtype, numel: int, order: str) -> np.ndarray:
    if len(data) != numel * dtype.itemsize:
        raise ValueError(f"a storage of {len(data)} bytes where {numel} {dtype} belong")
    array = np.frombuffer(data, dtype)
    return array.byteswap() if order == "big" else array
