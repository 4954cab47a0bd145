"""The layers of the house: a room imports only from rooms above it."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the roof down, as in the design.
LAYERS = (
    ("cache", "errors", "program", "typing"),
    ("exported",),
    ("structures",),
    ("params",),
    ("ops",),
    ("kernels",),
    ("nn",),
    ("backbones",),
    ("necks",),
    ("text",),
    ("models",),
    ("losses",),
    ("parallel",),
    ("data",),
    ("hub",),
    ("vocabularies",),
    ("native",),
    ("pretrained",),
    ("probe",),
    ("checkpoints",),
    ("convert_command", "verify_command", "models_command"),
    ("predict",),
    ("export",),
    ("eval",),
    ("train",),
    ("annotate",),
    ("cli",),
    ("demo_command",),
    ("__main__",),
)
RANK = {room: rank for rank, row in enumerate(LAYERS) for room in row}
# Both are built of the package: who reaches back for them does so lazily.
LAZY = {
    "jaxseg_configs": {"train"},
    "jaxseg_convert_torch": {"checkpoints", "convert_command", "verify_command"},
}


def modules() -> list[Path]:
    return sorted((ROOT / "jaxseg").rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "jaxseg").parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    """Dotted names of everything imported anywhere in a module, lazily or for types too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            # `from jaxseg import ops` imports the room, `from jaxseg.ops import boxes` a module.
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


def violations(path: Path, tree: ast.AST) -> Iterator[str]:
    room = room_of(path)
    for name, node in imports(tree):
        package, _, rest = name.partition(".")
        where = f"{path.relative_to(ROOT)}:{node.lineno}"
        if package in ("configs", "tools"):
            yield f"{where} imports {name}: its installed name is jaxseg_{name}"
        if package in LAZY:
            if room not in LAZY[package]:
                yield f"{where} imports {package}: {sorted(LAZY[package])} alone may"
            elif node in tree.body:
                yield f"{where} imports {package} at the top: reach for it lazily"
        above = rest.split(".")[0]
        if package != "jaxseg" or room == "__init__" or above.startswith("__"):
            continue
        if RANK[above] > RANK[room] or (above != room and RANK[above] == RANK[room]):
            yield f"{where} ({room}) imports {name}, which lies below it"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_from_rooms_above_it(path):
    assert not list(violations(path, ast.parse(path.read_text(encoding="utf-8"))))


def test_every_room_has_its_place_in_the_layers():
    unknown = {room_of(path) for path in modules()} - set(RANK) - {"__init__"}
    assert not unknown, f"say in LAYERS where {sorted(unknown)} stand"


def test_an_import_from_below_is_seen():
    path = ROOT / "jaxseg" / "ops" / "boxes.py"
    lazy = ast.parse("def f():\n    from jaxseg.train import loop\n    import tools")
    assert len(list(violations(path, lazy))) == 2
    assert not list(violations(path, ast.parse("from jaxseg.typing import Array")))


def test_every_package_is_installed():
    with (ROOT / "pyproject.toml").open("rb") as file:
        setup = tomllib.load(file)["tool"]["setuptools"]
    there = {
        ".".join((name, *path.parent.relative_to(ROOT / folder).parts))
        for name, folder in setup["package-dir"].items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(setup["packages"]) == there
