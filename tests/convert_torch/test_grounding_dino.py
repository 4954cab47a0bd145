"""Grounding DINO: Hugging Face's numbers from its own folders, official files, and back."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import constants

from jaxseg.checkpoints import from_pretrained, load_text, save_pretrained
from jaxseg.errors import UserError
from jaxseg.models import build
from jaxseg.params import abstract_inputs, flatten
from jaxseg.pretrained import ImageConfig, Pretrained
from jaxseg.structures import ABSENT, Captions, Images
from jaxseg.text.spans import encode_captions
from jaxseg_convert_torch import read_state_dict, to_state_dict
from jaxseg_convert_torch.files import read_checkpoint
from jaxseg_convert_torch.sources import open_foreign, write_huggingface, write_official
from tests.quick import quick_jit
from tests.vocabulary import FOLDER, package_file
from tests.weights import draw

SMALL = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 12,
}
BUILDER = {
    "swin": (16, (1, 1, 2, 1), (1, 2, 4, 8)),
    "width": 32,
    "num_heads": 4,
    "feedforward": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_queries": 12,
    "fusion_width": 32,
    "text_feedforward": 32,
    "text_heads": 2,
    "fusion_heads": 2,
    "bert_layers": 2,
    "bert_width": 64,
    "bert_heads": 1,
    "bert_feedforward": 48,
    "vocabulary": 30522,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Grounding DINO of random weights, as transformers saves it."""
    torch.manual_seed(0)
    swin = transformers.SwinConfig(
        embed_dim=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], out_indices=[2, 3, 4]
    )
    bert = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=48
    )
    config = transformers.GroundingDinoConfig(backbone_config=swin, text_config=bert, **SMALL)
    model = transformers.GroundingDinoForObjectDetection(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "layers.2.weight" in name and "bbox_embed" in name:
                value.normal_(0, 0.1)
            elif name.endswith(("vision_param", "text_param")):
                value.normal_(0.2, 0.1)
    path = tmp_path_factory.mktemp("hugging") / "grounding"
    model.save_pretrained(path)
    (path / "vocab.txt").write_bytes(package_file(f"{FOLDER}/vocab.txt").read_bytes())
    return path, model


@pytest.fixture(scope="module")
def inputs():
    """Two images of one size, and two captions of unequal length."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(2, 64, 96, 3)).astype(np.float32)
    mask = np.ones((2, 64, 96), bool)
    mask[1, 48:], mask[1, :, 80:] = False, False
    pixels[~mask] = 0
    texts = ["a cat. remote control. hot dog.", "zebra."]
    return jax.tree.map(jnp.asarray, Images(pixels, mask)), texts


def theirs(model, images: Images, captions: Captions):
    """What transformers answers: logits with the padding's chance taken, and boxes."""
    with torch.no_grad():
        found = model(
            pixel_values=torch.from_numpy(np.moveaxis(np.array(images.pixels), -1, 1).copy()),
            pixel_mask=torch.from_numpy(np.array(images.mask)).long(),
            input_ids=torch.from_numpy(np.array(captions.ids)).long(),
            attention_mask=torch.from_numpy(np.array(captions.mask)).long(),
            token_type_ids=torch.zeros(captions.ids.shape, dtype=torch.long),
        )
    logits = found.logits.numpy()[..., : captions.ids.shape[1]]
    return np.where(np.isfinite(logits), logits, ABSENT), found.pred_boxes.numpy()


def test_logits_and_boxes_are_transformers(folder, inputs):
    path, model = folder
    pretrained = from_pretrained(path)
    images, texts = inputs
    captions = jax.tree.map(jnp.asarray, encode_captions(pretrained.tokenizer(), texts))
    output = quick_jit(pretrained.model.apply)({"params": pretrained.params}, images, captions)
    logits, boxes = theirs(model, images, captions)
    np.testing.assert_allclose(output.logits[-1], logits, rtol=2e-5, atol=2e-4)
    np.testing.assert_allclose(output.boxes[-1], boxes, atol=2e-5)


def test_a_folder_goes_back_as_it_came(folder, tmp_path):
    path, _ = folder
    said = []
    write_huggingface(from_pretrained(path), tmp_path / "back", said.append)
    came, back = (read_checkpoint(p).tensors for p in (path, tmp_path / "back"))
    # A classifier's norm, which no detector reads.
    came = {key: value for key, value in came.items() if ".layernorm." not in key}
    assert came.keys() == back.keys()
    assert all(np.array_equal(came[key], back[key]) for key in came)
    assert not said
    loaded = transformers.GroundingDinoForObjectDetection.from_pretrained(tmp_path / "back")
    assert loaded.config.num_queries == SMALL["num_queries"]
    ours, saved = (json.loads((p / "config.json").read_text()) for p in (tmp_path / "back", path))
    for field in SMALL:
        assert ours[field] == saved[field], field
    for part in ("backbone_config", "text_config"):
        differing = {k for k, v in ours[part].items() if saved[part].get(k, v) != v}
        assert not differing, part
    words = package_file(f"{FOLDER}/vocab.txt").read_bytes()
    assert (tmp_path / "back/vocab.txt").read_bytes() == words


def test_an_official_file_says_its_sizes_and_goes_back(tmp_path, monkeypatch):
    model = build("grounding_dino.swin_t", **BUILDER)
    params = draw_params(model)
    state = to_state_dict("grounding_dino", params)
    state["label_enc.weight"] = np.ones((2001, 32), np.float32)
    state["bert.embeddings.position_ids"] = np.arange(512)[None]
    wrapped = {f"module.{key}": torch.from_numpy(np.array(value)) for key, value in state.items()}
    torch.save({"model": wrapped}, tmp_path / "small.pth")

    said = []
    pretrained = from_pretrained(tmp_path / "small.pth", say=said.append, num_heads=4)
    found = flatten(pretrained.params)
    for name, value in flatten(params).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    # What no shape shows is as in the published models, and said.
    assert any("text_heads=4 (its shapes cannot tell)" in note for note in said)
    assert (pretrained.model.encoder.text_heads, pretrained.model.encoder.fusion_heads) == (4, 4)
    assert pretrained.vocabulary is None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(UserError, match=r"hold no vocabulary[\s\S]*--vocab"):
        pretrained.tokenizer()

    write_official(pretrained, tmp_path / "back.pth", said.append)
    back = read_state_dict(tmp_path / "back.pth")
    kept = {k: v for k, v in state.items() if k != "label_enc.weight"}  # which nothing reads
    assert back.keys() == kept.keys()
    assert all(np.array_equal(back[key], kept[key]) for key in kept)


def draw_params(model):
    inputs = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), abstract_inputs(model))
    return jax.tree.map(np.asarray, draw(model, *inputs))


