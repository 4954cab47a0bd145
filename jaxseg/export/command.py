"""Write a model as programs that run without its code: StableHLO for JAX, or ONNX.

jaxseg export facebook/detr-resnet-50 exported/detr
jaxseg export sam_vit_b_01ec64.pth exported/sam --platforms cpu,tpu
jaxseg export weights/mine exported/mine --canvas 640x640 --batch-size 8
jaxseg export facebook/sam-vit-base exported/sam-onnx --to onnx
"""

import argparse
import sys
from typing import get_args

from jaxseg.checkpoints import from_pretrained
from jaxseg.errors import UserError
from jaxseg.export.folder import PLATFORMS, Form, write_export
from jaxseg.predict.preprocess import Size

KNOWN = ("cpu", "cuda", "rocm", "tpu")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "weights", help="folder of weights, official .pth or .safetensors file, or Hugging Face id"
    )
    parser.add_argument("folder", metavar="OUT", help="folder to write")
    parser.add_argument(
        "--to",
        choices=get_args(Form),
        default="stablehlo",
        help="stablehlo, which jaxseg.exported.load runs; onnx needs the extra onnx "
        "(default: %(default)s)",
    )
    parser.add_argument("--model", help="builder of an official file (DC5, 3 patterns)")
    parser.add_argument("--revision", help="branch, tag or commit of a Hugging Face id")
    parser.add_argument(
        "--platforms",
        default=",".join(PLATFORMS),
        help=f"that StableHLO is for, of {', '.join(KNOWN)} (default: %(default)s)",
    )
    parser.add_argument(
        "--canvas",
        nargs="+",
        type=_canvas,
        metavar="HxW",
        help="of a detector, a program for each; by default those that it predicts with",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=1,
        help="images of a detector at once (default: %(default)s)",
    )
    parser.add_argument(
        "--points",
        type=int,
        default=8,
        metavar="N",
        help="of each set of Segment Anything's prompts in ONNX's form, where fewer are filled up; "
        "StableHLO takes any number (default: %(default)s)",
    )
    parser.add_argument("--dtype", help="to compute in, bfloat16 for example; weights stay as are")
    parser.add_argument(
        "--precision",
        choices=("default", "high", "highest"),
        default="highest",
        help="of matrix products on accelerators (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Export as the arguments say."""
    platforms = tuple(name.strip() for name in args.platforms.split(","))
    if unknown := [name for name in platforms if name not in KNOWN]:
        raise UserError(f"no platform {unknown[0]!r}; there are {', '.join(KNOWN)}")
    overrides = {} if args.dtype is None else {"dtype": _dtype(args.dtype)}
    pretrained = from_pretrained(
        args.weights, model=args.model, revision=args.revision, say=_assume, **overrides
    )
    write_export(
        pretrained,
        args.folder,
        form=args.to,
        platforms=platforms,
        batch_size=args.batch_size,
        canvases=args.canvas,
        points=args.points,
        precision=args.precision,
        say=print,
    )
    print(f"wrote    {args.folder}")
    return 0


def _assume(note: str) -> None:
    print(f"assumed  {note}", file=sys.stderr)


def _canvas(text: str) -> Size:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"a canvas is HxW, 800x1088 for example; got {text!r}")
    return int(height), int(width)


def _dtype(name: str):
    import jax.numpy as jnp

    known = ("float32", "bfloat16", "float16")
    if name not in known:
        raise UserError(f"--dtype must be one of {', '.join(known)}; got {name!r}")
    return jnp.dtype(name)
