"""Plain ViTs: published sizes without a weight in memory, and small ones run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.backbones.vit import ViT, vit, vit_b, vit_h, vit_l, vit_s
from jaxseg.backbones.vit_blocks import RelativeAttention, relative_positions
from jaxseg.params import abstract_params, count
from tests.backbones.canvas import assert_canvas_exact
from tests.quick import quick_jit
from tests.weights import draw

SMALL = {
    "width": 16,
    "depth": 2,
    "num_heads": 2,
    "global_blocks": (1,),
    "patch": 8,
    "window": 3,
    "image_size": 64,
    "position_size": 40,
}


# Parameters of Segment Anything's image encoders (arXiv 2304.02643), without their necks.
@pytest.mark.parametrize(
    ("build", "encoder"),
    [(vit_b, 89_670_912), (vit_l, 308_278_272), (vit_h, 637_026_048)],
)
def test_published_sizes_have_their_parameters(build, encoder):
    net = build(position_size=1024)
    neck = net.width * 256 + 2 * 256 + 9 * 256 * 256 + 2 * 256
    assert count(abstract_params(net)) + neck == encoder


def test_a_small_one_has_22_million_and_stride_16():
    net = vit_s()
    assert round(count(abstract_params(net)) / 1e6) == 22
    assert net.strides == (16,)
    pixels = jax.ShapeDtypeStruct((1, 100, 64, 3), jnp.float32)
    (shape,), _ = jax.eval_shape(net.init_with_output, jax.random.key(0), pixels)
    assert shape.shape == (1, 7, 4, 384)


def test_an_unknown_size_names_those_there_are():
    with pytest.raises(ValueError, match="no ViT of size 'giant'; there are"):
        vit("giant")


def test_windows_have_tables_of_their_own_side():
    params = abstract_params(ViT(**SMALL))
    assert params["block_0"]["attn"]["rel_pos_h"].shape == (5, 8)
    assert params["block_1"]["attn"]["rel_pos_w"].shape == (15, 8)
    assert params["position_embed"].shape == (1, 5, 5, 16)
    assert "rel_pos_h" not in abstract_params(ViT(**SMALL, relative=False))["block_0"]["attn"]


def test_offsets_are_query_minus_key():
    table = jnp.arange(5.0)[:, None]
    wanted = [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    np.testing.assert_array_equal(relative_positions(table, 3, 3)[0, ..., 0], wanted)
    stretched = [[3, 1], [4, 2], [5, 3], [6, 4]]  # two keys stand for four
    table = jnp.arange(7.0)[:, None]
    got = relative_positions(table, 4, 2)[0, ..., 0]
    np.testing.assert_array_equal(got, np.array(stretched) - 1)


def test_a_table_is_resized_to_each_images_extent():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(9, 3)), jnp.float32)
    resized = jax.jit(relative_positions, static_argnums=(1, 2))
    together = resized(table, 8, 8, jnp.array([3, 5, 8, 0]))
    assert jnp.isfinite(together).all()
    for size, one in zip((3, 5, 8), together, strict=False):
        alone = resized(table, size, size)[0]
        np.testing.assert_allclose(one[:size, :size], alone, atol=1e-6)
    np.testing.assert_array_equal(together[1, 4, :5], table[4:9][::-1])


def test_positions_are_read_with_the_unscaled_query():
    """Queries are all ones of width 4, keys zero: scores are the sums of the embeddings, which
    prefer the row above (offset +1) by log 2."""
    module, zeros, ones = RelativeAttention(1, 3), jnp.zeros((4, 4)), jnp.ones(4)
    identity = {"kernel": jnp.eye(4), "bias": 0 * ones}
    params = {
        "q_proj": {"kernel": zeros, "bias": ones},
        "k_proj": {"kernel": zeros, "bias": 0 * ones},
        "v_proj": identity,
        "out_proj": identity,
        "rel_pos_h": jnp.zeros((5, 4)).at[3].set(np.log(2) / 4),
        "rel_pos_w": jnp.zeros((5, 4)),
    }
    rows = jnp.arange(3.0)[None, :, None, None] * ones
    mixed = jax.jit(module.apply)({"params": params}, rows)[0, :, 0, 0]
    np.testing.assert_allclose(mixed, [(0 + 1 + 2) / 3, (2 * 0 + 1 + 2) / 4, (0 + 2 * 1 + 2) / 4])


@pytest.mark.parametrize("fields", [{}, {"relative": False, "position_size": None}], ids=str)
def test_an_image_has_the_same_map_on_any_canvas(fields):
    net = ViT(**SMALL | fields)
    assert_canvas_exact(net, [(45, 70), (53, 17), (3, 5)], [(64, 96), (53, 70)])


def test_recomputing_blocks_changes_nothing():
    fields = SMALL | {"depth": 1, "global_blocks": (), "position_size": None}
    pixels = jnp.asarray(np.random.default_rng(0).normal(size=(1, 40, 32, 3)), jnp.float32)
    params = draw(ViT(**fields), pixels)

    def gradient(remat):
        def loss(params):
            options = {"train": True, "rngs": {"dropout": jax.random.key(1)}}
            (x,) = ViT(**fields, remat=remat).apply({"params": params}, pixels, **options)
            return jnp.mean(jnp.square(x))

        return quick_jit(jax.grad(loss))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        gradient(False),
        gradient(True),
    )
