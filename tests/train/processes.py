"""Processes of their own for runs that are killed, for several devices, for several hosts."""

import os
import subprocess
import sys
from pathlib import Path

from tests.quick import QUICK_FLAGS

ROOT = Path(__file__).parents[2]


def start(module, *arguments, devices=1, session=False):
    """Start `python -m module` on so many simulated devices, in a group of processes of its own
    for `session=True`."""
    flags = f"{QUICK_FLAGS} --xla_force_host_platform_device_count={devices}"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=session,
    )


def start_worker(*arguments, devices=1):
    """Start a run of `tests.train.worker`."""
    return start("tests.train.worker", *arguments, devices=devices)
