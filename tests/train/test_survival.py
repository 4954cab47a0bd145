"""The real command, killed as clusters kill it."""

import json
import os
import random
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.train.processes import start

UNTIMED = ("images_per_second", "eval/images_per_second")
CONFIG = """
from jaxseg.checkpoints import ImageConfig
from jaxseg.data.transforms import Chain, RandomFlip, RandomResize
from jaxseg.models import detr
from jaxseg.train.experiment import Data, Experiment
from jaxseg.train.optim import Ema

SHAPES = "synthetic:shapes?size=56&vary=0.3&objects=2&count="


def experiment():
    return Experiment(
        model=detr.tiny(
            num_classes=0, width=16, num_heads=2, feedforward=16, encoder_layers=1,
            decoder_layers=1, num_queries=4, stem=8, dropout=0.1,
        ),
        data=Data(
            train=SHAPES + "22&seed=0", val=SHAPES + "4&seed=1", batch_size=4, max_targets=2,
            buckets=((64, 96), (96, 64)), workers=2, eval_batch_size=4,
            transform=Chain((RandomFlip(), RandomResize((40, 64), 96))),
            image=ImageConfig(short_side=64, long_side=64),
        ),
        ema=Ema(0.9),
        accumulate=2,
        steps=10,
        evaluate_every=10,
        checkpoint_every=3,
        log_every=1,
    )
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "tiny.py").write_text(CONFIG)
    return tmp_path


def begin(place, workdir):
    return start("jaxseg", "train", place / "tiny.py", "--workdir", place / workdir, session=True)


def finish(process, status=0):
    said = process.communicate(timeout=400)[0]
    assert process.returncode == status, said
    assert "leaked" not in said
    return said


def metrics(place, workdir):
    path = place / workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1].splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in UNTIMED} for x in whole]


def wait_for_step(place, workdir, process, step):
    deadline = time.monotonic() + 300
    while not any(line["step"] >= step for line in metrics(place, workdir)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_same_run(place, workdir):
    assert metrics(place, workdir) == metrics(place, "whole")
    for weights in ("last", "best"):
        a, b = (
            load_file(place / run / weights / "model.safetensors") for run in ("whole", workdir)
        )
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_the_command_killed_and_then_stopped_with_all_its_processes_ends_bit_for_bit(place):
    finish(begin(place, "whole"))
    process = begin(place, "other")
    wait_for_step(place, "other", process, random.SystemRandom().randrange(1, 5))
    process.kill()
    # The loader's processes have our pipe as well: its end says that none is left behind.
    process.communicate(timeout=120)

    process = begin(place, "other")
    wait_for_step(place, "other", process, 6)
    os.killpg(process.pid, signal.SIGTERM)
    said = finish(process)
    step = said.split("stopped by SIGTERM; step ")[1].split()[0]
    assert (place / "other" / "checkpoints" / "latest" / step).is_dir()

    finish(begin(place, "other"))
    assert_same_run(place, "other")
