"""The engine and its tables: strict both ways, and without loss."""

import jax
import ml_dtypes
import numpy as np
import pytest

from jaxseg.backbones.resnet import resnet
from jaxseg.errors import UserError
from jaxseg.params import flatten
from jaxseg_convert_torch import (
    TABLES,
    ConversionError,
    convert,
    detect_table,
    load_state_dict,
    revert,
    to_state_dict,
)
from jaxseg_convert_torch.table import Buffer, Layout, Table, rename
from jaxseg_convert_torch.templates import Template
from tests.small_detr import assert_same, drawn, small

MODELS = {"basic blocks": {"position": "learned"}, "bottlenecks": {"depth": 50}}


@pytest.mark.parametrize("table", ["detr", "detr.huggingface", "detr.huggingface_resnet"])
@pytest.mark.parametrize("fields", MODELS.values(), ids=MODELS)
def test_every_detr_table_is_undone_bit_for_bit(table, fields):
    model = small(**fields)
    params = drawn(model)
    state = to_state_dict(table, params)
    assert detect_table(state) == table
    converted = convert(TABLES[table], state, model)
    assert_same(flatten(converted.params), flatten(params))
    assert_same(revert(TABLES[table], converted.params, converted.origin), state)


@pytest.mark.parametrize(
    "depth", [18, 50, *(pytest.param(d, marks=pytest.mark.slow) for d in (34, 101))]
)
def test_the_resnet_table_is_undone_bit_for_bit(depth):
    model = resnet(depth)
    params = drawn(model)
    state = to_state_dict("resnet", params)
    assert detect_table(state) == "resnet"
    assert_same(flatten(load_state_dict("resnet", state, model)), flatten(params))


def test_pre_norm_keeps_the_encoders_last_norm():
    state = to_state_dict("detr", drawn(small(pre_norm=True)))
    assert "transformer.encoder.norm.weight" in state
    load_state_dict("detr", state, small(pre_norm=True))
    with pytest.raises(ConversionError, match=r"unexpected transformer\.encoder\.norm\.bias"):
        load_state_dict("detr", state, small())


def test_kernels_are_laid_out_for_jax():
    model = small()
    state = to_state_dict("detr", drawn(model))
    params = flatten(load_state_dict("detr", state, model))
    assert state["input_proj.weight"].shape == (16, 512, 1, 1)
    assert params["input_proj/kernel"].shape == (1, 1, 512, 16)
    stem = state["backbone.0.body.conv1.weight"]
    np.testing.assert_array_equal(params["backbone/conv1/kernel"][2, 3, 1, 5], stem[5, 1, 2, 3])
    packed = state["transformer.decoder.layers.1.multihead_attn.in_proj_weight"]
    key = params["decoder/layer_1/cross_attn/k_proj/kernel"]
    np.testing.assert_array_equal(key, packed[16:32].T)


def test_torchvisions_counters_come_back_and_its_classifier_is_left_out():
    model = resnet(18)
    state = to_state_dict("resnet", drawn(model))
    counter = {"bn1.num_batches_tracked": np.asarray(173, np.int64)}
    classifier = {"fc.weight": np.ones((5, 512), np.float32), "fc.bias": np.ones(5, np.float32)}
    converted = convert(TABLES["resnet"], state | counter | classifier, model)
    assert_same(revert(TABLES["resnet"], converted.params, converted.origin), state | counter)


