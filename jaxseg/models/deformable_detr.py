"""Deformable DETR (arXiv 2010.04159).

memory     = encoder(neck(backbone(images)) with sine positions)    `levels.encode`
queries    = learned, or the best proposals of the memory           `two_stage`
references = a point or a box of each query
states     = decoder(queries, references, memory)
outputs    = heads(states) around the references, refined layer by layer or not
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.backbones.resnet import resnet
from jaxseg.kernels.ms_deform_attn import Implementation
from jaxseg.models.detr.deformable_decoder import DeformableDecoder
from jaxseg.models.detr.deformable_encoder import DeformableEncoder
from jaxseg.models.detr.denoising import seen_by_all
from jaxseg.models.detr.detr import Canvas, check_images, is_exact
from jaxseg.models.detr.heads import (
    begin_alike,
    layer_heads,
    refine_boxes,
    sigmoid_detections,
)
from jaxseg.models.detr.levels import Encoded, coarsest_stride, encode, level_stages
from jaxseg.models.detr.proposals import ProposalEncoder, Proposals, propose
from jaxseg.models.detr.queries import ProposedQueries, learned_queries
from jaxseg.necks.channel_mapper import ChannelMapper
from jaxseg.nn.initializers import xavier_uniform
from jaxseg.nn.position import SinePosition
from jaxseg.structures import Detections, DetectorOutput, Images, Targets
from jaxseg.typing import Array, DTypeLike, Float, Int

EPSILON = 1e-5  # of the inverse sigmoid


class DeformableDetr(nn.Module):
    """The detector of the paper's figure 1.

    Attributes:
      backbone, neck: images to levels of one width.
      encoder, decoder: the two halves of the transformer.
      position: mask to position embedding.
      num_classes: labels are 0 to num_classes - 1, each with its own sigmoid.
      num_queries: and, with two stages, proposals.
      refine: each layer moves the boxes of the one before (section 4.3).
      two_stage: the encoder proposes the first boxes (section 4.3); needs `refine`.
      num_select: detections of an image.
      canvas: as in `Detr`.
    """

    backbone: nn.Module
    neck: nn.Module
    encoder: nn.Module
    decoder: nn.Module
    position: nn.Module
    num_classes: int = 91
    num_queries: int = 300
    width: int = 256
    refine: bool = False
    two_stage: bool = False
    num_select: int = 100
    canvas: Canvas = "padded"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @property
    def stride(self) -> int:
        """Canvases are multiples of this."""
        return coarsest_stride(self.backbone, self.neck)

    @nn.compact
    def __call__(
        self,
        images: Images,
        targets: Targets | None = None,
        train: bool = False,
        proposal_index: Int[Array, "b q"] | None = None,
    ) -> DetectorOutput:
        """Detect.

        Args:
          images: normalised, zero on padding, (b, h, w, 3).
          targets: not used by this model.
          train: dropout is on (rng "dropout").
          proposal_index: with two stages, the tokens to go on with instead of the best ones.
        """
        del targets
        exact = is_exact(self.canvas)
        check_images(images, self.stride if exact else 1)
        if self.two_stage and not self.refine:
            raise ValueError("two_stage needs refine=True: proposals are boxes to be refined")
        encoded = encode(self, images, exact, train)
        # With two stages there is one more pair, the proposals'. Only the first layer's boxes
        # start small, and none that proposals give a size.
        count = self.decoder.num_layers + self.two_stage
        sizes = [0.0 if self.two_stage else -2.0] + [0.0] * (count - 1)
        class_heads, box_heads = layer_heads(self, count, not self.refine, sizes)

        proposals = mask = None
        extras = {"encoded": encoded}
        if self.two_stage:
            proposals, boxes = self._propose(
                encoded, class_heads[-1], box_heads[-1], proposal_index, exact
            )
            reference = jax.lax.stop_gradient(proposals.chosen(boxes))
            queries = ProposedQueries(self.width, self.dtype, self.param_dtype, name="queries")
            query, content = queries(reference)
            # Every token learns to propose, not only those that were chosen.
            first_stage = proposals.everywhere(boxes, encoded.mask)
            extras |= {"proposals": proposals, "first_stage": first_stage}
            mask = seen_by_all(proposals.real)
        else:
            query, content = learned_queries(self, self.num_queries, len(images.mask))
            reference = self._reference_points(query)

        def refine(layer, state, reference):
            return refine_boxes(box_heads[layer](state), reference, EPSILON)

        decoded = self.decoder(
            content,
            reference,
            encoded,
            query=query,
            refine=refine if self.refine else None,
            attention_mask=mask,
            train=train,
        )
        layers = range(len(decoded.states))
        boxes = decoded.updates
        if boxes is None:
            boxes = jnp.stack([refine(i, decoded.states[i], reference) for i in layers])
        logits = jnp.stack([class_heads[i](decoded.states[i]) for i in layers])
        if proposals is not None:
            logits = proposals.hide(logits)
        begin_alike(self)
        return DetectorOutput(
            logits=logits,
            boxes=boxes,
            states=decoded.states,
            memory=encoded.memory,
            features=encoded.features,
            position=encoded.position,
            extras=extras | {"references": decoded.references},
        )

    def _propose(
        self,
        encoded: Encoded,
        class_head: Callable,
        box_head: Callable,
        index: Int[Array, "b q"] | None,
        exact: bool,
    ) -> tuple[Proposals, Float[Array, "b n 4"]]:
        """The tokens that the first class scores highest, and every token's box."""
        proposals = propose(
            ProposalEncoder(self.dtype, self.param_dtype, name="proposals"),
            encoded,
            class_head,
            lambda logits: logits[..., 0],
            self.num_queries,
            index,
            padding_last=exact,
        )
        return proposals, jax.nn.sigmoid(box_head(proposals.features) + proposals.anchors)

    def _reference_points(self, query: Float[Array, "b q d"]) -> Float[Array, "b q 2"]:
        dense = nn.Dense(
            2,
            kernel_init=xavier_uniform,
            dtype=jnp.float32,
            param_dtype=self.param_dtype,
            name="reference_points",
        )
        return jax.nn.sigmoid(dense(query))

    def detections(self, output: DetectorOutput, original_sizes: Int[Array, "b 2"]) -> Detections:
        """The last layer's best detections in pixels of `original_sizes` (h, w)."""
        return sigmoid_detections(output, original_sizes, self.num_select)


