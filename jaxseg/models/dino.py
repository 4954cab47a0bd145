"""DINO: DETR with improved denoising anchor boxes (arXiv 2203.03605).

memory     = encoder(neck(backbone(images)) with sine positions)    `detr.levels.encode`
proposals  = the memory's best tokens: boxes for the queries        section 3.3, mixed selection
queries    = noised targets (training), then learned content at the proposals     section 3.2
states     = decoder(queries, reference boxes, memory)              refined layer by layer
outputs    = heads(states) around the references, looking forward twice           section 3.4
"""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.backbones.resnet import resnet
from jaxseg.backbones.swin import swin as build_swin
from jaxseg.kernels.ms_deform_attn import Implementation
from jaxseg.models.detr.deformable_decoder import DeformableDecoder, ReferencePosition
from jaxseg.models.detr.deformable_encoder import DeformableEncoder
from jaxseg.models.detr.denoising import (
    Denoising,
    Noise,
    contrastive_boxes,
    contrastive_slots,
    draw_noise,
    noised_labels,
    prepend,
    split_off,
)
from jaxseg.models.detr.detr import Canvas, check_images, is_exact
from jaxseg.models.detr.heads import (
    begin_alike,
    box_delta_head,
    boxes_by_layer,
    layer_heads,
    refine_boxes,
    sigmoid_class_head,
    sigmoid_detections,
)
from jaxseg.models.detr.levels import Encoded, coarsest_stride, encode, level_stages
from jaxseg.models.detr.proposals import SIZE, ProposalEncoder, Proposals, propose
from jaxseg.models.detr.queries import learned_boxes, learned_rows
from jaxseg.necks.channel_mapper import ChannelMapper
from jaxseg.necks.simple_feature_pyramid import vit_pyramid
from jaxseg.nn.initializers import xavier_uniform
from jaxseg.nn.position import SinePosition
from jaxseg.ops.boxes import inverse_sigmoid
from jaxseg.structures import Detections, DetectorOutput, Images, Predictions, Targets
from jaxseg.typing import Array, DTypeLike, Float, Int

EPSILON = 1e-3  # of the inverse sigmoid
Selection = Literal["mixed", "pure", "static"]


