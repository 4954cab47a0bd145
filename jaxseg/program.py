"""How the user calls and installs the package from where they stand."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def program() -> str:
    """How to call `jaxseg` from where the user stands: its name, if the shell would find it."""
    own = Path(sys.executable).with_name("jaxseg")
    found = shutil.which("jaxseg")
    if found and Path(found).resolve() == own.resolve():
        return "jaxseg"
    folder = os.path.join(os.getcwd(), "")
    if own.exists():
        return shlex.quote(str(own).removeprefix(folder))
    return f"{shlex.quote(sys.executable.removeprefix(folder))} -m jaxseg"


def install_line(extra: str) -> str:
    """The pip line for one of the package's extras: of the checkout, if it runs from one."""
    root = Path(__file__).parents[1]
    if not (root / "pyproject.toml").is_file():
        return f"pip install 'jaxseg[{extra}]'"
    place = "." if root == Path.cwd() else str(root)
    return f"pip install -e {shlex.quote(f'{place}[{extra}]')}"
