"""A list of data sets, each judged by the names of its classes, as ODinW's are.

    [{"name": "Aquarium", "data": "odinw/Aquarium/test",
      "names": {"penguin": "penguin which is black and white"}},
     {"name": "Pistols", "data": "odinw/pistols/export/val.json"}]

"data" is whatever `jaxseg.data.open_dataset` opens, a path being relative to the working folder;
"names" says what to ask for instead of the names of some classes.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxseg.errors import UserError

FORM = '[{"name": "...", "data": "...", "names": {"class": "what to ask for"}}, ...]'
FIELDS = {"name", "data", "names"}


class Listed(NamedTuple):
    """A data set of a list; see the module."""

    name: str
    data: str
    names: dict[str, str]


def read_list(path: str | Path) -> list[Listed]:
    """The data sets of a list.

    Raises:
      UserError: no such file, or it is no such list.
    """
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the list of data sets {path} cannot be read ({error}): {FORM}") from None
    if not isinstance(content, list) or not content:
        raise UserError(f"{path} is no list of data sets: {FORM}")
    sets = [_listed(entry, path) for entry in content]
    names = [one.name for one in sets]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path} has two data sets of the name {twice[0]!r}: name them apart")
    return sets


def _listed(entry: Any, path: str | Path) -> Listed:
    fits = isinstance(entry, dict) and {"name", "data"} <= set(entry) <= FIELDS
    if fits:
        names = entry.get("names") or {}
        words = [entry["name"], entry["data"], *(names.values() if isinstance(names, dict) else ())]
        fits = isinstance(names, dict) and all(isinstance(x, str) and x.strip() for x in words)
    if not fits:
        raise UserError(f"{path} has the entry {json.dumps(entry)[:200]}: each is as in {FORM}")
    return Listed(entry["name"], entry["data"], names)


def judge_list(
    sets: Sequence[Listed],
    judge: Callable[[Listed], dict],
    done: Mapping[str, dict],
    save: Callable[[dict], None],
    say: Callable[[str], None],
) -> dict[str, dict]:
    """Judge the data sets one after the other.

    Args:
      judge: a data set to its result, {"metrics": {"AP": ...}, ...}.
      done: results of an earlier run, taken where data and names are the same.
      save: called with all results after each data set.
      say: called with a line for each.

    Returns:
      By name, in order of the list.
    """
    results: dict[str, dict] = {}
    for number, one in enumerate(sets, 1):
        stamp = {"data": one.data, "names": one.names}
        old = done.get(one.name)
        if old is not None and {key: old.get(key) for key in stamp} == stamp:
            results[one.name] = old
        else:
            results[one.name] = stamp | judge(one)
            save(results)
        again = " (done before)" if results[one.name] is old else ""
        say(f"{number} of {len(sets)}: {one.name}, AP {_figure(results[one.name])}{again}")
    return results


def summary(results: Mapping[str, dict]) -> dict[str, float | None]:
    """Average and median AP of the data sets; those without objects have none."""
    known = [r["metrics"]["AP"] for r in results.values() if r["metrics"]["AP"] is not None]
    if not known:
        return {"average": None, "median": None}
    return {"average": statistics.fmean(known), "median": statistics.median(known)}


def render(results: Mapping[str, dict]) -> str:
    """A line for each data set, then average and median."""
    rows = [(name, _figure(result), str(result["images"])) for name, result in results.items()]
    for name, value in summary(results).items():
        rows.append((name, "-" if value is None else f"{value:.3f}", ""))
    rows.insert(0, ("data set", "AP", "images"))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        f"{name:<{widths[0]}}  {ap:>{widths[1]}}  {images:>{widths[2]}}".rstrip()
        for name, ap, images in rows
    )


def _figure(result: Mapping) -> str:
    value = result["metrics"]["AP"]
    return "-" if value is None else f"{value:.3f}"
