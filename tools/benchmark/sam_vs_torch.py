"""Segment Anything against the original PyTorch code: the same weights, side by side.

python tools/benchmark/sam_vs_torch.py FOLDER [--size vit_b] [--repeats 5] [--only encoder]

FOLDER is a checkout of github.com/facebookresearch/segment-anything. Prints the ratio of PyTorch's
time to ours (above 1: ours is faster), each the best of several runs taken in turn, of the image
encoder on one image; of prompt encoder and mask decoder for 1, 16 and 64 prompts of a point; and of
automatic masks from 16 × 16 points on an image of 480 × 640, of whose 768 candidates a third passes
the filters; of these, random weights being what they are, suppression leaves a few, or, where it is
off, all. Compilation is timed apart. Needs the extra `test`; nothing is downloaded.

On two cores of a virtual x86 server (AMD Zen 5, AVX-512, jax 0.10.2, torch 2.13.0), otherwise
idle, ViT-B:

    image encoder                1.66
    decoder, 1 prompt            1.77
    decoder, 16 prompts          3.35
    decoder, 64 prompts          3.64
    automatic masks, few left    3.09
    automatic masks, all left    3.25
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from original_sam import import_original

from jaxseg.models import build
from jaxseg.predict import AutomaticMaskGenerator
from jaxseg.predict.sam_predictor import SamPredictor
from jaxseg.structures import Images, Prompts
from jaxseg_convert_torch import load_state_dict

PARTS = ("encoder", "decoder", "masks")
IMAGE = (480, 640)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="a checkout of the original")
    parser.add_argument("--size", choices=("vit_b", "vit_l", "vit_h"), default="vit_b")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    arguments = parser.parse_args()
    original = import_original(arguments.folder)
    torch.manual_seed(0)
    theirs = original.sam_model_registry[arguments.size]().eval()
    _spread(theirs)
    ours = build(f"sam.{arguments.size}")
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    params = jax.tree.map(jnp.asarray, load_state_dict("sam", state, ours))
    torch.set_grad_enabled(False)
    with jax.default_matmul_precision("highest"):
        for part in arguments.only:
            BENCHMARKS[part](original, theirs, ours, params, arguments.repeats)


def _spread(model) -> None:
    """Weights whose masks differ from place to place, which initial ones hardly do."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if "rel_pos" in name or "pos_embed" in name:
            tensor.normal_(0, 0.1, generator=generator)


def encoder(original, theirs, ours, params, repeats: int) -> None:
    """One image of the model's size."""
    pixels = np.random.default_rng(0).normal(size=(1, 1024, 1024, 3)).astype(np.float32)
    images = Images(jnp.asarray(pixels), jnp.ones(pixels.shape[:3], bool))
    theirs_in = torch.tensor(pixels).permute(0, 3, 1, 2).contiguous()
    encode = jax.jit(lambda p, x: ours.apply({"params": p}, x, method="encode"))
    run_ours, run_theirs = lambda: encode(params, images), lambda: theirs.image_encoder(theirs_in)
    gap = np.abs(np.asarray(run_ours()) - run_theirs().permute(0, 2, 3, 1).numpy()).max()
    print(f"encoder: largest difference {gap:.1e}")
    report("image encoder", run_ours, run_theirs, repeats)


def decoder(original, theirs, ours, params, repeats: int) -> None:
    """Prompts of one point each on one image."""
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(1, 64, 64, 256)).astype(np.float32)
    maps = torch.tensor(embedding).permute(0, 3, 1, 2).contiguous()
    decode = jax.jit(
        lambda p, maps, prompts: ours.apply({"params": p}, maps, prompts, method="decode").multiple
    )
    for count in (1, 16, 64):
        points = rng.uniform(0, 1024, (1, count, 1, 2)).astype(np.float32)
        labels = np.ones((1, count, 1), np.int32)
        prompts = Prompts(jnp.asarray(points), jnp.asarray(labels))
        given = (torch.tensor(points[0]), torch.tensor(labels[0]))

        def run_ours(prompts=prompts):
            return decode(params, jnp.asarray(embedding), prompts)

        def run_theirs(given=given):
            sparse, dense = theirs.prompt_encoder(points=given, boxes=None, masks=None)
            return theirs.mask_decoder(
                image_embeddings=maps,
                image_pe=theirs.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )

        wanted = run_theirs()[0].numpy()
        gap = np.abs(np.asarray(run_ours().logits[0]) - wanted).max() / np.abs(wanted).max()
        print(f"decoder, {count} prompts: largest relative difference {gap:.1e}")
        report(f"decoder, {count} prompts", run_ours, run_theirs, repeats)


def masks(original, theirs, ours, params, repeats: int) -> None:
    """All masks of one image."""
    image = np.random.default_rng(0).integers(0, 256, (*IMAGE, 3), np.uint8)
    image = np.repeat(np.repeat(image[::40, ::40], 40, 0), 40, 1)
    thresholds = _thresholds(ours, params, image)
    for left, overlap in (("few", 0.7), ("all", 1.0)):
        options = {
            "points_per_side": 16,
            "stability_score_thresh": 0.0,
            "box_nms_thresh": overlap,
            **thresholds,
        }
        ours_all = AutomaticMaskGenerator(ours, params, **options).generate
        theirs_all = original.SamAutomaticMaskGenerator(theirs, **options).generate
        name = f"automatic masks, {left} left"
        report(name, lambda run=ours_all: run(image), lambda run=theirs_all: run(image), repeats)
        print(f"masks: {len(ours_all(image))}, the original's: {len(theirs_all(image))}")


def _thresholds(ours, params, image) -> dict[str, float]:
    """A predicted quality that a third of the candidates passes."""
    predictor = SamPredictor(ours, params)
    maps = predictor.encode([image]).maps
    grid = np.stack(np.meshgrid(*[np.linspace(32, 735, 16)] * 2), -1).reshape(1, -1, 1, 2)
    prompts = Prompts(jnp.asarray(grid, jnp.float32), jnp.ones((1, 256, 1), jnp.int32))
    found = jax.jit(lambda p, m, x: ours.apply({"params": p}, m, x, method="decode").multiple.iou)
    return {"pred_iou_thresh": float(np.quantile(found(params, maps, prompts), 2 / 3))}


def report(name: str, run_ours: Callable, run_theirs: Callable, repeats: int) -> None:
    """Both times, the best of several runs in turn, and their ratio.

    What takes milliseconds runs more often, for as long as a second.
    """
    first = seconds(run_ours)
    once = seconds(run_theirs)
    ours, theirs = [], []
    for _ in range(max(repeats, int(1 / once))):
        ours.append(seconds(run_ours))
        theirs.append(seconds(run_theirs))
    print(
        f"{name:25} PyTorch {min(theirs):8.3f} s  ours {min(ours):8.3f} s  ratio "
        f"{min(theirs) / min(ours):5.2f}  (the first call {first:.1f} s)",
        flush=True,
    )


def seconds(function: Callable) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


BENCHMARKS = dict(zip(PARTS, (encoder, decoder, masks), strict=True))

if __name__ == "__main__":
    main()