class Dino(nn.Module):
    """The detector of the paper's figure 2.

    Attributes:
      backbone, neck: images to levels of one width.
      encoder, decoder: the two halves of the transformer; the decoder makes query positions of
        references and has a final norm.
      position: mask to position embedding.
      num_classes: labels are 0 to num_classes - 1, each with its own sigmoid.
      num_queries: proposals and matching queries.
      selection: what the queries are: "mixed" takes boxes from the proposals and learns content,
        "pure" takes the proposals' features as content too, "static" learns boxes and content.
      learned_anchor_size: of a proposal before the box head's word, instead of a constant one.
      propose_all: the encoder's losses see every token's proposal, not only the chosen ones.
      look_forward_twice: a layer's loss also reaches the box that the layer before made.
      shared_heads: all decoder layers have one class and one box head.
      dn_number: about as many positive denoising queries; below 50, half the number of groups of
        all objects, whose slots grow with the targets of a batch; 0 trains without.
      dn_images: neighbours in a batch that share a layout of denoising groups, that of their
        fullest; 1 gives each image the groups it would have alone, None takes the whole batch. The
        original's are the images of one process: the fewer, the more groups an image has.
      label_noise: half of this share of the labels is drawn anew.
      box_noise: how far corners move, in halves of the size.
      num_select: detections of an image.
      nms_iou: suppress detections that overlap a better one by more; None keeps them.
      canvas: as in `Detr`.
    """

    backbone: nn.Module
    neck: nn.Module
    encoder: nn.Module
    decoder: nn.Module
    position: nn.Module
    num_classes: int = 91
    num_queries: int = 900
    width: int = 256
    selection: Selection = "mixed"
    learned_anchor_size: bool = False
    propose_all: bool = False
    look_forward_twice: bool = True
    shared_heads: bool = True
    dn_number: int = 100
    dn_images: int | None = None
    label_noise: float = 0.5
    box_noise: float = 1.0
    num_select: int = 300
    nms_iou: float | None = None
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
        noise: Noise | None = None,
    ) -> DetectorOutput:
        """Detect.

        Args:
          images: normalised, zero on padding, (b, h, w, 3).
          targets: what denoising queries are made of, in training.
          train: dropout (rng "dropout") and denoising (rng "denoising") are on.
          proposal_index: tokens to go on with instead of the best ones.
          noise: random numbers for the denoising queries instead of drawn ones.
        """
        exact = is_exact(self.canvas)
        check_images(images, self.stride if exact else 1)
        encoded = encode(self, images, exact, train)
        class_heads, box_heads = layer_heads(self, self.decoder.num_layers, self.shared_heads)

        extras = {"encoded": encoded}
        content, reference, proposals, found = self._select(encoded, proposal_index, exact)
        real = None
        if proposals is not None:
            real = proposals.real
            extras |= {"proposals": proposals, "first_stage": found}
        denoising = self._denoise(targets, noise, train)
        content, reference, mask = prepend(denoising, content, reference, real)

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
        boxes = boxes_by_layer(decoded, refine, self.look_forward_twice)
        logits = jnp.stack([head(x) for head, x in zip(class_heads, decoded.states, strict=True)])
        begin_alike(self)
        output = DetectorOutput(
            logits=logits,
            boxes=boxes,
            states=decoded.states,
            memory=encoded.memory,
            features=encoded.features,
            position=encoded.position,
            extras=extras | {"references": jnp.stack(decoded.references)},
        )
        output = split_off(output, denoising, score_empty=True)
        if proposals is None:
            return output
        return output.replace(logits=proposals.hide(output.logits))

    def _select(
        self, encoded: Encoded, index: Int[Array, "b q"] | None, exact: bool
    ) -> tuple[Float[Array, "b q d"], Float[Array, "b q 4"], Proposals | None, Predictions | None]:
        """Content and first boxes of the matching queries, what proposed them, and its predictions.

        Those carry the gradient that the boxes do not.
        """
        if self.selection not in get_args(Selection):
            names = ", ".join(get_args(Selection))
            raise ValueError(f"selection must be one of {names}; got {self.selection!r}")
        b, content = len(encoded.mask), None
        if self.selection != "pure":
            content = learned_rows(self, "tgt_embed", self.num_queries, self.width, xavier_uniform)
            content = jnp.broadcast_to(content, (b, *content.shape))
        if self.selection == "static":
            reference = learned_boxes(self, self.num_queries)
            return content, jnp.broadcast_to(reference, (b, *reference.shape)), None, None
        dtypes = (self.dtype, self.param_dtype)
        proposals = propose(
            ProposalEncoder(*dtypes, name="proposals"),
            encoded,
            sigmoid_class_head(self.num_classes, self.param_dtype, "enc_out_class_embed"),
            lambda logits: logits.max(-1),
            self.num_queries,
            index,
            padding_last=exact,
            size=self._anchor_size(),
        )
        features = proposals.chosen(proposals.features)
        if content is None:
            content = jax.lax.stop_gradient(features)
        content = content[:, : proposals.index.shape[1]]
        box_head = box_delta_head(self.width, *dtypes, name="enc_out_bbox_embed")
        if self.propose_all:
            # The original's losses see these without the sigmoid, and infinite ones among them.
            boxes = jax.nn.sigmoid(box_head(proposals.features) + proposals.anchors)
            found = proposals.everywhere(boxes, encoded.mask)
            boxes = proposals.chosen(boxes)
        else:
            # No other token's box is used, and there are many.
            boxes = jax.nn.sigmoid(box_head(features) + proposals.chosen(proposals.anchors))
            found = Predictions(proposals.hide(proposals.chosen(proposals.logits)), boxes)
        return content, jax.lax.stop_gradient(boxes), proposals, found

    def _anchor_size(self) -> Float[Array, "2"] | None:
        if not self.learned_anchor_size:
            return None
        start = nn.initializers.constant(math.log(SIZE / (1 - SIZE)))
        size = learned_rows(self, "two_stage_wh_embedding", 1, 2, start, jnp.float32)
        return jax.nn.sigmoid(size[0])

    def _denoise(
        self, targets: Targets | None, noise: Noise | None, train: bool
    ) -> Denoising | None:
        """Noised targets as queries, in training."""
        # One row more than classes, as the checkpoints have it; no label reads the last.
        rows = self.num_classes + 1
        labels = learned_rows(self, "label_enc", rows, self.width)
        if not train or targets is None or self.dn_number <= 0:
            return None
        if self.dn_images is not None and self.dn_images < 1:
            raise ValueError(f"dn_images must be 1 or more, or None; got {self.dn_images}")
        slots = contrastive_slots(targets.mask, self.dn_number, images=self.dn_images)
        if noise is None:
            noise = draw_noise(self.make_rng("denoising"), slots, self.num_classes)
        content = labels[noised_labels(slots, targets, noise, self.label_noise / 2)]
        boxes = contrastive_boxes(slots, targets, noise, self.box_noise)
        real = slots.real[..., None]
        logits = jnp.where(real, inverse_sigmoid(boxes, EPSILON), 0)
        return Denoising(slots, jnp.where(real, content, 0), jax.lax.stop_gradient(logits))

    def detections(self, output: DetectorOutput, original_sizes: Int[Array, "b 2"]) -> Detections:
        """The last layer's best detections in pixels of `original_sizes` (h, w)."""
        return sigmoid_detections(output, original_sizes, self.num_select, self.nms_iou)


