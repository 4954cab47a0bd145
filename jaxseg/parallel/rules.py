"""One mechanism for every decision about a parameter: a table of regular expressions.

A table is a sequence of (pattern, value). A pattern is searched for in a parameter's flat path,
such as "encoder/layer_0/self_attn/q_proj/kernel"; the first pattern found decides, and anchors
(`^`, `$`) are the table's own affair. Learning rates, decay, freezing, sharding and loading are
all tables, so the order of lines and the errors are learnt once:

    >>> lookup((("^backbone/conv1", 0.0), ("^backbone", 0.1)), paths, default=1.0)
    {"backbone/conv1/kernel": 0.0, "backbone/layer4_0/conv1/kernel": 0.1, "query_embed/...": 1.0}
"""

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from jax.sharding import Mesh, PartitionSpec

from jaxseg.errors import UserError

T = TypeVar("T")
Table = Sequence[tuple[str, T]]
P = PartitionSpec

# Megatron's layout (arXiv 1909.08053, section 3): the first matrix of a pair is split by its
# columns and the second by its rows over "tensor"; what remains is split over "fsdp".
# One regular expression for all models: a line that matches nothing in a model is an error.
FIRST = r"(/(q|k|v|l|value|values_[vl])_proj|/[sc]a_\w+_proj|/linear1|/reduction)"
TRANSFORMER: Table[PartitionSpec] = (
    (rf"{FIRST}/kernel$", P("fsdp", "tensor")),
    (rf"{FIRST}/bias$", P("tensor")),
    (r"(out_proj|out_[vl]_proj|output_proj|/linear2)/kernel$", P("tensor", "fsdp")),
)
DETR: Table[PartitionSpec] = (
    *TRANSFORMER,
    (r"^(backbone|neck|mask_head)/.*/kernel$", P(None, None, None, "fsdp")),
    (r"/(kernel|embedding)$", P(None, "fsdp")),
    (r"", P()),
)


def lookup(
    table: Table[T], paths: Iterable[str], *, default: T | None = None, what: str = "parameters"
) -> dict[str, T | None]:
    """The table's value for each path; `default` where no pattern is found.

    Args:
      table: (pattern, value) pairs, the first match wins.
      what: what the table decides, for the errors.

    Raises:
      UserError: a pattern is not a regular expression, is found in no path, or could never
        decide because earlier lines take every path it is found in.
    """
    paths = list(paths)
    compiled = [(_compile(pattern, what), value) for pattern, value in table]
    found, decided = set(), set()
    values = {}
    for path in paths:
        hits = [i for i, (pattern, _) in enumerate(compiled) if pattern.search(path)]
        found.update(hits)
        decided.update(hits[:1])
        values[path] = compiled[hits[0]][1] if hits else default
    for i, (pattern, _) in enumerate(compiled):
        if i not in decided:
            _raise_idle(pattern.pattern, i in found, paths, what)
    return values


def _compile(pattern: str, what: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"the table of {what} holds {pattern!r}, which is not a regular expression: {error}"
        ) from error


def _raise_idle(pattern: str, found: bool, paths: list[str], what: str) -> None:
    if found:
        raise UserError(
            f"the pattern {pattern!r} in the table of {what} never decides: earlier lines take "
            "every path it is found in. Move it up or remove it"
        )
    tops = sorted({path.split("/")[0] for path in paths})
    raise UserError(
        f"the pattern {pattern!r} in the table of {what} matches no parameter. Paths look like "
        f"{paths[0] if paths else '(none)'!r} and start with {', '.join(tops)}: correct the "
        "pattern or remove it"
    )


def fit(spec: PartitionSpec, shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """The spec without the axes that do not divide their dimension.

    A class head of 92 rows over 8 devices stays whole: that costs a little memory and changes
    no result, while an uneven split is refused by XLA.
    """
    kept = []
    for size, axes in zip(shape, spec, strict=False):
        names = (axes,) if isinstance(axes, str) else tuple(axes or ())
        parts = 1
        for name in names:
            parts *= mesh.shape[name]
        kept.append(axes if size % parts == 0 else None)
    return PartitionSpec(*kept)
