"""Grounding DINO Swin-T against Hugging Face's PyTorch model: the same weights, side by side.

python tools/benchmark/grounding_vs_torch.py VOCABULARY [--threads 2] [--repeats 3] [--profile]

VOCABULARY is the vocab.txt of google-bert/bert-base-uncased. Prints the ratio of PyTorch's time to
ours (above 1: ours is faster) of the forward pass at 800 × 1066, each the best of several runs
taken in turn: 4 names and COCO's 80, one image and four. Needs the extra `test`; nothing is
downloaded.

On two cores of a virtual x86 server (AMD Zen 5, AVX-512, jax 0.10.2, torch 2.13.0), otherwise idle:

    4 names, one image      1.83
    80 names, one image     1.70
    4 names, four images    1.78
    80 names, four images   1.58
"""

import argparse
import os

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection
from turns import report
from work_shares import shares

from jaxseg.data.classes import COCO_91, HOLE
from jaxseg.models import build
from jaxseg.structures import Images
from jaxseg.text.spans import caption_of, encode_captions
from jaxseg.text.wordpiece import WordPiece
from jaxseg_convert_torch import load_state_dict
from jaxseg_convert_torch.huggingface_grounding import EPSILON

HEIGHT, WIDTH = 800, 1066
NAMES = [name for name in COCO_91.names if name != HOLE]
CASES = ("4x1", "80x1", "4x4", "80x4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("vocabulary")
    parser.add_argument("--threads", type=int, help="of both (default: all cores)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=CASES, help="names × images (default: all)"
    )
    parser.add_argument("--profile", action="store_true", help="of our first case")
    arguments = parser.parse_args()
    if arguments.threads:
        # XLA's pool has as many threads as it may use cores, and is made at the first use.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
        torch.set_num_threads(arguments.threads)
    tokenizer = WordPiece(arguments.vocabulary)
    theirs, ours, params = pair()
    for names, batch in (map(int, case.split("x")) for case in arguments.cases):
        run_ours, run_theirs = forward(theirs, ours, params, tokenizer, names, batch)
        report(f"forward, {names} names, batch {batch}", run_ours, run_theirs, arguments.repeats)
        if arguments.profile:
            for kind, share in shares(run_ours.program, run_ours).items():
                print(f"  {kind:28} {100 * share:5.1f} %")
            return


def pair():
    """Hugging Face's model with random weights, ours, and the converted weights."""
    torch.manual_seed(0)
    theirs = GroundingDinoForObjectDetection(GroundingDinoConfig(dropout=0.0)).eval()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if name.endswith(("vision_param", "text_param")):  # else each side hardly reads
                value.fill_(0.2)
    ours = build("grounding_dino.swin_t", epsilon=EPSILON, bert_pooler=False)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    # In memory the backbone's keys are not those that are saved.
    state = {name.replace("conv_encoder.model.swin.", "conv_encoder.model."): x
             for name, x in state.items()}  # fmt: skip
    params = load_state_dict("grounding_dino.huggingface", state, ours)
    return theirs, ours, jax.tree.map(jnp.asarray, params)


def forward(theirs, ours, params, tokenizer, names: int, batch: int):
    """Two functions without arguments that each do one forward pass; they agree."""
    pixels = np.random.default_rng(0).normal(size=(batch, HEIGHT, WIDTH, 3)).astype(np.float32)
    images = Images(jnp.asarray(pixels), jnp.ones(pixels.shape[:3], bool))
    caption, _ = caption_of(NAMES[:names], ". ", ".")
    captions = jax.tree.map(jnp.asarray, encode_captions(tokenizer, [caption] * batch))
    given = {
        "pixel_values": torch.tensor(pixels).permute(0, 3, 1, 2).contiguous(),
        "input_ids": torch.tensor(np.array(captions.ids)).long(),
        "attention_mask": torch.tensor(np.array(captions.mask)).long(),
    }
    given["token_type_ids"] = torch.zeros_like(given["input_ids"])
    forward = jax.jit(lambda params, *inputs: ours.apply({"params": params}, *inputs))
    compiled = forward.lower(params, images, captions).compile()

    def run_ours():
        return jax.block_until_ready(compiled(params, images, captions))

    run_ours.program = compiled

    @torch.no_grad()
    def run_theirs():
        return theirs(**given)

    ours_found, theirs_found = run_ours(), run_theirs()
    # Of random weights the proposals are nearly equal, so their order, and the queries', differs.
    gaps = [
        np.abs(
            np.asarray(ours_found.memory) - theirs_found.encoder_last_hidden_state_vision.numpy()
        ),
        np.abs(
            np.asarray(ours_found.extras["memory_text"])
            - theirs_found.encoder_last_hidden_state_text.numpy()
        ),
    ]
    print(f"{names} names, batch {batch}: largest difference after the encoder "
          f"{gaps[0].max():.1e} (image), {gaps[1].max():.1e} (words)")  # fmt: skip
    return run_ours, run_theirs


if __name__ == "__main__":
    main()
