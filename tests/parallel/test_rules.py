import jax
import pytest
from jax.sharding import PartitionSpec as P

from jaxseg import models
from jaxseg.errors import UserError
from jaxseg.parallel.mesh import MeshShape
from jaxseg.parallel.rules import DETR, fit, lookup
from tests.shapes import DETECTORS, flat_shapes

PATHS = ("backbone/conv1/kernel", "backbone/conv2/kernel", "head/kernel")


def test_the_first_match_wins_and_the_rest_takes_the_default():
    table = (("conv1", 0.0), ("^backbone", 0.1))
    assert lookup(table, PATHS, default=1.0) == dict(zip(PATHS, (0.0, 0.1, 1.0), strict=True))


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(UserError, match=r"'encoder' in the table of decay matches no parameter"):
        lookup((("encoder", 1),), PATHS, what="decay")


def test_a_pattern_behind_one_that_takes_all_its_paths_is_an_error():
    with pytest.raises(UserError, match=r"'conv1' .* never decides"):
        lookup((("^backbone", 0.1), ("conv1", 0.0)), PATHS)


def test_a_pattern_that_is_no_regular_expression_is_an_error():
    with pytest.raises(UserError, match="not a regular expression"):
        lookup((("(", 1),), PATHS)


def test_an_axis_that_does_not_divide_its_dimension_is_left_out():
    devices = jax.devices()[:1]
    mesh = jax.sharding.AbstractMesh((2, 4, 2), ("data", "fsdp", "tensor"))
    assert fit(P("fsdp", "tensor"), (92, 7), mesh) == P("fsdp", None)
    assert fit(
        P(
            ("fsdp", "tensor"),
        ),
        (16,),
        mesh,
    ) == P(("fsdp", "tensor"))
    assert fit(
        P(
            ("fsdp", "tensor"),
        ),
        (12,),
        mesh,
    ) == P(None)
    assert MeshShape().build(devices).shape == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize("name", DETECTORS)
def test_the_table_of_detr_splits_what_is_large_in_every_model(name):
    flat = flat_shapes(models.build(name))
    mesh = jax.sharding.AbstractMesh((1, 8, 1), ("data", "fsdp", "tensor"))
    specs = lookup(DETR, flat)
    whole = [
        path
        for path, leaf in flat.items()
        if leaf.size >= 2**16 and "fsdp" not in fit(specs[path], leaf.shape, mesh)
    ]
    # These are small beside the rest.
    small = ("input_proj/", "bbox_embed/", "tgt_embed/", "backbone/net/position_embed")
    assert all(path.startswith(small) for path in whole), whole