def test_what_no_tensor_shows_is_told_when_an_official_file_is_written(tmp_path):
    model = build("grounding_dino.swin_t", **BUILDER, text_level="sentence")
    image = ImageConfig()
    pretrained = Pretrained(model, draw_params(model), None, image, "grounding_dino.swin_t", {})
    said = []
    write_official(pretrained, tmp_path / "small.safetensors", said.append)
    for what in ("text_level='sentence'", "num_heads=4", "text_heads=2", "fusion_heads=2"):
        assert what in said[0]
    assert "bert_heads" not in said[0]


def test_a_bert_begins_a_training_from_every_form_that_holds_one(folder, tmp_path):
    path, _ = folder
    pretrained = from_pretrained(path)
    other = build("grounding_dino.swin_t", **BUILDER | {"num_queries": 5}, bert_pooler=False)
    wanted = flatten(pretrained.params["bert"])
    save_pretrained(tmp_path / "native", pretrained.name, pretrained.kwargs, pretrained.params)
    with_pooler = build("grounding_dino.swin_t", **BUILDER)
    drawn = draw_params(with_pooler)
    pooled = {"name": "grounding_dino.swin_t", "kwargs": BUILDER}
    save_pretrained(tmp_path / "pooled", pooled["name"], pooled["kwargs"], drawn)
    for source, values in (
        (path, wanted),
        (tmp_path / "native", wanted),
        (tmp_path / "pooled", flatten({k: x for k, x in drawn["bert"].items() if k != "pooler"})),
    ):
        found = flatten(load_text(source, other))
        assert found.keys() == values.keys()
        assert all(np.array_equal(found[key], values[key]) for key in values)
    with pytest.raises(UserError, match="give a file or folder of them, or a Hugging Face id"):
        load_text(tmp_path / "nowhere", other)


def test_a_native_folder_keeps_the_vocabulary(folder, tmp_path):
    pretrained = from_pretrained(folder[0])
    words = tmp_path / "words.txt"  # whatever it was called
    shutil.copyfile(pretrained.vocabulary, words)
    save_pretrained(
        tmp_path / "native", pretrained.name, pretrained.kwargs, pretrained.params,
        vocabulary=words,
    )  # fmt: skip
    again = from_pretrained(tmp_path / "native")
    assert again.vocabulary == tmp_path / "native/vocab.txt"
    assert again.model == pretrained.model


@pytest.mark.parametrize(
    ("field", "value"),
    [("two_stage", False), ("decoder_bbox_embed_share", False), ("query_dim", 2)],
)
def test_a_config_that_cannot_be_reproduced_is_refused_by_name(folder, tmp_path, field, value):
    shutil.copytree(folder[0], tmp_path / "other")
    config = json.loads((tmp_path / "other/config.json").read_text())
    (tmp_path / "other/config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(UserError, match=field):
        open_foreign(tmp_path / "other")


def test_what_transformers_lacks_is_not_written(tmp_path):
    model = build("grounding_dino.swin_t", **BUILDER, fusion=False)
    pretrained = Pretrained(model, {}, None, ImageConfig(), "grounding_dino.swin_t", {})
    with pytest.raises(UserError, match="no fusion"):
        write_huggingface(pretrained, tmp_path / "out")
