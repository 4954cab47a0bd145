"""DAB-DETR: queries are anchor boxes (arXiv 2201.12329); with noised labels, DN-DETR (2203.01305).

memory  = encoder(input_proj(backbone(images)), sines scaled by content)
          deformable_encoder(neck(backbone(images))) in DN-DETR's multi-scale model
queries = learned anchors; content zero, a pattern or a label's embedding
states  = decoder(content, anchors, memory)         anchors refined layer by layer
outputs = heads(states) around the anchors
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.backbones.resnet import resnet
from jaxseg.models.detr.dab_decoder import DabDecoder
from jaxseg.models.detr.denoising import Noise, prepend, split_off
from jaxseg.models.detr.detr import Canvas, check_images, is_exact
from jaxseg.models.detr.encoder import Encoder
from jaxseg.models.detr.heads import layer_heads, refine_boxes, sigmoid_detections
from jaxseg.models.detr.label_content import LabelContent
from jaxseg.models.detr.levels import Encoded, coarsest_stride, encode, join, valid_ratios
from jaxseg.models.detr.queries import Anchors, anchor_logits, learned_rows
from jaxseg.nn.initializers import torch_bias, torch_uniform
from jaxseg.nn.layers import Conv, PReLU
from jaxseg.nn.position import SinePosition
from jaxseg.ops.images import resize_mask
from jaxseg.structures import Detections, DetectorOutput, Features, Images, Targets
from jaxseg.typing import Array, DTypeLike, Float, Int

EPSILON = 1e-3  # of the inverse sigmoid


class DabDetr(nn.Module):
    """The detector of the paper's figure 4.

    Attributes:
      backbone: images to maps; without a neck the last one is used.
      encoder, decoder: the two halves of the transformer.
      position: mask to position embedding.
      neck: maps to levels of one width, for a deformable encoder and a decoder of
        `LevelsLayer` (DN-DETR, table 3); without it the encoder is dense.
      labels: content of labels, noised in training (DN-DETR); without it content is zero.
      num_classes: labels are 0 to num_classes - 1, each with its own sigmoid.
      num_queries: anchors.
      num_patterns: each anchor is a query once with each learnt content (section 5.1); 0: none.
      anchors: how they begin: "normal" logits; "uniform" spreads centres evenly; "fixed" also
        keeps them from learning, as the paper says and its code does not do (weight decay still
        moves them: give `refpoint_embed` none).
      num_select: detections of an image.
      epsilon: of the inverse sigmoid; transformers' DAB-DETR has another than the original.
      canvas: as in `Detr`.
    """

    backbone: nn.Module
    encoder: nn.Module
    decoder: nn.Module
    position: nn.Module
    neck: nn.Module | None = None
    labels: nn.Module | None = None
    num_classes: int = 91
    num_queries: int = 300
    num_patterns: int = 0
    width: int = 256
    anchors: Anchors = "normal"
    num_select: int = 300
    epsilon: float = EPSILON
    canvas: Canvas = "padded"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @property
    def stride(self) -> int:
        """Canvases are multiples of this."""
        if self.neck is None:
            return self.backbone.strides[-1]
        return coarsest_stride(self.backbone, self.neck)

    @nn.compact
    def __call__(
        self,
        images: Images,
        targets: Targets | None = None,
        train: bool = False,
        noise: Noise | None = None,
    ) -> DetectorOutput:
        """Detect.

        Args:
          images: normalised, zero on padding, (b, h, w, 3).
          targets: what denoising queries are made of, in training.
          train: dropout (rng "dropout") and denoising (rng "denoising") are on.
          noise: random numbers for the denoising queries instead of drawn ones.
        """
        exact = is_exact(self.canvas)
        check_images(images, self.stride if exact else 1)
        encoded = self._encode(images, exact, train)
        content, denoising = None, None
        if self.labels is not None:
            content, denoising = self.labels(self.num_classes, targets, noise, train)
        anchors = anchor_logits(self, self.num_queries, self.anchors)
        content, anchors = self._patterns(content, anchors, len(images.mask))
        extras = {"query_content": content}
        content, reference, seen = prepend(denoising, content, jax.nn.sigmoid(anchors))
        (class_head, *_), (box_head, *_) = layer_heads(self, 1, True)

        def refine(layer, state, reference):
            del layer
            return refine_boxes(box_head(state), reference, self.epsilon)

        decoded = self.decoder(
            content, reference, encoded, refine=refine, attention_mask=seen, train=train
        )
        # A layer's box starts from the anchor that the layer before made, with its gradient; it
        # reads the normed state, and the anchor was made of the plain one.
        starts = [reference, *decoded.updates[:-1]]
        boxes = jnp.stack([refine(i, decoded.states[i], start) for i, start in enumerate(starts)])
        output = DetectorOutput(
            logits=class_head(decoded.states),
            boxes=boxes,
            states=decoded.states,
            memory=encoded.memory,
            features=encoded.features,
            position=encoded.position,
            extras=extras | {"references": jnp.stack(decoded.references)},
        )
        return split_off(output, denoising, score_empty=False)

    def _encode(self, images: Images, exact: bool, train: bool) -> Encoded:
        if self.neck is not None:
            return encode(self, images, exact, train)
        pixels = images.pixels.astype(self.dtype)
        feature = self.backbone(pixels, images.mask if exact else None, train)[-1]
        _, h, w, channels = feature.shape
        mask = resize_mask(images.mask, h, w)
        input_proj = Conv(
            self.width,
            1,
            use_bias=True,
            kernel_init=torch_uniform,
            bias_init=torch_bias(channels),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="input_proj",
        )
        tokens, position, seen = (
            join([x]) for x in (input_proj(feature), self.position(mask), mask)
        )
        return Encoded(
            memory=self.encoder(tokens, position, seen, train),
            tokens=tokens,
            position=position,
            mask=seen,
            masks=(mask,),
            valid_ratios=valid_ratios([mask]),
            shapes=((h, w),),
            features=Features((feature,), (mask,)),
        )

    def _patterns(self, content: Float[Array, " d"] | None, anchors: Float[Array, "q 4"], b: int):
        """Content (b, q, d) and anchors (b, q, 4) of all queries, pattern by pattern."""
        q, count = self.num_queries, max(self.num_patterns, 1)
        content = jnp.zeros(self.width, self.dtype) if content is None else content
        content = jnp.broadcast_to(content, (count, q, self.width))
        if self.num_patterns:
            patterns = learned_rows(self, "patterns", self.num_patterns, self.width)
            content = content + patterns[:, None]
        content = jnp.broadcast_to(content.reshape(1, count * q, -1), (b, count * q, self.width))
        return content, jnp.broadcast_to(jnp.tile(anchors, (count, 1)), (b, count * q, 4))

    def detections(self, output: DetectorOutput, original_sizes: Int[Array, "b 2"]) -> Detections:
        """The last layer's best detections in pixels of `original_sizes` (h, w)."""
        return sigmoid_detections(output, original_sizes, self.num_select)


