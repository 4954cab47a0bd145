"""The operation on several devices."""

from tests.train.processes import start


def test_a_mesh_changes_neither_results_nor_gradients_and_needs_no_communication():
    process = start("tests.kernels.eight_devices", devices=8)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "ok: the same on every mesh" in output
