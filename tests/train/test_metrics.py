import json
import math
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from jaxseg.train.metrics import MetricsLog


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_after_the_resumed_step_are_dropped_and_written_again(tmp_path):
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.write(step, {"loss": float(step)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    log = MetricsLog(tmp_path, step=2)
    log.write(3, {"loss": 30.0})
    log.close()
    assert lines(tmp_path) == [{"step": s, "loss": x} for s, x in ((1, 1.0), (2, 2.0), (3, 30.0))]


def test_what_is_not_finite_is_null_in_json(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(1, {"AP": math.nan, "AP50": 0.5}, "eval/")
    log.close()
    assert lines(tmp_path) == [{"step": 1, "eval/AP": None, "eval/AP50": 0.5}]


def test_tensorboard_gets_the_same_figures(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(1, {"loss": 2.0})
    log.close()
    events = list((tmp_path / "tensorboard").iterdir())
    assert len(events) == 1
    assert b"train/loss" in events[0].read_bytes()


def test_other_processes_write_nothing(tmp_path):
    log = MetricsLog(tmp_path / "run", enabled=False)
    log.write(1, {"loss": 2.0})
    log.close()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("step", [0, 7])
def test_tensorboard_forgets_what_a_resumed_run_will_write_again(tmp_path, step):
    MetricsLog(tmp_path, step).close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    starts = [e.step for e in events(path.read_bytes()) if e.HasField("session_log")]
    assert starts == [step + 1]


def events(data):
    """The records of an event file: length (8 bytes), its checksum (4), the event, another (4)."""
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