def dab_detr(
    *,
    depth: int = 50,
    norm: str = "frozen_batch_norm",
    stem: int = 64,
    dilation: bool = False,
    width: int = 256,
    num_heads: int = 8,
    feedforward: int = 2048,
    encoder_layers: int = 6,
    decoder_layers: int = 6,
    dropout: float = 0.0,
    temperature: float = 20.0,
    denoising: bool = False,
    dn_groups: int = 5,
    label_noise: float = 0.2,
    box_noise: float = 0.4,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    **fields,
) -> DabDetr:
    """Any DAB-DETR; the defaults are the paper's ResNet-50 model.

    Args:
      depth, norm, stem, dilation: of the ResNet, as in `detr.detr`.
      temperature: of the image's sines.
      denoising: content is of labels, noised in training: DN-DETR.
      dn_groups, label_noise, box_noise: of `LabelContent`.
      remat: recompute layers in the backward pass to save memory.
      fields: of `DabDetr`.
    """
    dtypes = {"dtype": dtype, "param_dtype": param_dtype}
    layers = {
        "num_heads": num_heads,
        "feedforward": feedforward,
        "dropout": dropout,
        "activation": PReLU,
        "remat": remat,
        **dtypes,
    }
    epsilon = fields.get("epsilon", EPSILON)
    labels = LabelContent(width, dn_groups, label_noise, box_noise, epsilon, **dtypes)
    return DabDetr(
        backbone=resnet(depth, norm, width=stem, dilation=dilation, **dtypes),
        encoder=Encoder(encoder_layers, scale_position=True, **layers),
        decoder=DabDecoder(decoder_layers, **layers),
        position=SinePosition(width, temperature=(temperature, temperature)),
        labels=labels if denoising else None,
        width=width,
        **fields,
        **dtypes,
    )


def r50(**fields) -> DabDetr:
    """DAB-DETR-R50: 42.2 AP on COCO val2017 after 50 epochs."""
    return dab_detr(**fields)


def r50_3patterns(**fields) -> DabDetr:
    """DAB-DETR-R50 with 3 patterns: 42.6 AP."""
    return dab_detr(**{"num_patterns": 3} | fields)


def r50_dc5(**fields) -> DabDetr:
    """DAB-DETR-DC5-R50: 44.5 AP; its published weights have temperature 10."""
    return dab_detr(**{"dilation": True, "temperature": 10.0} | fields)


def r50_dc5_3patterns(**fields) -> DabDetr:
    """DAB-DETR-DC5-R50 with 3 patterns: 45.7 AP."""
    return dab_detr(**{"dilation": True, "num_patterns": 3} | fields)
