"""BERT: Hugging Face's model and files, there and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from jaxseg.params import flatten, unflatten
from jaxseg.text.bert import Bert
from jaxseg_convert_torch import (
    TABLES,
    ConversionError,
    convert,
    detect_table,
    load_state_dict,
    read_state_dict,
    revert,
    to_state_dict,
)
from tests.quick import quick_jit
from tests.small_detr import assert_same

SIZES = {"num_layers": 3, "width": 48, "num_heads": 4, "mlp_width": 80, "vocabulary": 90}
IDS = np.array([[1, 7, 8, 9, 2, 12, 2, 0], [1, 30, 31, 2, 0, 0, 0, 0]])
MASK = IDS > 0


@pytest.fixture(scope="module")
def theirs():
    config = BertConfig(
        vocab_size=90, hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=80, max_position_embeddings=40,
    )  # fmt: skip
    model = BertModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            shift = 1.0 if "LayerNorm.weight" in name else 0.0
            tensor.copy_(shift + 0.2 * torch.randn(tensor.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def state(theirs, tmp_path_factory):
    """What `save_pretrained` writes."""
    folder = tmp_path_factory.mktemp("bert")
    theirs.save_pretrained(folder)
    return read_state_dict(folder / "model.safetensors")


def shapes(**fields):
    model = Bert(**SIZES | {"positions": 40} | fields)
    abstract = jax.ShapeDtypeStruct((1, 4), jnp.int32), jax.ShapeDtypeStruct((1, 4), bool)
    return model, jax.eval_shape(model.init, jax.random.key(0), *abstract)["params"]


def block_mask():
    """Two phrases of the first text, one of the second; padding sees itself."""
    mask = np.tile(np.eye(8, dtype=bool), (2, 1, 1))
    mask[0, 1:5, 1:5] = mask[0, 5:7, 5:7] = mask[1, 1:4, 1:4] = True
    return mask


@pytest.mark.parametrize("mask", [MASK, block_mask()], ids=["tokens", "pairs"])
@pytest.mark.parametrize("given", ["ids", "positions and token types"])
def test_huggingfaces_model_has_the_same_states(theirs, state, mask, given):
    model, target = shapes()
    params = load_state_dict("bert", state, target)
    rng = np.random.default_rng(0)
    rest, named = (), {}
    if given != "ids":
        rest = rng.integers(0, 40, IDS.shape), rng.integers(0, 2, IDS.shape)
        named = dict(zip(("position_ids", "token_type_ids"), map(torch.tensor, rest), strict=True))
    with torch.no_grad():
        wanted = theirs(
            input_ids=torch.tensor(IDS),
            # A mask of four axes is added as it is, in every version.
            attention_mask=_theirs(mask),
            output_hidden_states=True,
            **named,
        )
    with jax.default_matmul_precision("highest"):
        found = quick_jit(model.apply)({"params": params}, IDS, mask, *rest)
    for layer, states in enumerate(wanted.hidden_states):
        np.testing.assert_allclose(found.hidden[layer], states, rtol=0, atol=2e-5)
    np.testing.assert_allclose(found.pooled, wanted.pooler_output, rtol=0, atol=1e-5)


def _theirs(mask):
    if mask.ndim == 2:
        return torch.tensor(mask.astype(np.int64))
    lowest = torch.finfo(torch.float32).min
    return torch.where(torch.tensor(mask), 0.0, lowest)[:, None]


def test_a_file_comes_back_bit_for_bit_and_loads_there(theirs, state):
    converted = convert(TABLES["bert"], state, shapes()[1])
    back = revert(TABLES["bert"], converted.params, converted.origin)
    assert_same(back, state)
    theirs.load_state_dict({key: torch.tensor(value) for key, value in back.items()}, strict=True)
    assert_same(to_state_dict("bert", converted.params), state)


def test_older_spellings_and_the_heads_of_pre_training_are_known(state):
    old = {}
    for key, value in state.items():
        key = key.replace("LayerNorm.weight", "LayerNorm.gamma")
        old["bert." + key.replace("LayerNorm.bias", "LayerNorm.beta")] = value
    old["bert.embeddings.position_ids"] = np.arange(40)[None]
    old["cls.predictions.bias"] = np.zeros(90, np.float32)
    target = shapes()[1]
    converted = convert(TABLES["bert"], old, target)
    assert_same(flatten(converted.params), flatten(load_state_dict("bert", state, target)))
    assert converted.dropped == ["bert.embeddings.position_ids", "cls.predictions.bias"]
    back = revert(TABLES["bert"], converted.params, converted.origin)
    assert set(old) - set(back) == {"cls.predictions.bias"}
    for key, value in back.items():
        if "position_ids" not in key:
            np.testing.assert_array_equal(value, old[key])


def test_what_does_not_fit_is_one_report(state):
    with pytest.raises(ConversionError) as caught:
        load_state_dict("bert", state, shapes(num_layers=4, pooler=False, vocabulary=91)[1])
    report = str(caught.value)
    assert "encoder.layer.3.attention.self.query.weight" in report
    assert "pooler.dense.bias" in report
    assert "embeddings.word_embeddings.weight" in report


def test_bert_is_told_by_its_keys(state):
    assert detect_table(state) == "bert"
    assert detect_table(f"bert.{key}" for key in state) == "bert"


def test_written_files_have_the_keys_of_bert_base():
    model = Bert()
    abstract = jax.ShapeDtypeStruct((1, 4), jnp.int32), jax.ShapeDtypeStruct((1, 4), bool)
    flat = flatten(jax.eval_shape(model.init, jax.random.key(0), *abstract)["params"])
    params = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in flat.items()}
    assert len(to_state_dict("bert", unflatten(params))) == 199