def dino(
    *,
    swin: str | None = None,
    pretraining: int | None = None,
    vit: str | None = None,
    image_size: int = 1024,
    drop_path: float | None = None,
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
    implementation: Implementation | None = None,
    remat: bool = False,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    **fields,
) -> Dino:
    """Any DINO; the defaults are the paper's ResNet-50 model with four scales.

    Args:
      swin: a size in `backbones.swin.SIZES`, instead of a ResNet.
      pretraining: side of the images that the Swin was pre-trained with, which gives its windows;
        None is the largest that was published: 384 for base and large, 224 for the smaller.
      vit: a size in `backbones.vit.SIZES`, instead of either: a plain transformer whose one map
        a simple feature pyramid turns into several (arXiv 2203.16527, section 3).
      image_size: side of the images that the ViT's relative positions are made for.
      drop_path: rate of the Swin's or ViT's last block; None is 0.2, or the ViT's own.
      depth, norm, stem: of the ResNet, as in `detr.detr`.
      num_levels: 3 are of strides 8 to 32, fewer without the finest; a fourth has stride 64, a
        fifth stride 4.
      num_points: samples a head and level.
      implementation: of the sampling, see `kernels.ms_deform_attn`.
      remat: recompute layers in the backward pass to save memory.
      fields: of `Dino`.
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
    stages = (0, 1, 2, 3) if num_levels > 4 else level_stages(num_levels)
    if swin is not None and vit is not None:
        raise ValueError(f"a model has one backbone; got swin={swin!r} and vit={vit!r}")
    options = {"remat": remat, **dtypes}
    if drop_path is not None:
        options["drop_path"] = drop_path
    if vit is not None:
        backbone = vit_pyramid(vit, len(stages), width, image_size=image_size, **options)
    elif swin is not None:
        pretraining = pretraining or (384 if swin in ("base", "large") else 224)
        backbone = build_swin(swin, pretraining, stages=stages, **{"drop_path": 0.2} | options)
    else:
        backbone = resnet(depth, norm, width=stem, stages=stages, **dtypes)
    return Dino(
        backbone=backbone,
        neck=ChannelMapper(width, num_levels, **dtypes),
        encoder=DeformableEncoder(encoder_layers, **layers),
        decoder=DeformableDecoder(
            decoder_layers,
            final_norm=True,
            query_position=ReferencePosition(width, **dtypes),
            **layers,
        ),
        position=SinePosition(width, temperature=(20.0, 20.0)),
        width=width,
        **fields,
        **dtypes,
    )


def r50_4scale(**fields) -> Dino:
    """DINO-R50, 4 scales: 49.0 AP on COCO val2017 after 12 epochs, 50.9 after 36."""
    return dino(**fields)


def r50_5scale(**fields) -> Dino:
    """DINO-R50, 5 scales: 49.4 AP after 12 epochs, 51.2 after 36."""
    return dino(**{"num_levels": 5} | fields)


def swin_l_4scale(**fields) -> Dino:
    """DINO-Swin-L, 4 scales, pre-trained on ImageNet-22k at 384: 56.8 AP, 58.0 after 36 epochs."""
    return dino(**{"swin": "large"} | fields)


def swin_l_5scale(**fields) -> Dino:
    """DINO-Swin-L, 5 scales: 57.3 AP after 12 epochs, 58.5 after 36."""
    return dino(**{"swin": "large", "num_levels": 5} | fields)


def vit_b_4scale(**fields) -> Dino:
    """DINO on ViTDet's plain ViT-B, 4 scales (a variant of detrex's, not of the paper's)."""
    return dino(**{"vit": "base"} | fields)


def vit_l_4scale(**fields) -> Dino:
    """DINO on ViTDet's plain ViT-L, 4 scales."""
    return dino(**{"vit": "large"} | fields)


def tiny(**fields) -> Dino:
    """A DINO for two CPU cores and random weights: ResNet-18 with group norm, 128 wide."""
    small = {
        "depth": 18,
        "norm": "group_norm",
        "width": 128,
        "feedforward": 512,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "num_queries": 100,
        "num_classes": 5,
        "dn_number": 50,
        "canvas": "exact",
    }
    return dino(**small | fields)
