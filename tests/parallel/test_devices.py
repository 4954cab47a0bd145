import pytest

from tests.train.processes import start


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mesh") / "checkpoints"
    process = start("tests.parallel.eight_devices", folder, devices=8)
    return process.communicate(timeout=400)[0]


@pytest.mark.parametrize(
    "promise",
    [
        "loss and gradients",
        "parameters and moments are split",
        "saved on 8, resumed on 1 and 4",
        "loss and gradients of what is told",
    ],
)
def test_eight_devices_equal_one(said, promise):
    assert f"ok: {promise}" in said.splitlines(), said
