"""The name of the command line where the user stands."""

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