def deformable_detr(
    *,
    depth: int = 50,
    norm: str = "frozen_batch_norm",
    stem: int = 64,
    dilation: bool = False,
    num_levels: int = 4,
    width: int = 256,
    num_heads: int = 8,
    num_points: int = 4,
    feedforward: int = 1024,
    encoder_layers: int = 6,
    decoder_layers: int = 6,
    dropout: float = 0.1,
    num_queries: int = 300,
    num_classes: int = 91,
    refine: bool = False,
    two_stage: bool = False,
    num_select: int = 100,
    canvas: Canvas = "padded",
    implementation: Implementation | None = None,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> DeformableDetr:
    """Any Deformable DETR; the defaults are the paper's ResNet-50 model.

    Args:
      depth, norm, stem, dilation: of the ResNet, as in `detr.detr`.
      num_levels: up to 3 read as many of the backbone's last stages; more make further levels of
        the last.
      num_points: samples a head and level.
      implementation: of the sampling, see `kernels.ms_deform_attn`.
      remat: recompute layers in the backward pass to save memory.
    """
    dtypes = {"dtype": dtype, "param_dtype": param_dtype}
    layers = {
        "num_heads": num_heads,
        "num_points": num_points,
        "feedforward": feedforward,
        "dropout": dropout,
        "implementation": implementation,
        "remat": remat,
        **dtypes,
    }
    stages = level_stages(num_levels)
    return DeformableDetr(
        backbone=resnet(depth, norm, width=stem, dilation=dilation, stages=stages, **dtypes),
        neck=ChannelMapper(width, num_levels, **dtypes),
        encoder=DeformableEncoder(encoder_layers, **layers),
        decoder=DeformableDecoder(decoder_layers, **layers),
        position=SinePosition(width, offset=-0.5),
        num_classes=num_classes,
        num_queries=num_queries,
        width=width,
        refine=refine,
        two_stage=two_stage,
        num_select=num_select,
        canvas=canvas,
        **dtypes,
    )


def r50_single_scale(**fields) -> DeformableDetr:
    """Deformable DETR-R50 on stride 32 alone: 39.4 AP on COCO val2017 after 50 epochs."""
    return deformable_detr(**{"num_levels": 1} | fields)


def r50_dc5_single_scale(**fields) -> DeformableDetr:
    """Deformable DETR-DC5-R50 on stride 16 alone: 41.5 AP."""
    return deformable_detr(**{"num_levels": 1, "dilation": True} | fields)


def r50(**fields) -> DeformableDetr:
    """Deformable DETR-R50, four scales: 44.5 AP."""
    return deformable_detr(**fields)


def r50_refine(**fields) -> DeformableDetr:
    """Deformable DETR-R50 with iterative refinement: 46.2 AP."""
    return deformable_detr(**{"refine": True} | fields)


def r50_refine_two_stage(**fields) -> DeformableDetr:
    """Deformable DETR-R50 with refinement and two stages: 46.9 AP."""
    return deformable_detr(**{"refine": True, "two_stage": True} | fields)