def test_a_backbone_is_converted_alone():
    detector, state = small(), to_state_dict("resnet", drawn(resnet(18)))
    backbone = load_state_dict("resnet", state, detector, prefix="backbone")
    assert_same(flatten(backbone), flatten(load_state_dict("resnet", state, resnet(18))))
    whole = to_state_dict("detr", drawn(detector, seed=1))
    part = load_state_dict("detr", whole, detector, part="backbone")
    assert sorted(flatten(part)) == sorted(flatten(backbone))
    again = to_state_dict("resnet", {"backbone": backbone}, prefix="backbone")
    assert_same(again, state)
    with pytest.raises(UserError, match="the model has no 'neck'"):
        load_state_dict("resnet", state, detector, prefix="neck")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_dtypes_are_remembered(dtype):
    model = small()
    state = {k: v.astype(dtype) for k, v in to_state_dict("detr", drawn(model)).items()}
    state["class_embed.bias"] = state["class_embed.bias"].astype(np.float32)
    converted = convert(TABLES["detr"], state, model)
    assert {leaf.dtype for leaf in jax.tree.leaves(converted.params)} == {np.dtype(np.float32)}
    assert_same(revert(TABLES["detr"], converted.params, converted.origin), state)


def test_one_sorted_report_names_every_problem():
    state = to_state_dict("detr", drawn(small()))
    del state["query_embed.weight"], state["backbone.0.body.bn1.running_var"]
    state["class_embed.weight"] = np.zeros((92, 16), np.float32)
    state["mystery.weight"] = np.zeros(3, np.float32)
    state["transformer.encoder.layers.0.self_attn.q_proj.weight"] = np.zeros((16, 16), np.float32)
    with pytest.raises(ConversionError) as caught:
        load_state_dict("detr", state, small())
    lines = str(caught.value).splitlines()
    assert lines[0] == "5 problems converting a state dict of the form official DETR:"
    assert [line.split()[:2] for line in lines[1:]] == [
        ["misshapen", "class_embed.weight:"],
        ["missing", "backbone.0.body.bn1.running_var:"],
        ["missing", "query_embed.weight:"],
        ["unexpected", "mystery.weight"],
        ["unexpected", "transformer.encoder.layers.0.self_attn.q_proj.weight"],
    ]
    assert "(16, 92) came, class_embed/kernel is (16, 4)" in lines[1]


def test_integers_are_no_weights():
    state = to_state_dict("detr", drawn(small()))
    state["class_embed.bias"] = np.zeros(4, np.int32)
    with pytest.raises(ConversionError, match=r"class_embed\.bias: int32 came"):
        load_state_dict("detr", state, small())


def test_the_way_back_is_strict_too():
    params = drawn(small())
    del params["encoder"]["layer_0"]["self_attn"]["k_proj"]["bias"]
    params["mystery"] = {"scale": np.ones(3, np.float32)}
    with pytest.raises(ConversionError) as caught:
        to_state_dict("detr", params)
    assert "missing    transformer.encoder.layers.0.self_attn.in_proj_bias" in str(caught.value)
    assert "unexpected mystery/scale" in str(caught.value)


def test_aliases_are_checked_dropped_and_rebuilt():
    table = Table(
        "shared",
        "shared heads",
        (rename("head.0", "head"),),
        aliases=((r"head\.[1-9]\.(weight|bias)", r"head.0.\1"),),
    )
    shapes = {"head": {"scale": jax.ShapeDtypeStruct((2,), np.float32)}}
    weight = np.asarray([1, 2], np.float32)
    state = {f"head.{i}.weight": weight for i in range(3)}
    converted = convert(table, state, shapes)
    np.testing.assert_array_equal(converted.params["head"]["scale"], weight)
    assert_same(revert(table, converted.params, converted.origin), state)
    with pytest.raises(ConversionError, match=r"head\.2\.weight: it should repeat head\.0"):
        convert(table, state | {"head.2.weight": weight + 1}, shapes)


@pytest.mark.parametrize(
    ("key", "model"),
    [
        ("transformer.decoder.layers.0.ca_qpos_proj.weight", "Conditional DETR"),
        ("model.decoder.layers.0.ca_qpos_proj.weight", "Conditional DETR"),
        ("stages.0.0.dwconv.weight", "no conversion table knows these weights"),
    ],
)
def test_other_models_weights_are_refused_by_name(key, model):
    with pytest.raises(UserError, match=model):
        detect_table([key])


