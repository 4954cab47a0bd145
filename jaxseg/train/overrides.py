"""Dotted overrides: `model.decoder.num_layers=3 optimizer.learning_rate=2e-4 data.val=none`.

A name leads through the fields of dataclasses, Linen modules among them; a value is read as its
field's type says. `dtype` of a module is that of all its parts too.
"""

import ast
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.errors import UserError

T = TypeVar("T")


def apply_overrides(config: T, overrides: Sequence[str]) -> T:
    """The config with each "name=value" put in its place; later ones win.

    Raises:
      UserError: no such name (those there are are listed), a value of the wrong type, or one that
        another setting makes void.
    """
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name:
            raise UserError(
                f"overrides look like name=value, for example epochs=50; got {override!r}"
            )
        config = _replace(config, name.split("."), text, ())
    names = {override.partition("=")[0] for override in overrides}
    if "epochs" in names and getattr(config, "steps", None) is not None:
        raise UserError(
            f"epochs would be void: the run has steps={config.steps}; add steps=none to count in "
            "epochs, or leave epochs out"
        )
    return config


def settings(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every dotted name and its value, parts that are dataclasses taken apart."""
    found = {}
    for field in _fields(config):
        value = getattr(config, field)
        if _fields(value):
            found |= settings(value, f"{prefix}{field}.")
        else:
            found[prefix + field] = value
    return found


def _fields(value: Any) -> list[str]:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return []
    hidden = ("parent", "name") if isinstance(value, nn.Module) else ()
    return [f.name for f in dataclasses.fields(value) if f.init and f.name not in hidden]


def _replace(config: Any, path: list[str], text: str, parents: tuple[str, ...]) -> Any:
    field, *rest = path
    if field not in _fields(config):
        _raise_unknown(config, field, parents)
    old, name = getattr(config, field), ".".join((*parents, field))
    if rest:
        return _with(config, field, _replace(old, rest, text, (*parents, field)), name)
    kind = typing.get_type_hints(type(config)).get(field, Any)
    optional = type(None) in typing.get_args(kind)
    if _fields(old) and not (optional and _literal(text) is None):
        names = ", ".join(f"{name}.{part}" for part in _fields(old))
        leave = ", or set it to none" if optional else ""
        raise UserError(f"{name} has parts: override one of {names}{leave}")
    if field in ("dtype", "param_dtype"):
        return with_dtype(config, field, _parse_dtype(text, name))
    value = parse(text, kind, name)
    return _with(config, field, value, name)


def _with(config: Any, field: str, value: Any, name: str) -> Any:
    try:
        return dataclasses.replace(config, **{field: value})
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} cannot be {value!r}: {error}") from error


def with_dtype(config: Any, field: str, dtype) -> Any:
    """The config or module with "dtype" or "param_dtype" set in it and in all its modules."""
    changed = {
        name: with_dtype(getattr(config, name), field, dtype)
        for name in _fields(config)
        if isinstance(getattr(config, name), nn.Module)
    }
    if field in _fields(config):
        changed[field] = dtype
    return dataclasses.replace(config, **changed)


def _raise_unknown(config: Any, field: str, parents: tuple[str, ...]) -> None:
    name, where = ".".join((*parents, field)), ".".join(parents) or "a config"
    names = _fields(config)
    if not names:
        raise UserError(f"unknown override {name!r}: {where} is {config!r} and has no parts")
    # A setting of a part, written without the part's name, is meant more surely than a like name.
    deeper = [inner for inner in settings(config) if inner.endswith(f".{field}")]
    close = sorted(deeper, key=lambda inner: inner.count("."))[:1]
    close = close or difflib.get_close_matches(field, names, 1)
    hint = f" (did you mean {'.'.join([*parents, close[0]])}?)" if close else ""
    raise UserError(f"unknown override {name!r}{hint}: {where} has {', '.join(sorted(names))}")


def parse(text: str, kind: Any, name: str) -> Any:
    """Read the text as a value of a type: plain ones, Literal, X | None, tuples, sequences.

    Raises:
      UserError: it is not one.
    """
    try:
        return _convert(_literal(text), text, kind)
    except ValueError:
        raise UserError(f"{name} must be {_describe(kind)}; got {text!r}") from None


def _literal(text: str) -> Any:
    words = {"none": None, "null": None, "true": True, "false": False}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text


def _convert(value: Any, text: str | None, kind: Any) -> Any:
    """`value` as a `kind`; `text` is how it was written, for strings that look like numbers."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _first(value, text, arguments)
    if origin is typing.Literal:
        return _require(value if text is None else text, arguments.__contains__)
    if kind is type(None):
        return _require(value, lambda v: v is None)
    if kind is bool:
        return _require(value, lambda v: isinstance(v, bool))
    if kind in (int, float):
        return _number(value, kind)
    if kind is str:
        return _require(value if text is None else text, lambda v: isinstance(v, str))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        _require(value, lambda v: isinstance(v, dict))
        key, item = arguments
        return {_convert(k, None, key): _convert(v, None, item) for k, v in value.items()}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return _sequence(value, arguments, is_tuple=origin is tuple)
    raise ValueError(value)  # a callable, an array: nothing that can be written in a shell


def _first(value: Any, text: str | None, kinds: Sequence) -> Any:
    # None before str, or "none" would be a file of that name.
    for kind in sorted(kinds, key=lambda kind: kind is str):
        try:
            return _convert(value, text, kind)
        except ValueError:
            continue
    raise ValueError(value)


def _number(value: Any, kind: type) -> int | float:
    _require(value, lambda v: isinstance(v, int | float) and not isinstance(v, bool))
    _require(value, math.isfinite)
    if kind is int:
        _require(value, lambda v: v == int(v))
    return kind(value)


def _sequence(value: Any, arguments: tuple, is_tuple: bool) -> tuple:
    _require(value, lambda v: isinstance(v, tuple | list))
    if not is_tuple or arguments[-1] is Ellipsis:
        return tuple(_convert(item, None, arguments[0]) for item in value)
    _require(value, lambda v: len(v) == len(arguments))
    return tuple(_convert(item, None, kind) for item, kind in zip(value, arguments, strict=True))


def _require(value: T, condition: typing.Callable[[T], bool]) -> T:
    if not condition(value):
        raise ValueError(value)
    return value


def _parse_dtype(text: str, name: str):
    allowed = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
    if text not in allowed:
        raise UserError(f"{name} must be one of {', '.join(allowed)}; got {text!r}")
    return allowed[text]


def _describe(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if kind in plain or kind is type(None):
        return plain.get(kind, "none")
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list such as {_example(kind)}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"names and values such as {{{_example(arguments[0])}: {_example(arguments[1])}}}"
    return "set in the config file (it cannot be written on a command line)"


def _example(kind: Any) -> str:
    """A value as it would be written; lists have one entry."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and Ellipsis not in arguments:
        return f"({', '.join(_example(argument) for argument in arguments)})"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"[{_example(arguments[0])}]"
    plain = {int: "64", float: "0.1", bool: "True", str: '"PATTERN"'}
    return plain.get(kind, getattr(kind, "__name__", str(kind)))
