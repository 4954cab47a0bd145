"""The decoder's layer that reads several levels beside the one that reads all tokens alike."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.models.detr.dab_decoder import DabDecoderLayer, LevelsLayer

WIDTH, FIELDS = 8, {"num_heads": 2, "feedforward": 16}


def memory(shapes, seed=0):
    """(memory, position, mask) of the tokens of all levels; each level's last one is padding."""
    rng = np.random.default_rng(seed)
    counts = [h * w for h, w in shapes]
    values = rng.normal(size=(2, 1, sum(counts), WIDTH)).astype(np.float32)
    mask = np.concatenate([np.arange(count) < count - 1 for count in counts])
    return jnp.asarray(values[0]), jnp.asarray(values[1]), jnp.asarray(mask[None])


def queries():
    rng = np.random.default_rng(1)
    return tuple(jnp.asarray(rng.normal(size=(1, 3, WIDTH)), jnp.float32) for _ in range(3))


def run(layer, params, tokens, shapes):
    """A layer's result, what cross-attention read, and the scores of the levels."""
    arguments = (*queries(), *tokens, shapes, None, True, False)
    result, found = layer.apply({"params": params}, *arguments, capture_intermediates=True)
    made = found["intermediates"]
    scores = made["lvl_attn"]["__call__"][0] if "lvl_attn" in made else None
    return result, made["cross_attn_out_proj"]["__call__"][0], scores


def levels_params(shapes):
    layer = LevelsLayer(**FIELDS)
    arguments = (*queries(), *memory(shapes), shapes, None, True, False)
    params = layer.init(jax.random.key(0), *arguments)["params"]
    return params, {name: part for name, part in params.items() if name != "lvl_attn"}


def test_each_query_mixes_what_it_reads_on_each_level_by_its_shares():
    shapes = ((2, 3), (1, 2))
    params, plain = levels_params(shapes)
    tokens = memory(shapes)
    _, mixed, scores = run(LevelsLayer(**FIELDS), params, tokens, shapes)
    shares = jax.nn.softmax(scores)
    assert np.ptp(shares[..., 0]) > 0.01  # each query has its own
    wanted, start = 0, 0
    for level, shape in enumerate(shapes):
        end = start + shape[0] * shape[1]
        alone = tuple(x[:, start:end] for x in tokens)
        _, read, _ = run(DabDecoderLayer(**FIELDS), plain, alone, (shape,))
        wanted, start = wanted + shares[..., level, None] * read, end
    np.testing.assert_allclose(mixed, wanted, rtol=0, atol=1e-6)


def test_with_one_level_it_is_the_plain_layer():
    shapes = ((2, 3),)
    params, plain = levels_params(shapes)
    found, *_ = run(LevelsLayer(**FIELDS), params, memory(shapes), shapes)
    wanted, *_ = run(DabDecoderLayer(**FIELDS), plain, memory(shapes), shapes)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_what_padding_holds_changes_nothing():
    shapes = ((2, 3), (1, 2))
    params, _ = levels_params(shapes)
    values, position, mask = memory(shapes)
    other = tuple(jnp.where(mask[..., None], x, 9.0) for x in (values, position))
    found, *_ = run(LevelsLayer(**FIELDS), params, (*other, mask), shapes)
    wanted, *_ = run(LevelsLayer(**FIELDS), params, (values, position, mask), shapes)
    np.testing.assert_array_equal(found, wanted)
