"""What a program that is compiled for a TPU moves between the chip and its HBM.

The compiler's own figure takes the body of a loop once, and counts what stays in VMEM.
"""

import re
from math import prod

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
INSTRUCTION = re.compile(
    r"\s+(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<type>.+?) (?P<op>[\w-]+)\((?P<rest>.*)"
)
# A type, its order of axes, its tiles, and S(1) where it lies in VMEM.
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]\{([\d,]*)(?::T\(([\d,]+)\))?([^}]*)\}")
FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "after-all",
    "copy-done", "slice-done", "partition-id",
}  # fmt: skip


def moved(program: str, trips: int) -> int:
    """Bytes at most, padding of tiles included; every loop goes round `trips` times."""
    total = 0
    bodies = set(re.findall(r"body=%?([\w.-]+)", program))
    for name, lines in _computations(program):
        if name == "ENTRY" or name in bodies:
            total += (1 if name == "ENTRY" else trips) * _of(lines)
    return total


def _computations(program: str):
    """Name and lines of every computation."""
    name, lines = None, []
    for line in program.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            first = line.split()[0]
            name, lines = first if first == "ENTRY" else first.lstrip("%"), []
        elif line.startswith("}") and name:
            yield name, lines
            name = None
        elif name:
            lines.append(line)


def _of(lines: list[str]) -> int:
    types, total = {}, 0
    for line in lines:
        found = INSTRUCTION.match(line)
        if not found:
            continue
        name, kind, op = found["name"], found["type"], found["op"]
        types[name] = kind
        if op in FREE:
            continue
        operands = re.findall(r"%([\w.-]+)", found["rest"].split("), ")[0])
        read = [_in_hbm(types.get(operand, "")) for operand in operands]
        arrays = ARRAY.findall(kind)
        if op == "slice-start":  # source and slice
            arrays = arrays[1:2]
            read = [_size((*arrays[0][:4], ""))]
        elif op == "copy-start":  # copy and source
            arrays = arrays[:1]
        written = sum(map(_size, arrays))
        if "dynamic-update-slice" in name:  # in place: what is put in is read and written
            read = sorted(read)[:-1]
            written = sum(read)
        total += sum(read) + written
    return total


def _in_hbm(kind: str) -> int:
    return sum(map(_size, ARRAY.findall(kind)))


def _size(array) -> int:
    """Bytes of an array, 0 if it does not lie in HBM."""
    dtype, shape, order, tile, rest = array
    if "S(" in rest or dtype not in BYTES:
        return 0
    shape = [int(n) for n in shape.split(",") if n]
    order = [int(n) for n in order.split(",") if n]
    if tile:
        # Tiles cover the axes that vary fastest.
        for axis, length in zip(order, map(int, reversed(tile.split(","))), strict=False):
            shape[axis] = -(-shape[axis] // length) * length
    return BYTES[dtype] * prod(shape)
