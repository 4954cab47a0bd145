"""BERT: its sizes, its masks, and its dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.params import flatten
from jaxseg.text.bert import Bert
from jaxseg.text.spans import encode_captions
from tests.quick import quick_jit
from tests.weights import draw

SMALL = {"num_layers": 2, "width": 24, "num_heads": 3, "mlp_width": 40, "vocabulary": 60}
IDS = jnp.array([[1, 7, 8, 9, 2, 0], [1, 30, 31, 2, 0, 0]])
MASK = IDS > 0


def shapes(model):
    abstract = jax.ShapeDtypeStruct((1, 4), jnp.int32), jax.ShapeDtypeStruct((1, 4), bool)
    return flatten(jax.eval_shape(model.init, jax.random.key(0), *abstract)["params"])


@pytest.fixture(scope="module")
def small():
    model = Bert(**SMALL)
    return model, draw(model, IDS, MASK)


def encode(small, *arguments, **options):
    model, params = small
    return quick_jit(lambda p, *a: model.apply({"params": p}, *a, **options))(params, *arguments)


@pytest.mark.parametrize(("pooler", "count"), [(True, 109_482_240), (False, 108_891_648)])
def test_the_default_is_as_large_as_bert_base(pooler, count):
    assert sum(leaf.size for leaf in shapes(Bert(pooler=pooler)).values()) == count


def test_modules_have_these_names():
    found = shapes(Bert(**SMALL | {"num_layers": 1}))
    assert {path.rpartition("/")[0] for path in found} == {
        "embeddings/word", "embeddings/position", "embeddings/token_type", "embeddings/norm",
        *(f"layer_0/attn/{name}_proj" for name in ("q", "k", "v", "out")),
        *(f"layer_0/{name}{n}" for name in ("norm", "linear") for n in (1, 2)),
        "pooler",
    }  # fmt: skip


def test_every_layer_is_returned_and_the_pooler_where_there_is_one(small):
    encoding = encode(small, IDS, MASK)
    assert encoding.hidden.shape == (3, 2, 6, 24)
    np.testing.assert_array_equal(encoding.last, encoding.hidden[-1])
    assert encoding.pooled.shape == (2, 24)
    model, params = small
    without = {name: value for name, value in params.items() if name != "pooler"}
    encoding = encode((model.clone(pooler=False), without), IDS, MASK)
    assert encoding.pooled is None


def test_padding_changes_no_real_token(small):
    whole = encode(small, IDS, MASK).last
    cut = encode(small, IDS[1:, :4], MASK[1:, :4]).last
    np.testing.assert_allclose(whole[1, :4], cut[0], rtol=0, atol=1e-5)
    other = encode(small, jnp.where(MASK, IDS, 50), MASK).last
    np.testing.assert_allclose(whole[MASK], other[MASK], rtol=0, atol=1e-5)


def test_a_mask_of_pairs_that_says_the_same_gives_the_same(small):
    pairs = jnp.broadcast_to(MASK[:, None], (2, 6, 6))
    np.testing.assert_allclose(
        encode(small, IDS, pairs).hidden, encode(small, IDS, MASK).hidden, rtol=0, atol=1e-5
    )


def test_a_phrase_is_read_as_if_it_stood_alone(small, tokenizer):
    model, _ = small
    model = model.clone(vocabulary=tokenizer.length)
    both = encode_captions(tokenizer, ["a dog . cat ."])
    one = encode_captions(tokenizer, ["cat ."], pad_to=6)
    params = draw(model, both.ids, both.attend)
    states = [encode((model, params), x.ids, x.attend, x.positions).last[0] for x in (both, one)]
    # [CLS] a dog . cat . [SEP]   and   [CLS] cat . [SEP]
    np.testing.assert_allclose(states[0][4:6], states[1][1:3], rtol=0, atol=1e-5)


def test_a_token_that_may_attend_none_stays_finite(small):
    assert np.isfinite(encode(small, IDS, jnp.zeros((2, 6, 6), bool)).hidden).all()


def test_positions_and_token_types_default_to_counting_and_to_the_first(small):
    counting = jnp.broadcast_to(jnp.arange(6), IDS.shape)
    wanted = encode(small, IDS, MASK).hidden
    for given in ((counting,), (None, jnp.zeros_like(IDS)), (counting, jnp.zeros_like(IDS))):
        np.testing.assert_array_equal(encode(small, IDS, MASK, *given).hidden, wanted)
    assert not np.allclose(encode(small, IDS, MASK, counting, jnp.ones_like(IDS)).hidden, wanted)


def test_more_tokens_than_positions_are_told():
    model = Bert(**SMALL, positions=5)
    with pytest.raises(ValueError, match="counts at most 5 tokens; got 6"):
        jax.eval_shape(model.init, jax.random.key(0), IDS, MASK)
    jax.eval_shape(model.init, jax.random.key(0), IDS, MASK, jnp.zeros_like(IDS))


def test_dropout_is_drawn_in_training_alone(small):
    plain = encode(small, IDS, MASK).last
    drawn = [
        encode(small, IDS, MASK, train=True, rngs={"dropout": jax.random.key(seed)}).last
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.allclose(drawn[0], drawn[2])
    assert not np.allclose(drawn[0], plain)


def test_half_precision_stays_near(small):
    model, params = small
    half = encode((model.clone(dtype=jnp.bfloat16), params), IDS, MASK)
    assert half.hidden.dtype == jnp.bfloat16
    wanted = encode(small, IDS, MASK).last
    np.testing.assert_allclose(half.last.astype(jnp.float32)[MASK], wanted[MASK], atol=0.15)