def test_other_spellings_of_keys_come_back_as_they_were():
    model = small(position="learned")
    older = to_state_dict("detr.huggingface_resnet", drawn(model))
    replacements = {
        ".conv_encoder.": ".",
        ".out_proj.": ".o_proj.",
        ".fc1.": ".mlp.fc1.",
        ".fc2.": ".mlp.fc2.",
        "model.position_embedding.": "model.backbone.position_embedding.",
    }
    state = {}
    for key, value in older.items():
        for old, new in replacements.items():
            key = key.replace(old, new)
        state[key] = value
    assert detect_table(state) == "detr.huggingface_resnet"
    table = TABLES["detr.huggingface_resnet"]
    converted = convert(table, state, model)
    assert_same(revert(table, converted.params, converted.origin), state)


def test_a_key_under_two_spellings_is_reported():
    state = to_state_dict("detr.huggingface", drawn(small()))
    name = "model.encoder.layers.0.self_attn.{}_proj.weight"
    state[name.format("o")] = state[name.format("out")] + 1
    with pytest.raises(ConversionError) as caught:
        load_state_dict("detr.huggingface", state, small())
    assert f"{name.format('o')}: it spells {name.format('out')} another way" in str(caught.value)


def test_a_criterions_class_weights_are_dropped_on_purpose():
    state = to_state_dict("detr", drawn(small()))
    state["criterion.empty_weight"] = np.ones(4, np.float32)
    assert convert(TABLES["detr"], state, small()).dropped == ["criterion.empty_weight"]


def pair_table():
    """A table of pairs, stored flat, with a buffer that counts them and a norm it lacks."""
    count = Buffer(
        Template("pairs_count"), Template("pairs"), lambda shape: np.arange(shape[0] // 2)
    )
    flat = Layout(
        lambda value, wanted: value[: 2 * wanted[0]].reshape(-1, 2), lambda value: value.reshape(-1)
    )
    return Table(
        "pairs",
        "pairs",
        (),
        tensors=(rename("pairs"),),
        layouts=((r"pairs", flat),),
        buffers=(count,),
        defaults=((r"norm/scale", 1.0),),
    )


def pair_shapes(rows):
    scale = jax.ShapeDtypeStruct((4,), np.float32)
    return {"pairs": jax.ShapeDtypeStruct((rows, 2), np.float32), "norm": {"scale": scale}}


def test_layouts_buffers_and_defaults_come_and_go():
    state = {"pairs": np.arange(6, dtype=np.float32), "pairs_count": np.arange(3)}
    converted = convert(pair_table(), state, pair_shapes(3))
    np.testing.assert_array_equal(converted.params["pairs"], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(converted.params["norm"]["scale"], np.ones(4))
    assert_same(revert(pair_table(), converted.params, converted.origin), state)
    assert_same(revert(pair_table(), converted.params), state)
    assert not converted.resized
    assert convert(pair_table(), state, pair_shapes(2)).resized == ["pairs"]


def test_what_was_not_there_does_not_come_back():
    state = {"pairs": np.arange(6, dtype=np.float32)}
    converted = convert(pair_table(), state, pair_shapes(3))
    assert_same(revert(pair_table(), converted.params, converted.origin), state)
    converted.params["norm"]["scale"][0] = 2
    with pytest.raises(ConversionError, match="norm/scale: in the official model it is always 1"):
        revert(pair_table(), converted.params, converted.origin)


def test_a_buffer_must_be_what_follows_from_its_tensor():
    state = {"pairs": np.arange(6, dtype=np.float32), "pairs_count": np.arange(1, 4)}
    with pytest.raises(ConversionError, match="pairs_count: it differs from what follows from"):
        convert(pair_table(), state, pair_shapes(3))
    with pytest.raises(ConversionError, match="missing    pairs: which pairs_count follows from"):
        convert(pair_table(), {"pairs_count": np.arange(3)}, pair_shapes(3))
