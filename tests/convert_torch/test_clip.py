"""CLIP: Hugging Face's model and OpenAI's archives, there and back."""

import json
import re

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from jaxseg.checkpoints import from_pretrained, save_source
from jaxseg.errors import UserError
from jaxseg.models import build
from jaxseg.params import abstract_params, flatten
from jaxseg.predict.clip_image import MEAN, STD, clip_pixels
from jaxseg.verify_command import verify
from jaxseg_convert_torch import (
    TABLES,
    detect_table,
    load_state_dict,
    read_state_dict,
    revert,
    write_state_dict,
)
from jaxseg_convert_torch.engine import to_official
from jaxseg_convert_torch.infer_clip import infer_clip
from jaxseg_convert_torch.sources import open_foreign, write_huggingface, write_official
from tests.quick import quick_jit
from tests.small_detr import assert_same, drawn

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

SIDE, CONTEXT, VOCABULARY = 48, 12, 99
TEXT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 1, "max_position_embeddings": CONTEXT, "vocab_size": VOCABULARY,
    "bos_token_id": VOCABULARY - 2, "eos_token_id": VOCABULARY - 1, "pad_token_id": 0,
}  # fmt: skip
VISION = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 2, "image_size": SIDE, "patch_size": 16,
}  # fmt: skip
# Of OpenAI's files without their three sizes.
KEYS = {"clip.vit_b32": 302, "clip.vit_b16": 302, "clip.vit_l14": 446, "clip.vit_l14_336": 446}


