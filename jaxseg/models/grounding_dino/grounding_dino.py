"""Grounding DINO (arXiv 2303.05499): DINO that is told in words what to find.

tokens       = neck(backbone(images)) with sine positions           `detr.levels.look`
words        = feat_map(bert(captions)), each phrase on its own     section 3.4
memory, text = encoder(tokens, words): they read each other         section 3.1
queries      = learned content at the memory's tokens that are likest the text     section 3.2
states       = decoder(queries, reference boxes, memory, text)      section 3.3
outputs      = boxes around the references; products of the states with the text
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxseg.models.detr.detr import Canvas, check_images, is_exact
from jaxseg.models.detr.heads import box_delta_head, boxes_by_layer, refine_boxes
from jaxseg.models.detr.levels import Encoded, cell_centres, coarsest_stride, look
from jaxseg.models.detr.proposals import ProposalEncoder, Proposals, propose
from jaxseg.models.detr.queries import learned_boxes, learned_rows
from jaxseg.models.grounding_dino.decoder import similarity
from jaxseg.models.grounding_dino.enhancer import Text
from jaxseg.models.grounding_dino.scoring import class_detections
from jaxseg.nn.initializers import xavier_uniform
from jaxseg.structures import (
    Captions,
    Detections,
    DetectorOutput,
    Images,
    Predictions,
    Targets,
)
from jaxseg.typing import Array, DTypeLike, Float, Int

Selection = Literal["language", "static"]
TextLevel = Literal["sub_sentence", "word", "sentence"]


class GroundingDino(nn.Module):
    """The detector of the paper's figure 3. Its classes are the tokens of a caption.

    Attributes:
      backbone, neck: images to levels of one width.
      bert: the text encoder.
      encoder: the feature enhancer, of image and words.
      decoder: makes query positions of references, has a final norm, reads the words.
      position: mask to position embedding.
      num_queries: proposals and detections.
      selection: where queries start: "language" from the image tokens that are likest any of the
        caption's, "static" from learned boxes.
      text_level: how words see each other in the text encoder: "sub_sentence" within each phrase,
        "word" all of them, "sentence" within each phrase, which then is one feature that stands
        at all its tokens (the paper's figure 4).
      epsilon: of the inverse sigmoid; the Hugging Face port has 1e-5.
      num_select: detections of an image, where classes are scored.
      canvas: as in `Detr`.
    """

    backbone: nn.Module
    neck: nn.Module
    bert: nn.Module
    encoder: nn.Module
    decoder: nn.Module
    position: nn.Module
    num_queries: int = 900
    width: int = 256
    selection: Selection = "language"
    text_level: TextLevel = "sub_sentence"
    epsilon: float = 1e-3
    num_select: int = 300
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
        captions: Captions,
        targets: Targets | None = None,
        train: bool = False,
        *,
        pairs: Int[Array, "p 2"] | None = None,
        proposal_index: Int[Array, "p q"] | None = None,
    ) -> DetectorOutput:
        """Find in images what captions say.

        Args:
          images: normalised, zero on padding, (b, h, w, 3).
          captions: one for each image, unless `pairs` says otherwise.
          targets: not used by this model.
          train: dropout is on (rng "dropout").
          pairs: (image, caption) of each row of the output, so that an image is seen and a
            caption read once, however many they are paired with.
          proposal_index: tokens to go on with instead of the likest ones.
        """
        del targets
        exact = is_exact(self.canvas)
        check_images(images, self.stride if exact else 1)
        self._check(images, captions, pairs)
        seen, text = look(self, images, exact, train), self._read(captions, train)
        extras = {"text": text}
        if pairs is not None:
            seen, text = seen.take(pairs[:, 0]), text.take(pairs[:, 1])

        reference = cell_centres(seen.valid_ratios, seen.shapes)
        memory, words = self.encoder(
            seen.tokens, seen.position, reference, seen.shapes, seen.mask, text, exact, train
        )
        encoded, text = seen._replace(memory=memory), text._replace(features=words)
        content, reference, proposals, found = self._select(encoded, text, proposal_index, exact)
        if proposals is not None:
            extras |= {"proposals": proposals, "first_stage": found}

        box_head = box_delta_head(self.width, self.dtype, self.param_dtype, name="bbox_embed")

        def refine(layer, state, reference):
            del layer  # all have one box head
            return refine_boxes(box_head(state), reference, self.epsilon)

        decoded = self.decoder(
            content,
            reference,
            encoded,
            # An image alone fills its canvas, so there its references are not scaled.
            sine_ratio=None if exact else encoded.valid_ratios[:, 0],
            refine=refine,
            context=(text.features, text.mask),
            train=train,
        )
        logits = similarity(decoded.states, text.features, text.mask)
        return DetectorOutput(
            logits=logits if proposals is None else proposals.hide(logits),
            boxes=boxes_by_layer(decoded, refine),
            states=decoded.states,
            memory=encoded.memory,
            features=encoded.features,
            position=encoded.position,
            extras=extras
            | {
                "encoded": encoded,
                "memory_text": text.features,
                "references": jnp.stack(decoded.references),
            },
        )

    def _check(self, images: Images, captions: Captions, pairs: Array | None) -> None:
        for name, allowed in (("selection", Selection), ("text_level", TextLevel)):
            if getattr(self, name) not in get_args(allowed):
                names = ", ".join(get_args(allowed))
                raise ValueError(f"{name} must be one of {names}; got {getattr(self, name)!r}")
        if pairs is None and len(images.mask) != len(captions.mask):
            raise ValueError(
                f"every image must have a caption; got {len(images.mask)} images and "
                f"{len(captions.mask)} captions: say with `pairs` which belong together"
            )

    def _read(self, captions: Captions, train: bool) -> Text:
        """Features of the words, each phrase read on its own unless `text_level` says more."""
        mask, places = captions.attend, captions.positions
        if self.text_level == "word":
            mask, places = captions.mask, None
        encoding = self.bert(captions.ids, mask, places, train=train)
        feat_map = nn.Dense(
            self.width,
            kernel_init=xavier_uniform,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="feat_map",
        )
        features = feat_map(encoding.last)
        if self.text_level == "sentence":
            share = captions.attend / captions.attend.sum(-1, keepdims=True)
            features = share.astype(features.dtype) @ features
        return Text(features, captions.mask, captions.attend, captions.positions)

    def _select(
        self, encoded: Encoded, text: Text, index: Int[Array, "p q"] | None, exact: bool
    ) -> tuple[Float[Array, "p q d"], Float[Array, "p q 4"], Proposals | None, Predictions | None]:
        """Content and first boxes of the queries, what proposed them, and its predictions."""
        b = len(encoded.mask)
        content = learned_rows(self, "tgt_embed", self.num_queries, self.width, xavier_uniform)
        content = jnp.broadcast_to(content, (b, *content.shape))
        if self.selection == "static":
            reference = learned_boxes(self, self.num_queries)
            return content, jnp.broadcast_to(reference, (b, *reference.shape)), None, None
        dtypes = (self.dtype, self.param_dtype)
        proposals = propose(
            ProposalEncoder(*dtypes, name="proposals"),
            encoded,
            lambda features: similarity(features, text.features, text.mask),
            lambda logits: logits.max(-1),
            self.num_queries,
            index,
            padding_last=exact,
        )
        features = proposals.chosen(proposals.features)
        box_head = box_delta_head(self.width, *dtypes, name="enc_out_bbox_embed")
        boxes = jax.nn.sigmoid(box_head(features) + proposals.chosen(proposals.anchors))
        found = Predictions(proposals.hide(proposals.chosen(proposals.logits)), boxes)
        content = content[:, : proposals.index.shape[1]]
        return content, jax.lax.stop_gradient(boxes), proposals, found

    def detections(
        self,
        output: DetectorOutput,
        original_sizes: Int[Array, "b 2"],
        classes: Float[Array, "b k s"] | Float[Array, "k s"],
    ) -> Detections:
        """The last layer's best pairs of query and class in pixels of `original_sizes` (h, w).

        Args:
          classes: how much each token of the caption counts for each class.
        """
        return class_detections(output, classes, original_sizes, self.num_select)
