"""DAB-Deformable-DETR: anchor boxes as the queries of Deformable DETR (arXiv 2201.12329).

memory  = encoder(neck(backbone(images)) with sine positions)    `detr.levels.encode`
queries = learned anchors with learned content; noised targets in DN-DETR's training
states  = decoder(queries, anchors, memory)         query positions follow the anchors
outputs = heads(states) around the anchors, refined layer by layer
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.backbones.resnet import resnet
from jaxseg.kernels.ms_deform_attn import Implementation
from jaxseg.models.detr.deformable_decoder import DeformableDecoder, ReferencePosition
from jaxseg.models.detr.deformable_encoder import DeformableEncoder
from jaxseg.models.detr.denoising import Noise, prepend, split_off
from jaxseg.models.detr.detr import Canvas, check_images, is_exact
from jaxseg.models.detr.heads import begin_alike, layer_heads, refine_boxes, sigmoid_detections
from jaxseg.models.detr.label_content import LabelContent, mark
from jaxseg.models.detr.levels import coarsest_stride, encode, level_stages
from jaxseg.models.detr.queries import Anchors, anchor_logits, learned_rows
from jaxseg.necks.channel_mapper import ChannelMapper
from jaxseg.nn.position import SinePosition
from jaxseg.structures import Detections, DetectorOutput, Images, Targets
from jaxseg.typing import Array, DTypeLike, Float, Int

EPSILON = 1e-3  # of the inverse sigmoid


class DabDeformableDetr(nn.Module):
    """Deformable DETR with anchor boxes for queries; boxes are always refined.

    Attributes:
      backbone, neck: images to levels of one width.
      encoder, decoder: the two halves of the transformer; the decoder makes query positions of
        references.
      position: mask to position embedding.
      labels: noised labels as content in training (DN-DETR).
      num_classes: labels are 0 to num_classes - 1, each with its own sigmoid.
      num_queries: anchors.
      num_patterns: each anchor is a query once with each learnt content; 0: none.
      anchors: as in `DabDetr`.
      num_select: detections of an image.
      canvas: as in `Detr`.
    """

    backbone: nn.Module
    neck: nn.Module
    encoder: nn.Module
    decoder: nn.Module
    position: nn.Module
    labels: nn.Module | None = None
    num_classes: int = 91
    num_queries: int = 300
    num_patterns: int = 0
    width: int = 256
    anchors: Anchors = "normal"
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
        noise: Noise | None = None,
    ) -> DetectorOutput:
        """Detect; arguments as in `DabDetr`."""
        exact = is_exact(self.canvas)
        check_images(images, self.stride if exact else 1)
        encoded = encode(self, images, exact, train)
        denoising = None
        if self.labels is not None:
            _, denoising = self.labels(self.num_classes, targets, noise, train)
        content, anchors = self._queries(len(images.mask))
        extras = {"encoded": encoded, "query_content": content}
        content, reference, mask = prepend(denoising, content, jax.nn.sigmoid(anchors))
        class_heads, box_heads = layer_heads(
            self, self.decoder.num_layers, False, [-2.0] + [0.0] * (self.decoder.num_layers - 1)
        )

        def refine(layer, state, reference):
            return refine_boxes(box_heads[layer](state), reference, EPSILON)

        decoded = self.decoder(
            content,
            reference,
            encoded,
            # An image alone fills its canvas, so there its references are not scaled.
            sine_ratio=None if exact else encoded.valid_ratios[:, 0],
            refine=refine,
            attention_mask=mask,
            train=train,
        )
        logits = jnp.stack([head(x) for head, x in zip(class_heads, decoded.states, strict=True)])
        begin_alike(self)
        output = DetectorOutput(
            logits=logits,
            boxes=decoded.updates,
            states=decoded.states,
            memory=encoded.memory,
            features=encoded.features,
            position=encoded.position,
            extras=extras | {"references": jnp.stack(decoded.references)},
        )
        return split_off(output, denoising, score_empty=False)

    def _queries(self, b: int) -> tuple[Float[Array, "b q d"], Float[Array, "b q 4"]]:
        """Content and anchors (logits), pattern by pattern."""
        width = self.width - (self.labels is not None)
        content = learned_rows(self, "tgt_embed", self.num_queries, width)
        if self.labels is not None:
            content = mark(content, 0.0)
        anchors = anchor_logits(self, self.num_queries, self.anchors)
        if self.num_patterns:
            patterns = learned_rows(self, "patterns_embed", self.num_patterns, self.width)
            content = (content[None] + patterns[:, None]).reshape(-1, self.width)
            anchors = jnp.tile(anchors, (self.num_patterns, 1))
        return tuple(jnp.broadcast_to(x, (b, *x.shape)) for x in (content, anchors))

    def detections(self, output: DetectorOutput, original_sizes: Int[Array, "b 2"]) -> Detections:
        """The last layer's best detections in pixels of `original_sizes` (h, w)."""
        return sigmoid_detections(output, original_sizes, self.num_select)


def dab_deformable_detr(
    *,
    depth: int = 50,
    norm: str = "frozen_batch_norm",
    stem: int = 64,
    num_levels: int = 4,
    width: int = 256,
    num_heads: int = 8,
    num_points: int = 4,
    feedforward: int = 2048,
    encoder_layers: int = 6,
    decoder_layers: int = 6,
    dropout: float = 0.0,
    denoising: bool = False,
    dn_groups: int = 5,
    label_noise: float = 0.2,
    box_noise: float = 0.4,
    implementation: Implementation | None = None,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    **fields,
) -> DabDeformableDetr:
    """Any DAB-Deformable-DETR; the defaults are the published ResNet-50 model.

    Args:
      depth, norm, stem: of the ResNet, as in `detr.detr`.
      num_levels, num_points, implementation: as in `deformable_detr.deformable_detr`.
      denoising, dn_groups, label_noise, box_noise: as in `dab_detr.dab_detr`.
      remat: recompute layers in the backward pass to save memory.
      fields: of `DabDeformableDetr`.
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
    labels = LabelContent(width, dn_groups, label_noise, box_noise, EPSILON, **dtypes)
    stages = level_stages(num_levels)
    return DabDeformableDetr(
        backbone=resnet(depth, norm, width=stem, stages=stages, **dtypes),
        neck=ChannelMapper(width, num_levels, **dtypes),
        encoder=DeformableEncoder(encoder_layers, **layers),
        decoder=DeformableDecoder(
            decoder_layers, query_position=ReferencePosition(width, scaled=True, **dtypes), **layers
        ),
        position=SinePosition(width, offset=-0.5),
        labels=labels if denoising else None,
        width=width,
        **fields,
        **dtypes,
    )


def r50(**fields) -> DabDeformableDetr:
    """DAB-Deformable-DETR-R50: 48.7 AP on COCO val2017 after 50 epochs."""
    return dab_deformable_detr(**fields)