def huggingface(text=None, vision=None, width=24):
    """A small model with weights of a size that shows in its features."""
    config = CLIPConfig(
        text_config=TEXT | (text or {}), vision_config=VISION | (vision or {}), projection_dim=width
    )
    model = CLIPModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and name != "logit_scale":
                shift = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                tensor.copy_(shift + 0.15 * torch.randn(tensor.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("huggingface")
    huggingface().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory, folder):
    """The same model as OpenAI publishes them: a script archive, most of it in half precision."""
    path = tmp_path_factory.mktemp("openai") / "ViT-B-32.pt"
    state = revert(TABLES["clip"], from_pretrained(folder).params)
    save_script(state, path)
    return path


class Holder(torch.nn.Module):
    def forward(self, x):
        return x


def save_script(state, path):
    root = Holder()
    for key, value in state.items():
        *names, last = key.split(".")
        module = root
        for name in names:
            if name not in module._modules:
                module.add_module(name, Holder())
            module = module._modules[name]
        tensor = torch.from_numpy(value.copy())
        norm = any(name.startswith("ln_") for name in names)
        embedding = last in ("positional_embedding", "class_embedding", "logit_scale")
        half = not norm and not embedding and names != ["token_embedding"]
        module.register_parameter(last, torch.nn.Parameter(tensor.half() if half else tensor))
    for name, value in (("input_resolution", SIDE), ("context_length", CONTEXT),
                        ("vocab_size", VOCABULARY)):  # fmt: skip
        root.register_buffer(name, torch.tensor(value))
    torch.jit.script(root).save(path)


def some_inputs():
    rng = np.random.default_rng(1)
    pixels = rng.normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    ids = rng.integers(1, VOCABULARY - 1, (3, CONTEXT)).astype(np.int32)
    ids[0, 5:] = ids[1, 11:] = ids[2, 1:] = VOCABULARY - 1
    return pixels, ids


def computed(pretrained, pixels, ids):
    with jax.default_matmul_precision("highest"):
        return quick_jit(pretrained.model.apply)({"params": pretrained.params}, pixels, ids)


@pytest.mark.parametrize(
    ("activation", "epsilon", "end"),
    [("quick_gelu", 1e-5, VOCABULARY - 1), ("gelu", 1e-6, 2)],
)
def test_huggingfaces_model_has_the_same_features(tmp_path, activation, epsilon, end):
    shared = {"hidden_act": activation, "layer_norm_eps": epsilon}
    theirs = huggingface(shared | {"eos_token_id": end}, shared)
    theirs.save_pretrained(tmp_path)
    said = []
    ours = from_pretrained(tmp_path, say=said.append)
    assert said == []
    pixels, ids = some_inputs()
    with torch.no_grad():
        wanted = theirs(
            pixel_values=torch.tensor(pixels).permute(0, 3, 1, 2),
            input_ids=torch.tensor(ids, dtype=torch.int64),
            output_hidden_states=True,
        )
    found = computed(ours, pixels, ids)
    tokens, texts = (
        output.last_hidden_state
        for output in (wanted.vision_model_output, wanted.text_model_output)
    )
    with torch.no_grad():
        pooled = theirs.vision_model.post_layernorm(tokens[:, 0])
        ends = texts[torch.arange(len(ids)), torch.tensor(ids.argmax(1))]
        pairs = [
            (found.image.tokens, tokens),
            (found.image.pooled, pooled),
            (found.image.features, theirs.visual_projection(pooled)),
            (found.text.hidden[0], wanted.text_model_output.hidden_states[1]),
            (found.text.features, theirs.text_projection(ends)),
            (found.logits, wanted.logits_per_image),
        ]
    for mine, other in pairs:
        scale = other.abs().max().item()
        np.testing.assert_allclose(mine, other.numpy(), rtol=0, atol=1e-5 * scale)


def test_a_folder_comes_back_bit_for_bit_and_loads_there(tmp_path, folder):
    ours = from_pretrained(folder)
    assert ours.classes is None
    write_huggingface(ours, tmp_path / "back")
    back = CLIPModel.from_pretrained(tmp_path / "back").state_dict()
    there = huggingface().state_dict()
    assert set(back) == set(there)
    for name, tensor in there.items():
        assert torch.equal(back[name], tensor), name


def test_old_files_with_the_numbers_of_positions_load_and_get_them_back(tmp_path, folder):
    state = load_file(folder / "model.safetensors")
    numbers = {
        f"{tower}_model.embeddings.position_ids": np.arange(count)[None]
        for tower, count in (("text", CONTEXT), ("vision", 10))
    }
    save_file(state | numbers, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    ours = from_pretrained(tmp_path)
    assert_same(flatten(ours.params), flatten(from_pretrained(folder).params))
    write_huggingface(ours, tmp_path / "back")
    assert_same(load_file(tmp_path / "back" / "model.safetensors"), state | numbers)


def test_preprocessors_of_old_and_new_transformers_are_read(tmp_path, folder):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    old = {"size": SIDE, "crop_size": SIDE, "resample": 3, "do_center_crop": True}
    for content in ({}, old, old | {"resample": 2, "do_center_crop": False}):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
        source = open_foreign(tmp_path)
        assert (source.image.short_side, source.image.long_side) == (SIDE, SIDE)
        assert (source.image.mean, source.image.std) == (MEAN, STD)
        assert len(source.notes) == 2 * (content.get("resample") == 2)


def test_images_are_prepared_as_transformers_does(tmp_path, folder):
    write_huggingface(from_pretrained(folder), tmp_path / "back")
    theirs = CLIPImageProcessor.from_pretrained(tmp_path / "back")
    rng = np.random.default_rng(0)
    for size in ((70, 91), (91, 70), (48, 60), (50, 50)):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        wanted = np.asarray(theirs(image, return_tensors="np")["pixel_values"])
        found = clip_pixels([image], SIDE)
        assert wanted.shape == (1, 3, SIDE, SIDE)
        np.testing.assert_allclose(np.moveaxis(found, -1, 1), wanted, rtol=0, atol=2e-5)


def test_openais_archive_is_the_same_model(archive, folder):
    said = []
    ours, wanted = from_pretrained(archive, say=said.append), from_pretrained(folder)
    assert said == []
    assert ours.model == wanted.model
    assert (ours.image.mean, ours.image.short_side) == (MEAN, SIDE)
    params, close = flatten(ours.params), flatten(wanted.params)
    for path, value in params.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, close[path], rtol=1e-3, atol=1e-6, err_msg=path)


def test_openais_archive_comes_back_tensor_for_tensor(tmp_path, archive):
    ours = from_pretrained(archive)
    count = write_official(ours, tmp_path / "back.safetensors")
    wanted = torch.jit.load(archive).state_dict()
    back = read_state_dict(tmp_path / "back.safetensors")
    assert count == len(wanted) == len(back)
    for name, tensor in wanted.items():
        assert str(back[name].dtype) == str(tensor.dtype).removeprefix("torch."), name
        np.testing.assert_array_equal(back[name], tensor.numpy(), name)


def test_weights_of_either_form_serve_the_other(tmp_path, archive, folder):
    ours = from_pretrained(archive)
    write_huggingface(ours, tmp_path / "hf")
    assert_same(flatten(from_pretrained(tmp_path / "hf").params), flatten(ours.params))
    said = []
    write_official(from_pretrained(folder), tmp_path / "clip.safetensors", said.append)
    assert said == []
    again = from_pretrained(tmp_path / "clip.safetensors", say=said.append)
    assert_same(flatten(again.params), flatten(from_pretrained(folder).params))
    assert len(said) == 1
    assert "assumed activation='quick_gelu', OpenAI's (its keys cannot tell" in said[0]


def test_a_converted_archive_is_native_and_verified(tmp_path, archive):
    source = open_foreign(archive)
    assert source.dropped == ["context_length", "input_resolution", "vocab_size"]
    save_source(source, tmp_path / "native")
    assert_same(
        flatten(from_pretrained(tmp_path / "native").params),
        flatten(from_pretrained(archive).params),
    )
    assert all(drift.ok for drift in verify(tmp_path / "native"))


def test_what_openais_model_would_compute_otherwise_is_said(tmp_path, folder):
    said = []
    other = from_pretrained(folder, activation="gelu", image_heads=4)
    write_official(other, tmp_path / "clip.safetensors", said.append)
    assert len(said) == 1
    assert "'gelu', 1e-05 and heads 32 and 64 wide: it computes something else" in said[0]


@pytest.mark.parametrize(("name", "count"), KEYS.items())
def test_a_published_model_has_the_official_keys_and_is_known_by_its_shapes(name, count):
    table, state = TABLES["clip"], {}
    for path, leaf in flatten(abstract_params(build(name))).items():
        # Broadcast views have the shapes of full size and the memory of a number each.
        value, layout = np.broadcast_to(np.float16(0), leaf.shape), table.layout(path)
        state[table.key(path)] = layout.write(value) if layout else to_official(path, value)
        assert TABLES["clip.huggingface"].key(path) is not None
    assert len({re.sub(r"\.[qkv]_proj\.", ".in_proj_", key) for key in state}) == count
    inferred = infer_clip(state, "a.pt")
    assert (inferred.name, inferred.kwargs, inferred.assumptions) == (name, {}, [])


def test_a_named_model_must_be_the_files(archive):
    with pytest.raises(UserError, match=r"is no detr\.r50: its tensors are those of clip\."):
        from_pretrained(archive, model="detr.r50")
    with pytest.raises(UserError, match="leave num_heads out"):
        open_foreign(archive, num_heads=2)


def test_a_clip_with_a_resnet_is_refused(tmp_path, archive):
    state = {key: np.array(value) for key, value in read_state_dict(archive).items()}
    state["visual.layer1.0.conv1.weight"] = np.zeros((1, 1, 1, 1))
    path = tmp_path / "RN50.safetensors"
    write_state_dict(state, path)
    with pytest.raises(UserError, match="a CLIP with a ResNet, which is not supported"):
        open_foreign(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "vision_config.hidden_act must be 'quick_gelu' or 'gelu'; got"),
        ({"hidden_act": "gelu"}, "text_config.hidden_act must be 'gelu'; got 'quick_gelu'"),
        ({"layer_norm_eps": 1e-6}, "text_config.layer_norm_eps must be 1e-06; got 1e-05"),
        ({"intermediate_size": 512}, "text_config.intermediate_size must be 256; got 128"),
        ({"num_channels": 4}, "vision_config.num_channels must be 3; got 4"),
        ({"patch_size": 0}, "vision_config.patch_size must be a whole number above 0; got 0"),
    ],
)
def test_a_config_that_cannot_be_reproduced_is_refused_by_its_field(
    tmp_path, folder, change, message
):
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        open_foreign(tmp_path)


def test_a_config_that_says_two_things_is_refused(tmp_path, folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config_dict"] = {"hidden_size": 64, "num_hidden_layers": 7}
    (tmp_path / "config.json").write_text(json.dumps(config))
    message = r"text_config_dict\.num_hidden_layers must be 2; got 7"
    with pytest.raises(UserError, match=message):
        open_foreign(tmp_path)


def test_a_wrong_tensor_is_reported_by_its_key(tmp_path, archive):
    state = {key: np.array(value) for key, value in read_state_dict(archive).items()}
    del state["ln_final.bias"]
    state["visual.proj"] = state["visual.proj"].T.copy()
    write_state_dict(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"misshapen +visual\.proj.*\n +missing +ln_final\.bias"):
        open_foreign(tmp_path / "a.safetensors")


def test_random_weights_survive_both_tables_and_are_known_by_them():
    model = build("clip.tiny")
    params = drawn(model)
    for table in ("clip", "clip.huggingface"):
        state = revert(TABLES[table], params)
        assert detect_table(state) == table
        assert_same(flatten(load_state_dict(table, state, model)), flatten(params))
