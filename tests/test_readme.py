"""The commands that the README prints work as they stand."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from jaxseg import cli

ROOT = Path(__file__).parents[1]


def printed() -> list[str]:
    """The README's indented lines, joined where a backslash ends them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


COMMANDS = [line for line in printed() if line.startswith("jaxseg ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_jaxseg_takes(command, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    assert cli._parse(shlex.split(command)[1:]).run


def test_every_command_that_does_something_with_data_is_shown():
    shown = {command.split()[1] for command in COMMANDS}
    assert shown >= {"convert", "verify", "predict", "doctor", "data", "train", "eval"}


def test_the_environment_is_active_before_its_commands_are_called():
    lines = printed()
    assert lines.index(". .venv/bin/activate") < min(lines.index(c) for c in COMMANDS)
    assert not [line for line in lines if line.startswith(".venv/")]


def test_what_a_command_needs_is_installed_by_then():
    """Of the extras, the one command that the README installs first holds `train` alone."""
    assert next(line for line in printed() if "install" in line).endswith("'.[train]'")
    # torch writes .pth.
    assert not [c for c in COMMANDS if "--to official" in c and ".pth" in c]


def test_the_extras_and_targets_that_it_names_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {x for found in re.findall(r"\.\[([\w,]+)\]", text) for x in found.split(",")}
    assert named <= set(project["optional-dependencies"])
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"^    make (\w+)$", text, re.M)) <= set(targets)
