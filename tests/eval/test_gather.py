"""Gathering over processes loses nothing and counts nothing twice."""

import json
import socket
import subprocess
import sys
from pathlib import Path

from jaxseg.eval.coco_ap import METRICS
from jaxseg.eval.gather import gather_records
from tests.eval.example import example

ROOT = Path(__file__).parents[2]


def run_two(module: str, *args: str) -> list[str]:
    """Standard output of two processes of `module PORT PROCESS ARGS...`."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, port, str(i), *args],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        answers = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, answers, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [output for output, _ in answers]


def test_two_processes_reproduce_the_published_numbers():
    for output in run_two("tests.eval.gather_worker"):
        stats = json.loads(output.splitlines()[-1])
        for iou_type in ("bbox", "segm"):
            expected = example(iou_type)[2]["stats"]
            for name in METRICS:
                assert round(stats[iou_type][name], 3) == round(expected[name], 3), name


def test_records_come_in_order_of_position_and_floats_survive():
    records = {7: [{"score": 0.1 + 0.2}], 2: []}
    assert list(gather_records(records).items()) == [(2, []), (7, [{"score": 0.1 + 0.2}])]
