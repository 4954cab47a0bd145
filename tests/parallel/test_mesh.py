import argparse
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxseg.errors import UserError
from jaxseg.parallel.mesh import MeshShape, loader_shard
from jaxseg.parallel.processes import (
    _waiting,
    add_process_arguments,
    join_processes,
    process_words,
)
from jaxseg.parallel.shard import check_batch_size


def fake_mesh(processes, data, fsdp, tensor):
    """Devices that only know their process."""
    devices = [SimpleNamespace(process_index=p) for p in processes]
    shape = {"data": data, "fsdp": fsdp, "tensor": tensor}
    return SimpleNamespace(devices=np.array(devices).reshape(data, fsdp, tensor), shape=shape)


def test_minus_one_takes_the_devices_that_are_left():
    assert MeshShape(data=-1, fsdp=1)._sizes(8) == (8, 1, 1)
    assert MeshShape(data=2, fsdp=-1, tensor=2)._sizes(8) == (2, 2, 2)


@pytest.mark.parametrize("shape", [(3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 1), (-2, 2, 1)])
def test_a_mesh_that_does_not_cover_the_devices_is_an_error(shape):
    with pytest.raises(UserError, match=r"does not cover 8 device\(s\)"):
        MeshShape(*shape)._sizes(8)


def test_each_process_loads_its_rows_once():
    mesh = fake_mesh([0, 0, 1, 1], data=4, fsdp=1, tensor=1)
    assert [loader_shard(mesh, p) for p in (0, 1)] == [(0, 2), (1, 2)]


def test_processes_that_differ_along_tensor_load_the_same_rows():
    mesh = fake_mesh([0, 1, 0, 1, 2, 3, 2, 3], data=2, fsdp=2, tensor=2)
    assert [loader_shard(mesh, p) for p in range(4)] == [(0, 2), (0, 2), (1, 2), (1, 2)]


def test_processes_with_overlapping_rows_are_an_error():
    mesh = fake_mesh([0, 0, 1, 1, 1, 2], data=3, fsdp=1, tensor=2)
    mesh.devices[1, 0, 0] = SimpleNamespace(process_index=0)
    with pytest.raises(UserError, match="overlapping rows"):
        loader_shard(mesh, 0)


def test_a_batch_that_does_not_divide_names_the_setting_and_the_sizes_that_do():
    mesh = jax.sharding.AbstractMesh((2, 2, 2), ("data", "fsdp", "tensor"))
    check_batch_size(16, mesh, micro_batches=2)
    with pytest.raises(UserError, match=r"need a multiple of 8.*data.batch_size to 8 or 16.*accum"):
        check_batch_size(12, mesh, micro_batches=2, name="data.batch_size")
    with pytest.raises(UserError, match=r"data.eval_batch_size to 4, or") as caught:
        check_batch_size(3, mesh, name="data.eval_batch_size")
    assert "accumulate" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("h:1", 1, 0), "process 0 of 1, at h:1: there are no others"),
        (("h:1", 2, 0), "process 0 of 2: waiting at h:1 for process 1"),
        (("h:1", 3, 0), "waiting at h:1 for processes 1 to 2"),
        (("h:1", 3, 2), "process 2 of 3: looking for process 0 at h:1"),
    ],
)
def test_a_process_knows_whom_it_waits_for(given, said):
    assert said in _waiting(*given)


def test_the_options_of_a_process_can_be_given_again():
    parser = argparse.ArgumentParser()
    add_process_arguments(parser)
    for words in (
        [],
        ["--distributed"],
        ["--coordinator", "h:1", "--num-processes", "2", "--process-id", "0"],
    ):
        assert process_words(parser.parse_args(words)) == words


def test_no_processes_at_all_are_refused():
    given = argparse.Namespace(distributed=False, coordinator="h:1", num_processes=0, process_id=0)
    with pytest.raises(UserError, match="--num-processes must be 1 or more; got 0"):
        join_processes(given)
