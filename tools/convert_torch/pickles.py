"""Read a pickle as data: an interpreter of the opcodes that checkpoints use, which calls nothing.

The standard unpickler imports what a file names and calls it. This one only looks names up in a
table that the caller gives; a name outside it ends the reading with `RefusedGlobal`, an opcode
outside its own table with `ValueError`.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

MARK = object()
SCALARS = (str, int, float, bool, bytes, type(None))


class RefusedGlobal(Exception):
    """The pickle names something that is not on the allow-list; the message is that name."""


class Record(dict):
    """What an object's attributes become: a plain dictionary that no code stands behind."""

    def restore(self, state: Any) -> None:
        """Take the attributes; other states (of numbers, of arrays) are of no use here."""
        if isinstance(state, dict):
            self.update(state)


def read_pickle(
    file: BinaryIO,
    builders: Mapping[str, Callable],
    load_persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle and leave `file` just behind it.

    Args:
      builders: from "module name" to what stands for calling it. Values are also what the name
        itself evaluates to where the pickle does not call it.
      load_persistent: resolves persistent ids.

    Raises:
      RefusedGlobal: the pickle names something that is not in `builders`.
      ValueError: no pickle, a damaged one, or one that does more than describe data.
    """
    machine = _Machine(builders, load_persistent)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except (RefusedGlobal, ValueError):
        raise
    except (
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
        RecursionError,
        AttributeError,
    ) as error:
        raise ValueError(f"damaged pickle ({type(error).__name__}: {error})") from error
    raise ValueError("the pickle does not end")


class _Machine:
    def __init__(self, builders, load_persistent):
        self.builders, self.load_persistent = builders, load_persistent
        self.stack: list = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument) -> None:
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"the pickle uses {name}, which no checkpoint of tensors needs")

    def since_mark(self) -> list:
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is MARK:
                items = self.stack[i + 1 :]
                del self.stack[i:]
                return items
        raise ValueError("damaged pickle (no mark)")

    def last(self, count: int) -> list:
        items = self.stack[-count:]
        if len(items) < count or any(item is MARK for item in items):
            raise ValueError("damaged pickle (stack too short)")
        del self.stack[-count:]
        return items

    def name_global(self, module: str, name: str) -> None:
        known = f"{module} {name}"
        if known not in self.builders:
            raise RefusedGlobal(f"{module}.{name}")
        self.stack.append(self.builders[known])

    def call(self) -> None:
        function, arguments = self.last(2)
        if not callable(function) or not isinstance(arguments, tuple):
            raise ValueError("damaged pickle (calls something that cannot be called)")
        self.stack.append(function(*arguments))

    def set_items(self, target, items: list) -> None:
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("damaged pickle (items for something that is no dictionary)")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a deeply nested tuple overflows the interpreter's own stack.
            if not isinstance(key, SCALARS) and not _flat_tuple(key):
                raise ValueError(f"a dictionary key of type {type(key).__name__}")
            target[key] = value

    def append(self, target, items: list) -> None:
        if not isinstance(target, list):
            raise ValueError("damaged pickle (items for something that is no list)")
        target.extend(items)

    def build(self) -> None:
        target, state = self.last(2)
        if isinstance(target, Record):
            target.restore(state)
        # Other containers' attributes (a state dict's `_metadata`) are of no use here.
        self.stack.append(target)


def _flat_tuple(key) -> bool:
    return isinstance(key, tuple) and all(isinstance(item, SCALARS) for item in key)


def _set_items(machine, argument):
    items = machine.since_mark()
    machine.set_items(machine.stack[-1], items)


def _set_item(machine, argument):
    items = machine.last(2)
    machine.set_items(machine.stack[-1], items)


def _appends(machine, argument):
    items = machine.since_mark()
    machine.append(machine.stack[-1], items)


def _append(machine, argument):
    items = machine.last(1)
    machine.append(machine.stack[-1], items)


def _dictionary(machine, argument):
    items = machine.since_mark()
    machine.stack.append({})
    machine.set_items(machine.stack[-1], items)


def _persistent(machine, argument):
    (identifier,) = machine.last(1)
    if machine.load_persistent is None:
        raise ValueError("a persistent id where none belongs")
    machine.stack.append(machine.load_persistent(identifier))


def _stack_global(machine, argument):
    module, name = machine.last(2)
    machine.name_global(module, name)


def _put(machine, argument):
    machine.memo[argument] = machine.stack[-1]


_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": list,  # its items may be containers, which cannot be hashed
    "MARK": lambda: MARK,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "GET": lambda m, i: m.stack.append(m.memo[i]),
    "BINGET": lambda m, i: m.stack.append(m.memo[i]),
    "LONG_BINGET": lambda m, i: m.stack.append(m.memo[i]),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.last(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.last(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.last(3))),
    "LIST": lambda m, _: m.stack.append(m.since_mark()),
    "DICT": _dictionary,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "APPEND": _append,
    "APPENDS": _appends,
    "ADDITEMS": _appends,
    "FROZENSET": lambda m, _: m.stack.append(tuple(m.since_mark())),
    "GLOBAL": lambda m, names: m.name_global(*names.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": _persistent,
}
