"""ONNX's form, in the environment of `make onnx`."""

import json

import numpy as np
import pytest

from jaxseg.cli import main
from jaxseg.errors import UserError
from jaxseg.export import onnx
from jaxseg.export.programs import Program
from jaxseg.exported import INFO, Argument
from jaxseg.predict import Prompt, SamPredictor
from tests.export.dino import save_dino
from tests.predict.small_sam import save_small
from tests.predict.tiny import save_tiny

try:
    import jax2onnx  # noqa: F401
    import onnxruntime
except ImportError:
    onnxruntime = None

needs_jax2onnx = pytest.mark.skipif(onnxruntime is None, reason="needs jax2onnx: make onnx")


@pytest.mark.skipif(onnxruntime is not None, reason="jax2onnx is here")
def test_without_jax2onnx_what_to_install_is_said(tmp_path, capsys):
    weights = save_small(tmp_path / "weights")
    assert main(["export", str(weights), str(tmp_path / "out"), "--to", "onnx"]) == 2
    assert "pip install 'jaxseg[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@needs_jax2onnx
def test_segment_anything_for_any_images_and_sets_of_prompts(tmp_path):
    weights, out = save_small(tmp_path / "weights"), tmp_path / "out"
    assert main(["export", str(weights), str(out), "--to", "onnx", "--points", "4"]) == 0
    assert json.loads((out / INFO).read_text())["form"] == "onnx"
    predictor = SamPredictor.from_pretrained(weights)
    image = np.random.default_rng(0).integers(0, 256, (128, 90, 3), np.uint8)
    predictor.set_image(image)

    canvas = np.zeros((1, 128, 128, 3), np.uint8)
    canvas[0, :, :90] = image
    encode, decode = (onnxruntime.InferenceSession(out / f"{x}.onnx") for x in ("encode", "decode"))
    (embedding,) = encode.run(None, {"pixels": canvas, "sizes": np.int32([[128, 90]])})
    wanted = np.asarray(predictor.get_image_embedding())
    np.testing.assert_allclose(embedding, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())

    given = {
        "embedding": embedding,
        "points": np.zeros((1, 2, 4, 2), np.float32),
        "labels": np.zeros((1, 2, 4), np.int32),
        "points_mask": np.zeros((1, 2, 4), bool),
        "boxes": np.zeros((1, 2, 4), np.float32),
        "boxes_mask": np.array([[False, True]]),
        "masks": np.zeros((1, 2, 32, 32), np.float32),
        "masks_mask": np.zeros((1, 2), bool),
    }
    given["points"][0, 0, 0], given["labels"][0, 0, 0] = (10, 20), 1
    given["points_mask"][0, 0, 0] = True
    given["boxes"][0, 1] = 3, 4, 30, 25
    logits, iou = decode.run(["logits", "iou"], given)
    prompts = [Prompt([[10, 20]], [1]), Prompt(box=[3, 4, 30, 25])]
    for row, wanted in enumerate(predictor.predict_all(prompts)):
        scale = np.abs(wanted.low_res).max()
        np.testing.assert_allclose(logits[0, row, 1:], wanted.low_res, rtol=0, atol=2e-5 * scale)
        np.testing.assert_allclose(iou[0, row, 1:], wanted.iou, rtol=0, atol=2e-5)


@needs_jax2onnx
@pytest.mark.parametrize("name", ["detr.tiny", "detr.tiny_masks", "dino.tiny"])
def test_detectors_for_a_canvas(tmp_path, capsys, name):
    weights = tmp_path / "weights"
    if name == "dino.tiny":
        save_dino(weights)
    else:
        save_tiny(weights, name=name)
    command = ["export", str(weights), str(tmp_path / "out"), "--to", "onnx", "--canvas", "64x128"]
    assert main(command) == 0
    assert "ONNX Runtime differs by" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "out" / "detect-64x128.onnx")
    names = [one.name for one in session.get_outputs()]
    assert names[:3] == ["boxes", "scores", "labels"]


@needs_jax2onnx
def test_a_model_that_onnx_computes_otherwise_is_refused(tmp_path, monkeypatch):
    x, y = Argument("x", (2, 3), "float32"), Argument("y", (2, 3), "float32")
    right = Program("f", "f", lambda _, inputs: {"y": inputs["x"] * 2.0}, {}, (x,), (y,))
    assert onnx.write_onnx(right, tmp_path, precision="highest") < 1e-6
    wrong = Program("f", "f", lambda _, inputs: {"y": inputs["x"] * 2.001}, {}, (x,), (y,))
    monkeypatch.setattr(onnx, "_convert", lambda *_: None)
    with pytest.raises(UserError, match=r"computes y of f otherwise: it differs by 5\.0e-04"):
        onnx.write_onnx(wrong, tmp_path, precision="highest")
