"""The folder of native weights: `model.safetensors`, `config.json` and `probe.json`.

`config.json` names a builder of `jaxseg.models.MODELS` and its keyword arguments, never code,
and holds the SHA-256 of the weights. A folder appears whole or not at all.
"""

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxseg.errors import UserError
from jaxseg.models import MODELS, build
from jaxseg.text.vocabulary import NAMES as VOCABULARIES

WEIGHTS, CONFIG, PROBE = "model.safetensors", "config.json", "probe.json"
FORMAT = 1
# Builder arguments that a model divides by or shapes its arrays with.
COUNTS = ("width", "num_heads", "feedforward", "num_queries", "stem")


class Kind(NamedTuple):
    """Of folders that this package writes, and so may replace.

    Attributes:
      called: what is in them, for messages.
      is_part: whether a file of that name belongs to one.
      is_one: whether a folder is one.
    """

    called: str
    is_part: Callable[[str], bool]
    is_one: Callable[[Path], bool]


def write_folder(
    directory: str | os.PathLike,
    write: Callable[[Path], None],
    *,
    replace: bool = True,
    kind: Kind | None = None,
) -> None:
    """Let `write` fill a folder beside `directory`, then put it in its place.

    Args:
      replace: a folder of the same kind gives way; otherwise only an empty one does.
      kind: None is native weights.

    Raises:
      UserError: `directory` holds anything else, which would be lost, or cannot be written.
    """
    directory = Path(directory).absolute()
    check_replaceable(directory, replace=replace, kind=kind)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise _unwritable(directory, error) from error
    try:
        new, old = partial / "new", partial / "old"
        new.mkdir()
        write(new)
        _swap(new, directory, old, replace)
    except (OSError, SafetensorError) as error:
        raise _unwritable(directory, error) from error
    finally:
        # What could not be moved back is all that is left of the old weights.
        shutil.rmtree(partial if not old.exists() or directory.exists() else new, True)


def _unwritable(directory: Path, error: Exception) -> UserError:
    return UserError(f"cannot write {directory}: {getattr(error, 'strerror', None) or error}")


def _swap(new: Path, directory: Path, old: Path, replace: bool) -> None:
    try:
        if replace and directory.exists():
            os.replace(directory, old)
        os.replace(new, directory)
    except OSError as error:
        if old.exists() and not directory.exists():
            os.replace(old, directory)
        raise UserError(
            f"cannot put what was made at {directory}: {error.strerror or error}; what was there "
            "is as it was"
        ) from error


def check_replaceable(directory: Path, *, replace: bool = True, kind: Kind | None = None) -> None:
    """Refuse a folder that `write_folder` would refuse.

    Raises:
      UserError: it holds what would be lost, or is a file.
    """
    kind = kind or NATIVE
    if not directory.is_dir():
        if directory.exists():
            raise UserError(f"{directory} is a file; {kind.called} are saved in a folder")
        return
    names = {entry.name for entry in directory.iterdir()}
    if others := sorted(name for name in names if not kind.is_part(name)):
        raise UserError(
            f"{directory} is not empty and holds other files ({', '.join(others[:5])}); "
            "move them away, or choose another folder"
        )
    if names and not (replace and kind.is_one(directory)):
        only = f"only {kind.called} are" if replace else "only an empty folder is"
        raise UserError(
            f"{directory} holds {', '.join(sorted(names))}, which would be lost ({only} "
            "replaced); choose another folder, or remove this one first"
        )


def is_native(directory: Path) -> bool:
    """Whether a folder has a `config.json` of ours."""
    path = directory / CONFIG
    config = read_json(path) if path.is_file() else None
    return isinstance(config, dict) and config.get("format") == "jaxseg"


PARTS = (WEIGHTS, CONFIG, PROBE, "preprocessor_config.json", *VOCABULARIES)
NATIVE = Kind("jaxseg's native weights", PARTS.__contains__, is_native)


def beneath(folder: Path) -> str:
    """For a message: the weights that a run's folder, taken for them, holds."""
    inside = [str(folder / name) for name in ("best", "last") if is_native(folder / name)]
    return f" (it is a run's folder: its weights are {' and '.join(inside)})" if inside else ""


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON in UTF-8's own letters."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Raises `UserError` naming the file if it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def write_weights(path: Path, flat: Mapping[str, Any]) -> str:
    """Write arrays by flat path; returns the file's SHA-256."""
    arrays = {name: np.asarray(value, order="C") for name, value in sorted(flat.items())}
    save_tensors(arrays, path, "jaxseg")
    return sha256(path)


def save_tensors(arrays: Mapping[str, np.ndarray], path: Path, form: str) -> None:
    """Write a safetensors file that may be read by whom other new files may be read."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file(dict(arrays), path, metadata={"format": form})
    path.chmod(mode)  # safetensors makes a file for its owner alone


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Arrays by flat path.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot read {path}, or it is damaged ({error}); copy or save it again"
        ) from error


def sha256(path: Path) -> str:
    """The digest of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_native_config(directory: Path) -> dict[str, Any]:
    """A checked `config.json`.

    Raises:
      UserError: not a native folder, a newer format, or a model that does not exist.
    """
    config = read_json(directory / CONFIG)
    if not isinstance(config, dict) or config.get("format") != "jaxseg":
        raise UserError(f"{directory / CONFIG} does not describe weights of jaxseg")
    if config.get("version") != FORMAT:
        raise UserError(
            f"{directory} has format {config.get('version')}, this jaxseg reads {FORMAT}; "
            "install the jaxseg that wrote it"
        )
    if str(config.get("model")) not in MODELS or not isinstance(config.get("kwargs"), dict):
        raise UserError(
            f"{directory / CONFIG} names the model {config.get('model')!r}; "
            f"there are {', '.join(sorted(MODELS))}"
        )
    return config


def build_model(name: str, kwargs: Mapping[str, Any], source: str):
    """`models.build` with errors that name where the arguments came from."""
    for argument in COUNTS:
        value = kwargs.get(argument, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(
                f"{source}: {argument} of {name} must be a whole number above 0; got {value!r}"
            )
    try:
        return build(name, **decode_kwargs(kwargs))
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: cannot build {name} with {dict(kwargs)}: {error}") from error


def encode_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Builder arguments as JSON: dtypes by name.

    Raises:
      UserError: an argument that is neither a dtype nor plain data.
    """
    encoded = {
        name: jnp.dtype(value).name if name.endswith("dtype") else value
        for name, value in kwargs.items()
    }
    try:
        return json.loads(json.dumps(encoded))
    except TypeError as error:
        raise UserError(f"builder arguments must be plain data to be saved: {error}") from error


def decode_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `encode_kwargs`."""
    return {
        name: jnp.dtype(value) if name.endswith("dtype") else value
        for name, value in kwargs.items()
    }
