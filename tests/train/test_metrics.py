import json
import math

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
