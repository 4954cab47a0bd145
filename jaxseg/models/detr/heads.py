"""Class and box heads, and the way from their outputs to detections in pixels."""

import math
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.models.detr.deformable_decoder import Decoded
from jaxseg.nn.initializers import torch_uniform
from jaxseg.nn.layers import Mlp
from jaxseg.ops.boxes import cxcywh_to_xyxy, inverse_sigmoid, scale_boxes
from jaxseg.ops.nms import nms
from jaxseg.structures import Detections, DetectorOutput
from jaxseg.typing import Array, DTypeLike, Float, Int

# Sigmoid classes start as if one output in a hundred were right (arXiv 1708.02002, section 4.1).
PRIOR = 0.01
HEAD = re.compile(r"(enc_out_)?(class|bbox)_embed(_\d+)?")


def sigmoid_class_head(
    num_classes: int, param_dtype: DTypeLike, name: str | None = None
) -> nn.Dense:
    """One linear layer to independent classes, in float32: rounded scores would tie."""
    return nn.Dense(
        num_classes,
        kernel_init=torch_uniform,
        bias_init=nn.initializers.constant(-math.log((1 - PRIOR) / PRIOR)),
        dtype=jnp.float32,
        param_dtype=param_dtype,
        name=name,
    )


def box_delta_head(
    width: int,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    size: float = 0.0,
    name: str | None = None,
) -> Mlp:
    """Three layers to what is added to a reference's logits; they start at (0, 0, size, size).

    The last one computes in float32: a bfloat16 delta near 1 is half a pixel of 800 off.
    """

    def bias(key, shape, dtype=jnp.float32):
        del key, shape
        return jnp.asarray([0, 0, size, size], dtype)

    zeros = nn.initializers.zeros
    return Mlp(
        (width, width, 4),
        dtype,
        param_dtype,
        final_kernel_init=zeros,
        final_bias_init=bias,
        final_dtype=jnp.float32,
        name=name,
    )


def layer_heads(
    model: nn.Module, count: int, shared: bool, sizes: Sequence[float] | None = None
) -> tuple[list[nn.Dense], list[Mlp]]:
    """`class_embed` and `bbox_embed` for each layer of a model: one pair for all, or each its own.

    Args:
      sizes: `box_delta_head`'s for each; the first counts if they are shared.
    """
    sizes = [0.0] * count if sizes is None else sizes

    def pair(suffix, size):
        return (
            sigmoid_class_head(model.num_classes, model.param_dtype, f"class_embed{suffix}"),
            box_delta_head(
                model.width, model.dtype, model.param_dtype, size, f"bbox_embed{suffix}"
            ),
        )

    if shared:
        pairs = [pair("", sizes[0])] * count
    else:
        pairs = [pair(f"_{i}", size) for i, size in enumerate(sizes)]
    classes, boxes = zip(*pairs, strict=True)
    return list(classes), list(boxes)


def begin_alike(model: nn.Module) -> None:
    """Let all class heads begin with the weights of one of them, and all box heads, as copies do.

    To be called at the end of a model's `__call__`: it acts while parameters are drawn. The last
    layer of a box head keeps its own constants.
    """
    if not model.is_initializing():
        return
    params = model.variables["params"]
    for kind, own in (("class_embed", ()), ("bbox_embed", ("layer_2",))):
        names = [name for name in params if HEAD.fullmatch(name) and kind in name]
        for name in names[1:]:
            kept = {part: params[name][part] for part in own}
            model.put_variable("params", name, params[names[0]] | kept)


def refine_boxes(
    delta: Float[Array, "*b 4"], reference: Float[Array, "*b _r"], epsilon: float
) -> Float[Array, "*b 4"]:
    """Boxes in [0, 1]: the sigmoid of `delta` (float32) plus the reference's logits.

    A reference of (x, y) moves the centre alone.
    """
    logits = inverse_sigmoid(reference.astype(jnp.float32), epsilon)
    missing = 4 - reference.shape[-1]
    logits = jnp.pad(logits, [(0, 0)] * (logits.ndim - 1) + [(0, missing)])
    return jax.nn.sigmoid(delta + logits)


def boxes_by_layer(
    decoded: Decoded, refine: Callable, look_forward_twice: bool = True
) -> Float[Array, "l b q 4"]:
    """What box heads make of every layer's state after the norm.

    Args:
      refine: (layer, state, reference) → box.
      look_forward_twice: a layer's box starts from what the layer before made, with its gradient;
        else from the layer's reference, without (DINO, arXiv 2203.03605, section 3.4).
    """
    starts = decoded.references
    if look_forward_twice:
        starts = (starts[0], *decoded.updates[:-1])
    return jnp.stack([refine(i, decoded.states[i], start) for i, start in enumerate(starts)])


def sigmoid_detections(
    output: DetectorOutput,
    original_sizes: Int[Array, "b 2"],
    count: int = 300,
    nms_iou: float | None = None,
) -> Detections:
    """The best pairs of query and class by their sigmoids; arguments as in `best_pairs`."""
    scores = jax.nn.sigmoid(output.logits[-1].astype(jnp.float32))
    return best_pairs(scores, output.boxes[-1], original_sizes, count, nms_iou)


def best_pairs(
    scores: Float[Array, "b q k"],
    boxes: Float[Array, "b q 4"],
    original_sizes: Int[Array, "b 2"],
    count: int = 300,
    nms_iou: float | None = None,
) -> Detections:
    """The `count` best pairs of query and class by falling score; a query may appear twice.

    Boxes (cxcywh in [0, 1]) become xyxy in pixels of `original_sizes` (h, w), not clipped.

    Args:
      nms_iou: of two detections with a larger overlap only the better one stays, whatever
        their classes; the other's score becomes minus infinity, which readers leave out.
    """
    b, q, k = scores.shape
    scores, index = jax.lax.top_k(scores.reshape(b, q * k), min(count, q * k))
    boxes = cxcywh_to_xyxy(boxes.astype(jnp.float32))
    boxes = jnp.take_along_axis(boxes, (index // k)[..., None], 1)
    boxes = scale_boxes(boxes, original_sizes)
    if nms_iou is not None:
        keep = jax.vmap(lambda boxes, scores: nms(boxes, scores, nms_iou))(boxes, scores)
        scores = jnp.where(keep, scores, -jnp.inf)
    return Detections(boxes=boxes, scores=scores, labels=index % k)


def softmax_detections(output: DetectorOutput, original_sizes: Int[Array, "b 2"]) -> Detections:
    """One detection a query, in query order: its likeliest class beside no-object (the last).

    Boxes are xyxy in pixels of `original_sizes` (h, w), not clipped.
    """
    logits = output.logits[-1].astype(jnp.float32)
    probabilities = jax.nn.softmax(logits)[..., :-1]
    boxes = cxcywh_to_xyxy(output.boxes[-1].astype(jnp.float32))
    return Detections(
        boxes=scale_boxes(boxes, original_sizes),
        scores=probabilities.max(-1),
        labels=probabilities.argmax(-1),
    )
