"""What `jaxseg export` writes computes what the predictors do, without the models' code."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jaxseg.checkpoints import from_pretrained
from jaxseg.cli import main
from jaxseg.errors import UserError
from jaxseg.export import write_export
from jaxseg.export.programs import programs_of
from jaxseg.exported import INFO, load
from jaxseg.models import build
from jaxseg.predict import Detector, Prompt, SamPredictor
from jaxseg.pretrained import ImageConfig, Pretrained
from tests.export.dino import save_dino
from tests.predict.small_sam import save_small
from tests.predict.tiny import save_tiny

RNG = np.random.default_rng(4)
CANVASES = RNG.integers(0, 256, (2, 128, 128, 3), np.uint8)
SIZES = np.array([[128, 90], [60, 128]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights and, beside them, what was exported of them."""
    return tmp_path_factory.mktemp("sam")


@pytest.fixture(scope="module")
def sam(folder):
    assert main(["export", str(save_small(folder / "weights")), str(folder / "out")]) == 0
    return load(folder / "out")


@pytest.fixture(scope="module")
def embedding(sam):
    return sam["encode"](pixels=CANVASES, sizes=SIZES)["embedding"]


@pytest.fixture(scope="module")
def predictor(folder, sam):
    return SamPredictor.from_pretrained(folder / "weights")


def crops():
    return [canvas[:h, :w] for canvas, (h, w) in zip(CANVASES, SIZES, strict=True)]


def assert_near(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


def test_an_encoder_for_any_number_of_images(sam, embedding, predictor):
    assert_near(embedding, predictor.encode(crops()).maps)
    alone = sam["encode"](pixels=CANVASES[1:], sizes=SIZES[1:])["embedding"]
    assert_near(alone, embedding[1:])


LOGITS = RNG.normal(size=(32, 32)).astype(np.float32)


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        (
            {"points": [[[[10, 20], [30, 5]]]], "labels": [[[1, 0]]]},
            [Prompt([[10, 20], [30, 5]], [1, 0])],
        ),
        (
            {"boxes": [[[3, 4, 30, 25], [1, 2, 9, 9]]]},
            [Prompt(box=[3, 4, 30, 25]), Prompt(box=[1, 2, 9, 9])],
        ),
        ({"masks": LOGITS[None, None]}, [Prompt(mask=LOGITS)]),
        ({}, [Prompt()]),
        (
            {
                "points": [[[[10, 20]]] * 3],
                "labels": [[[1]] * 3],
                "points_mask": [[[True], [True], [False]]],
                "boxes": [[[3, 4, 30, 25]] * 3],
                "boxes_mask": [[False, True, True]],
                "masks": np.stack([LOGITS] * 3)[None],
                "masks_mask": [[True, False, False]],
            },
            [
                Prompt([[10, 20]], [1], mask=LOGITS),
                Prompt([[10, 20]], [1], box=[3, 4, 30, 25]),
                Prompt(box=[3, 4, 30, 25]),
            ],
        ),
    ],
    ids=["points", "boxes", "mask", "nothing", "together"],
)
def test_a_decoder_for_any_prompts(sam, embedding, predictor, given, prompts):
    answer = sam["decode"](embedding=embedding[:1], **given)
    predictor.set_image(crops()[0])
    wanted = predictor.predict_all(prompts)
    assert_near(answer["logits"][0, :, 1:], np.stack([one.low_res for one in wanted]))
    assert_near(answer["iou"][0, :, 1:], np.stack([one.iou for one in wanted]))


