"""What of a model is exported: functions of named arrays, with their weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.errors import UserError
from jaxseg.exported import Argument
from jaxseg.models.sam import Sam
from jaxseg.ops.images import canvas_mask
from jaxseg.params import flatten, unflatten
from jaxseg.predict.detector import Detector
from jaxseg.predict.preprocess import Size
from jaxseg.predict.sam_predictor import SamPredictor
from jaxseg.pretrained import Pretrained
from jaxseg.structures import Images, Prompts
from jaxseg.typing import Array

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Program:
    """A function for arrays of certain shapes.

    Attributes:
      function: its name; the programs of one function differ in shapes and share their weights.
      name: of its file.
      compute: flat parameters and inputs by name, to outputs by name.
      params: flat.
      inputs, outputs: what it takes and gives; letters in shapes are free.
    """

    function: str
    name: str
    compute: Callable[[Arrays, Arrays], dict[str, Array]]
    params: Mapping[str, np.ndarray]
    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]

    def example(self, seed: int = 0, size: int = 2) -> dict[str, np.ndarray]:
        """Inputs to try it with, `size` for each letter."""
        rng = np.random.default_rng(seed)
        return {argument.name: _example(rng, argument, size) for argument in self.inputs}


def _example(rng: np.random.Generator, argument: Argument, size: int) -> np.ndarray:
    shape = [size if isinstance(n, str) else n for n in argument.shape]
    match np.dtype(argument.dtype):
        case np.bool_:
            return rng.random(shape) < 0.5
        case np.uint8:
            return rng.integers(0, 256, shape).astype(np.uint8)
        case np.int32 if argument.name == "labels":
            return rng.integers(0, 2, shape).astype(np.int32)
        case np.int32:  # sizes of images
            return np.full(shape, 64, np.int32)
    return rng.normal(size=shape).astype(np.float32)


def programs_of(
    pretrained: Pretrained, batch_size: int = 1, canvases: Sequence[Size] | None = None
) -> list[Program]:
    """All programs of a model.

    Args:
      batch_size, canvases: of a detector; None are those that it predicts with.

    Raises:
      UserError: a canvas or batch size that it cannot have, or a model that reads texts.
    """
    if isinstance(pretrained.model, Sam):
        if canvases is not None:
            side = pretrained.model.canvas_size
            raise UserError(f"Segment Anything's canvas is {side}x{side}: leave canvases out")
        return _sam(pretrained)
    if not hasattr(pretrained.model, "num_classes"):
        raise UserError(
            f"detectors and Segment Anything are exported; a {type(pretrained.model).__name__}, "
            "which reads texts, is not"
        )
    return _detector(pretrained, batch_size, canvases)


def _sam(pretrained: Pretrained) -> list[Program]:
    model = pretrained.model
    predictor = SamPredictor(model, pretrained.params, pretrained.image)
    side, encoder = model.canvas_size, model.prompt_encoder
    grid, width, low = encoder.grid, encoder.width, model.mask_size
    count = 1 + model.mask_decoder.multimask_outputs

    def encode(params: Arrays, inputs: Arrays) -> dict[str, Array]:
        mask = canvas_mask(inputs["sizes"], side, side)
        canvases = Images(inputs["pixels"], mask)
        maps = predictor.encode_canvases(unflatten(params), canvases)
        return {"embedding": maps.astype(jnp.float32)}

    def decode(params: Arrays, inputs: Arrays) -> dict[str, Array]:
        embedding = inputs["embedding"].astype(model.dtype)
        prompts = Prompts(**{k: x for k, x in inputs.items() if k != "embedding"})
        variables = {"params": unflatten(params)}
        masks = model.apply(variables, embedding, prompts, method="decode")
        return {"logits": masks.logits, "iou": masks.iou}

    flat = {path: np.asarray(x) for path, x in flatten(pretrained.params).items()}
    heavy = {path: x for path, x in flat.items() if path.startswith("image_encoder/")}
    light = {path: x for path, x in flat.items() if path not in heavy}
    embedding = Argument("embedding", ("b", grid, grid, width), "float32", about="of the images")
    return [
        Program("encode", "encode", encode, heavy, _canvas(("b", side, side)), (embedding,)),
        Program(
            "decode", "decode", decode, light,
            (embedding, *_prompts(low)),
            (
                Argument(
                    "logits", ("b", "p", count, low, low), "float32",
                    about="of masks of the whole canvas, above 0 inside: the single mask, then "
                    "those of an ambiguous prompt",
                ),
                Argument("iou", ("b", "p", count), "float32", about="how good each mask is"),
            ),
        ),
    ]  # fmt: skip


def _prompts(low: int) -> tuple[Argument, ...]:
    """The arrays of `Prompts`."""
    return (
        Argument(
            "points", ("b", "p", "n", 2), "float32", "points",
            "x, y in pixels of the canvas; p sets of prompts for each image, n points of each",
        ),
        Argument(
            "labels", ("b", "p", "n"), "int32", "points",
            "1 foreground, 0 background, -1 no point at all",
        ),
        Argument("points_mask", ("b", "p", "n"), "bool", "points", "True on real points"),
        Argument("boxes", ("b", "p", 4), "float32", "boxes", "x0, y0, x1, y1 on the canvas"),
        Argument("boxes_mask", ("b", "p"), "bool", "boxes", "True for sets with a box"),
        Argument("masks", ("b", "p", low, low), "float32", "masks", "logits of an earlier answer"),
        Argument("masks_mask", ("b", "p"), "bool", "masks", "True for sets with a mask"),
    )  # fmt: skip


def _detector(
    pretrained: Pretrained, batch_size: int, canvases: Sequence[Size] | None
) -> list[Program]:
    detector = Detector(
        pretrained.model, pretrained.params, pretrained.classes, pretrained.image,
        batch_size=batch_size, buckets=canvases,
    )  # fmt: skip
    flat = {path: np.asarray(x) for path, x in flatten(pretrained.params).items()}
    originals = Argument(
        "original_sizes", (batch_size, 2), "int32", about="h, w that boxes are wanted in"
    )

    def program(height: int, width: int) -> Program:
        def detect(params: Arrays, inputs: Arrays) -> dict[str, Array]:
            mask = canvas_mask(inputs["sizes"], height, width)
            images = Images(inputs["pixels"], mask)
            found = detector.forward(unflatten(params), images, inputs["original_sizes"])
            arrays = {name: getattr(found, name) for name in ("boxes", "scores", "labels")}
            if found.masks is not None:
                arrays["mask_logits"] = found.masks.logits
                arrays["class_logits"] = found.masks.class_logits
            return arrays

        inputs = (*_canvas((batch_size, height, width)), originals)
        specs = {one.name: jax.ShapeDtypeStruct(one.shape, one.dtype) for one in inputs}
        shapes = jax.eval_shape(detect, abstract(flat), specs)
        outputs = tuple(
            Argument(name, shapes[name].shape, shapes[name].dtype.name, about=about)
            for name, about in ABOUT.items()
            if name in shapes
        )
        return Program("detect", f"detect-{height}x{width}", detect, flat, inputs, outputs)

    return [program(*size) for size in sorted(detector.buckets, key=prod)]


ABOUT = {
    "boxes": "x0, y0, x1, y1 in pixels of the original image, unsorted",
    "scores": "from 0 to 1",
    "labels": "from 0 on",
    "mask_logits": "on the canvas, at a quarter of its size, above 0 inside",
    "class_logits": "the last of them is no object",
}


def _canvas(shape: tuple[int | str, int, int]) -> tuple[Argument, Argument]:
    b, height, width = shape
    return (
        Argument("pixels", (b, height, width, 3), "uint8", about="RGB, images at the top left"),
        Argument("sizes", (b, 2), "int32", about="h, w of the images on the canvas"),
    )


def abstract(flat: Mapping[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of arrays."""
    return {path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in flat.items()}
