"""The proof that weights carry: it holds on the same model and names the first drift."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import cli, native
from jaxseg.backbones.resnet import FrozenBatchNorm
from jaxseg.checkpoints import ImageConfig, from_pretrained, save_pretrained
from jaxseg.errors import UserError
from jaxseg.models import build
from jaxseg.models.detr import decoder, encoder
from jaxseg.nn.layers import layer_norm
from jaxseg.params import flatten, unflatten
from jaxseg.probe import compare, probe_inputs, record_probe, run_probe
from tests.small_detr import FIELDS, drawn, small


@pytest.fixture(scope="module")
def params():
    return drawn(small())


@pytest.fixture(scope="module")
def recorded(params):
    return record_probe("detr.r50", FIELDS, params, ImageConfig())


def drifts(recorded, model, params):
    with jax.default_matmul_precision("highest"):
        compared = compare(recorded, run_probe(model, params, ImageConfig()))
    return [drift for drift in compared if not drift.ok]


def test_blocks_are_recorded_in_the_order_of_execution(recorded):
    names = [block["name"] for block in recorded["blocks"]]
    wanted = ["backbone/conv1", "backbone/layer1_0", "backbone/layer4_1", "position", "input_proj"]
    wanted += ["encoder/layer_0/norm1 alone", "encoder/layer_0", "encoder/layer_1"]
    wanted += ["decoder/layer_0", "decoder/layer_1", "output boxes"]
    assert [name for name in names if name in wanted] == wanted
    assert all(np.isfinite(block["std"]) for block in recorded["blocks"])
    assert np.mean([block["std"] > 1e-3 for block in recorded["blocks"]]) > 0.9


def test_detectors_whose_parts_have_an_epsilon_carry_a_proof_too():
    fields = {**FIELDS, "width": 64}
    model = build("dn_detr.r50", **fields)
    record = record_probe("dn_detr.r50", fields, drawn(model), ImageConfig())
    names = [block["name"] for block in record["blocks"]]
    assert "labels" in names
    assert "labels alone" not in names


def test_the_input_is_the_same_on_every_machine():
    (images,) = probe_inputs(small(), ImageConfig((0, 0, 0), (1, 1, 1)))
    pixels = np.asarray(images.pixels) * 255
    np.testing.assert_allclose(pixels[0, 0, :2].ravel(), [125, 13, 110, 27, 82, 238], atol=1e-3)
    assert abs(pixels[0].mean() - 127.5) < 3


def test_the_same_weights_agree_compiled_another_way(recorded, params):
    assert not drifts(recorded, small(canvas="padded", remat=True), params)


def test_bfloat16_is_seen_in_the_first_block(recorded, params):
    assert drifts(recorded, small(dtype=jnp.bfloat16), params)[0].name == "backbone/conv1"


def test_tf32_is_seen(recorded, params):
    def round_to_tf32(x):
        bits = np.asarray(x).view(np.uint32) + np.uint32(0x1000)
        return (bits & np.uint32(0xFFFFE000)).view(np.float32)

    flat = flatten(params)
    kernels = {p: round_to_tf32(x) for p, x in flat.items() if p.endswith("kernel")}
    assert drifts(recorded, small(), unflatten(flat | kernels))


def test_a_wrong_epsilon_of_the_backbone_is_seen_at_its_first_normalisation(recorded, params):
    model = small()
    norm = functools.partial(FrozenBatchNorm, epsilon=1e-6)
    wrong = model.clone(backbone=model.backbone.clone(norm=norm))
    assert drifts(recorded, wrong, params)[0].name == "backbone/norm1 alone"


def test_a_wrong_epsilon_of_the_transformer_is_seen(recorded, params, monkeypatch):
    wrong = functools.partial(layer_norm, epsilon=1e-6)
    for module in (encoder, decoder):
        monkeypatch.setattr(module, "layer_norm", wrong)
    found = [drift.name for drift in drifts(recorded, small(), params)]
    assert found[0] == "encoder/layer_0/norm1 alone"
    assert "decoder/norm alone" in found


def test_one_changed_weight_is_named_by_its_block(recorded, params):
    flat = flatten(params)
    kernel = flat["decoder/layer_1/linear1/kernel"].copy()
    kernel[3] += 0.1
    found = drifts(recorded, small(), unflatten(flat | {"decoder/layer_1/linear1/kernel": kernel}))
    assert found[0].name == "decoder/layer_1"


def test_weights_that_are_not_finite_drift(recorded, params):
    flat = flatten(params)
    bias = np.full_like(flat["input_proj/bias"], np.nan)
    found = drifts(recorded, small(), unflatten(flat | {"input_proj/bias": bias}))
    assert (found[0].name, found[0].error) == ("input_proj", float("inf"))


@pytest.fixture(scope="module")
def saved(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probed") / "small"
    save_pretrained(folder, "detr.r50", FIELDS | {"dtype": jnp.bfloat16}, params)
    return folder


def test_verify_passes_on_what_was_saved(saved, capsys):
    assert cli.main(["verify", str(saved)]) == 0
    output = capsys.readouterr().out
    assert "blocks agree" in output
    assert "DRIFT" not in output


def test_verify_names_the_block_of_a_damaged_file(saved, tmp_path, capsys):
    folder = tmp_path / "damaged"
    shutil.copytree(saved, folder)
    flat = native.read_weights(folder / native.WEIGHTS)
    weight = flat["encoder/layer_1/linear2/kernel"].copy()
    weight[:, 5] = 0
    native.write_weights(folder / native.WEIGHTS, flat | {"encoder/layer_1/linear2/kernel": weight})
    assert cli.main(["verify", str(folder)]) == 1
    output = capsys.readouterr().out
    assert "its SHA-256 is not the recorded one" in output
    assert "first drift: DRIFT  encoder/layer_1 " in output


def said(capsys):
    return " ".join(capsys.readouterr().err.split())  # wherever the paragraph was wrapped


def test_verify_says_what_it_cannot_check(saved, tmp_path, capsys):
    assert cli.main(["verify", str(tmp_path / "nothing")]) == 2
    assert f"there is no folder {tmp_path / 'nothing'}: give" in said(capsys)
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert "no config.json of jaxseg" in said(capsys)
    run = tmp_path / "run"
    shutil.copytree(saved, run / "best")
    assert cli.main(["verify", str(run)]) == 2
    assert f"it is a run's folder: its weights are {run / 'best'})" in said(capsys)
    with pytest.raises(UserError, match="it is a run's folder"):
        from_pretrained(run)
    folder = tmp_path / "bare"
    shutil.copytree(saved, folder)
    (folder / "probe.json").unlink()
    assert cli.main(["verify", str(folder)]) == 2
    assert "saved without a probe" in said(capsys)


@pytest.mark.parametrize("content", ["[]", '{"format": 1}', '{"format": 1, "blocks": [3]}'])
def test_a_damaged_probe_is_told(saved, tmp_path, capsys, content):
    folder = tmp_path / "bad"
    shutil.copytree(saved, folder)
    (folder / "probe.json").write_text(content)
    assert cli.main(["verify", str(folder)]) == 2
    assert "the recorded probe is damaged" in said(capsys)


def test_a_config_that_is_no_object_is_no_folder_of_ours(tmp_path, capsys):
    (tmp_path / "config.json").write_text("[1]")
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert "no config.json of jaxseg" in said(capsys)