def test_it_runs_without_the_models_code(sam, embedding, folder):
    np.savez(folder / "in.npz", pixels=CANVASES, sizes=SIZES)
    code = """
import sys
import numpy as np
from jaxseg.exported import load
sam = load(sys.argv[1] + "/out")
np.save(sys.argv[1] + "/found.npy", sam["encode"](**np.load(sys.argv[1] + "/in.npz"))["embedding"])
foreign = [name for name in sys.modules if name.split(".")[0] in ("flax", "optax")]
own = [name for name in sys.modules if name.startswith("jaxseg.")]
print(foreign, own)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[] ['jaxseg.errors', 'jaxseg.exported']"
    assert_near(np.load(folder / "found.npy"), embedding)


def test_its_programs_are_for_several_platforms(folder, sam):
    info = json.loads((folder / "out" / INFO).read_text())
    assert info["platforms"] == ["cpu", "cuda", "tpu"]
    assert info["model"] == "sam.tiny"
    assert info["image"]["long_side"] == 128
    assert sam.functions["decode"].inputs[0][1].shape == ("b", "p", "n", 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"point": [[[[1, 2]]]]}, "decode has no input 'point'.*points .b, p, n, 2. float32"),
        ({"points": [[[[1, 2]]]]}, "decode needs labels"),
        ({"labels": [[[1]]]}, "decode needs points"),
        ({"points_mask": [[[True]]]}, "decode needs points"),
        ({"points": [[1, 2]], "labels": [1]}, r"points .b, p, n, 2. float32; got .1, 2."),
        (
            {"points": [[[[1, 2]]]], "labels": [[[1, 1]]]},
            r"labels .b, p, n. int32; got .1, 1, 2. where b = 1, p = 1, n = 1",
        ),
        ({"points": np.zeros((1, 1, 0, 2)), "labels": np.zeros((1, 1, 0), int)}, "no side may be"),
        ({"points": [[[[1, 2]]]], "labels": [[[0.5]]]}, "int32; got float64"),
        ({"masks": np.zeros((1, 1, 64, 64))}, r"masks .b, p, 32, 32. float32; got .1, 1, 64, 64."),
    ],
)
def test_inputs_that_do_not_fit_are_named(sam, embedding, given, message):
    with pytest.raises(UserError, match=message):
        sam["decode"](embedding=embedding[:1], **given)


def test_what_cannot_be_loaded_is_named(folder, sam, tmp_path):
    with pytest.raises(UserError, match="no function 'detect' was exported; there are encode"):
        sam["detect"]
    with pytest.raises(UserError, match="was not written by jaxseg export"):
        load(tmp_path)
    (tmp_path / INFO).write_text("{}")
    with pytest.raises(UserError, match="does not describe an exported model"):
        load(tmp_path)
    out = tmp_path / "copy"
    write_export(from_pretrained(folder / "weights"), out)
    (out / "encode.stablehlo").write_bytes(b"no program")
    with pytest.raises(UserError, match=r"encode\.stablehlo is damaged, or of another JAX"):
        load(out)
    write_export(from_pretrained(folder / "weights"), out)  # takes the old one's place
    (out / "decode.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"decode\.safetensors, or it is damaged"):
        load(out)
    info = json.loads((out / INFO).read_text())
    for changes, message in (
        ({"version": 99}, "has format 99, this jaxseg reads 1"),
        ({"form": "onnx"}, "holds onnx, which this cannot run: use onnxruntime"),
    ):
        (out / INFO).write_text(json.dumps(info | changes))
        with pytest.raises(UserError, match=message):
            load(out)


def test_a_folder_with_other_files_is_left_alone(folder, sam, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("all of it")
    assert main(["export", str(folder / "weights"), str(tmp_path)]) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.fixture(params=["detr.tiny", "detr.tiny_masks"])
def detector(request, tmp_path):
    weights = save_tiny(tmp_path / "weights", name=request.param)
    return tmp_path, Detector.from_pretrained(weights, buckets=[(64, 96), (96, 64)])


def test_a_detector_with_a_program_for_each_canvas(detector):
    folder, detector = detector
    command = ["export", str(folder / "weights"), str(folder / "out")]
    assert main([*command, "--canvas", "96x64", "64x96", "--platforms", "cpu"]) == 0
    exported = load(folder / "out")
    for size in ((64, 90), (80, 50)):
        image = RNG.integers(0, 256, (*size, 3), np.uint8)
        prepared = detector.prepare(image)
        shape = next(
            one.shape for (one, *_) in exported["detect"].inputs if one.shape[1] >= one.shape[2]
        )
        canvas = np.zeros((1, *(shape[1:3] if size[0] > size[1] else shape[2:0:-1]), 3), np.uint8)
        canvas[0, : prepared.pixels.shape[0], : prepared.pixels.shape[1]] = prepared.pixels
        found = exported["detect"](
            pixels=canvas, sizes=[prepared.pixels.shape[:2]], original_sizes=[size]
        )
        wanted = detector(image, threshold=0.0)
        order = np.argsort(-np.asarray(found["scores"][0]), kind="stable")
        assert_near(np.asarray(found["scores"][0])[order], wanted.scores)
        assert_near(np.asarray(found["boxes"][0])[order], wanted.boxes)
        if "mask_logits" in found:
            assert found["mask_logits"].shape[:2] == found["boxes"].shape[:2]
    assert exported.info["classes"]
    with pytest.raises(UserError, match=r"pixels .1, 64, 96, 3. uint8; got .1, 32, 32, 3."):
        exported["detect"](pixels=canvas[:, :32, :32], sizes=[[9, 9]], original_sizes=[[9, 9]])


def test_deformable_attention_has_a_form_for_each_platform(tmp_path):
    pretrained = from_pretrained(save_dino(tmp_path / "weights"))
    write_export(pretrained, tmp_path / "out", canvases=[(64, 64)], batch_size=2)
    exported = load(tmp_path / "out")
    images = [RNG.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(2)]
    sizes = [[64, 64]] * 2
    found = exported["detect"](pixels=np.stack(images), sizes=sizes, original_sizes=sizes)
    detector = Detector(pretrained.model, pretrained.params, buckets=[(64, 64)])
    for scores, image in zip(found["scores"], images, strict=True):
        assert_near(np.sort(scores)[::-1], detector(image, threshold=0.0).scores)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--platforms", "gpu"], "no platform 'gpu'; there are cpu, cuda, rocm, tpu"),
        (["--dtype", "int8"], "--dtype must be one of float32, bfloat16, float16; got 'int8'"),
        (["--batch-size", "0"], "batch_size must be 1 or more; got 0"),
        (["--canvas", "100x64"], "multiples of 32, the model's stride; got 100x64"),
        (["--points", "0"], "points must be 1 or more; got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, capsys, arguments, message):
    weights = save_tiny(tmp_path / "weights")
    assert main(["export", str(weights), str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_models_files_and_platform_are_checked(folder, sam, tmp_path):
    out = tmp_path / "copy"
    pretrained = from_pretrained(folder / "weights")
    write_export(pretrained, out)
    info = json.loads((out / INFO).read_text())
    info["functions"]["decode"]["sha256"] = "0" * 64
    (out / INFO).write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"decode\.safetensors, or it is damaged \(its SHA-256"):
        load(out)
    write_export(pretrained, out, platforms=["tpu"])
    with pytest.raises(UserError, match="exported for tpu, and this process computes on cpu"):
        load(out)
    info = json.loads((out / INFO).read_text())
    del info["form"]
    (out / INFO).write_text(json.dumps(info))
    with pytest.raises(UserError, match="lacks 'form': export again"):
        load(out)


def test_what_lies_beside_an_export_is_not_replaced_with_it(folder, sam, tmp_path):
    out = tmp_path / "copy"
    pretrained = from_pretrained(folder / "weights")
    write_export(pretrained, out)
    (out / "mine.safetensors").write_bytes(b"all of it")
    with pytest.raises(UserError, match=r"mine\.safetensors.*which would be lost"):
        write_export(pretrained, out)
    assert (out / "mine.safetensors").read_bytes() == b"all of it"


def test_segment_anything_has_one_canvas(folder, sam, tmp_path, capsys):
    command = ["export", str(folder / "weights"), str(tmp_path / "out"), "--canvas", "64x64"]
    assert main(command) == 2
    assert "Segment Anything's canvas is 128x128" in capsys.readouterr().err


def test_half_precision_inside_is_float32_outside(folder, predictor):
    pretrained = from_pretrained(folder / "weights", dtype="bfloat16")
    write_export(pretrained, folder / "half")
    half = load(folder / "half")
    embedding = half["encode"](pixels=CANVASES, sizes=SIZES)["embedding"]
    assert embedding.dtype == np.float32
    wanted = np.asarray(predictor.encode(crops()).maps)
    difference = np.abs(np.asarray(embedding) - wanted).max() / np.abs(wanted).max()
    assert 1e-6 < difference < 5e-2
    answer = half["decode"](embedding=embedding[:1], boxes=[[[3, 4, 30, 25]]])
    assert answer["logits"].dtype == answer["iou"].dtype == np.float32


def test_models_that_read_texts_are_refused_by_name():
    for name in ("grounding_dino.tiny", "clip.tiny"):
        pretrained = Pretrained(build(name), {}, None, ImageConfig(), name, {})
        with pytest.raises(UserError, match="which reads texts, is not"):
            programs_of(pretrained)
