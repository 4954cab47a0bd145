import json
import os
import subprocess
import sys

import numpy as np
import pytest

LAST = 100  # steps of which the loss is the mean


def final_loss(workdir, *changes):
    """What the small DINO on shapes reaches by its own recipe, compiled as users compile."""
    command = [sys.executable, "-m", "jaxseg", "train", "dino/synthetic", "--workdir", workdir]
    settings = ("data.val=none", "log_every=1", *changes)
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    subprocess.run([*command, *settings], env=env, check=True, capture_output=True)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 1050
    return np.mean(losses[-LAST:]), np.mean(losses[:LAST])


@pytest.mark.slow
def test_bfloat16_reaches_the_loss_of_float32(tmp_path):
    wanted, began = final_loss(tmp_path / "float32")
    found, _ = final_loss(tmp_path / "bfloat16", "dtype=bfloat16")
    assert wanted < 0.6 * began
    # Where it ends depends on the processor's rounding by a few per cent, either way.
    assert found < 1.05 * wanted
