"""The pytrees that cross the borders between stages.

Every padded array has its validity mask beside it, and True always means real. Arrays may be
numpy's (from the loader) or JAX's; all of them are data, so the structs pass through `jit`,
`vmap` and sharding as they are.
"""

import flax.struct
import jax.numpy as jnp

from jaxseg.typing import Array, Bool, Float, Int, Num

# Labels of points.
FOREGROUND, BACKGROUND, NOT_A_POINT = 1, 0, -1
# A logit whose sigmoid and focal loss are 0, and finite.
ABSENT = -1e4


@flax.struct.dataclass
class Images:
    """Images on one canvas, each at the top left.

    Attributes:
      pixels: RGB; uint8 as decoded, or float32 after `ops.images.normalize`, zero on padding.
      mask: True on real pixels.
    """

    pixels: Num[Array, "b h w 3"]
    mask: Bool[Array, "b h w"]


@flax.struct.dataclass
class Features:
    """Maps of several strides, finest first.

    Attributes:
      maps: for each level (b, h, w, c).
      masks: for each level (b, h, w), True on real positions.
    """

    maps: tuple[Float[Array, "b _h _w _c"], ...]
    masks: tuple[Bool[Array, "b _h _w"], ...]


@flax.struct.dataclass
class Captions:
    """What to look for in each image, as a text encoder reads it.

    Attributes:
      ids: of the tokens; anything on padding.
      mask: True on real tokens, the special ones and full stops included.
      attend: True where the token of the row may attend that of the column: within its own
        phrase, and to itself.
      positions: of each token within its phrase.
    """

    ids: Int[Array, "b s"]
    mask: Bool[Array, "b s"]
    attend: Bool[Array, "b s s"]
    positions: Int[Array, "b s"]


@flax.struct.dataclass
class Targets:
    """The objects of each image, padded to t slots.

    Attributes:
      labels: class indices as the model numbers them; anything in empty slots.
      boxes: cxcywh in [0, 1] of the image's own extent on the canvas (not of the canvas).
      mask: True on real objects.
      masks: optional object masks on the images' canvas, False on padding.
      tokens: True on the tokens of the image's caption that name the object, where classes are
        named by a caption.
    """

    labels: Int[Array, "b t"]
    boxes: Float[Array, "b t 4"]
    mask: Bool[Array, "b t"]
    masks: Bool[Array, "b t h w"] | None = None
    tokens: Bool[Array, "b t s"] | None = None


@flax.struct.dataclass
class Batch:
    """What the loader yields and a training or evaluation step consumes.

    Attributes:
      images: uint8 canvases with their masks.
      targets: objects of each image.
      index: position of each image in its data set (the host maps it to the image's id).
      sizes: (h, w) of each image on the canvas.
      original_sizes: (h, w) of each image's file, the frame that detections are returned in.
      mask: True on real images; False on the rows that fill up the last batch.
      captions: what to look for in each image, for models that are told.
    """

    images: Images
    targets: Targets
    index: Int[Array, " b"]
    sizes: Int[Array, "b 2"]
    original_sizes: Int[Array, "b 2"]
    mask: Bool[Array, " b"]
    captions: Captions | None = None


@flax.struct.dataclass
class Predictions:
    """Class logits and boxes of one set of queries.

    Attributes:
      logits: of the classes.
      boxes: cxcywh in [0, 1] of each image's own extent.
    """

    logits: Float[Array, "b q k"]
    boxes: Float[Array, "b q 4"]


@flax.struct.dataclass
class Proposals:
    """What the tokens propose.

    Attributes:
      features: of each token, after its linear layer and norm.
      logits: class logits of each token.
      anchors: boxes before the sigmoid, to which a box head adds; infinite where there is none.
      score: what tokens are ranked by.
      index: the chosen tokens, best first.
      real: False where padding was chosen, for want of tokens; None where nobody asks, as in the
        originals.
    """

    features: Float[Array, "b n d"]
    logits: Float[Array, "b n k"]
    anchors: Float[Array, "b n 4"]
    score: Float[Array, "b n"]
    index: Int[Array, "b q"]
    real: Bool[Array, "b q"] | None = None

    def chosen(self, x: Float[Array, "b n c"]) -> Float[Array, "b q c"]:
        """The rows of the chosen tokens."""
        return jnp.take_along_axis(x, self.index[..., None], 1)

    def everywhere(self, boxes: Float[Array, "b n 4"], mask: Bool[Array, "b n"]) -> Predictions:
        """What all tokens predict; where padding may not count it has no chance.

        Args:
          boxes: of every token.
          mask: True on real tokens.
        """
        if self.real is None:
            return Predictions(self.logits, boxes)
        return Predictions(jnp.where(mask[..., None], self.logits, ABSENT), boxes)

    def hide(self, logits: Float[Array, "*l b q k"]) -> Float[Array, "*l b q k"]:
        """Logits of the chosen tokens' queries, without a chance where padding was chosen."""
        return logits if self.real is None else jnp.where(self.real[..., None], logits, ABSENT)


@flax.struct.dataclass
class Slots:
    """What each denoising slot stands for.

    Attributes:
      group: index of its group.
      negative: True in the half of a group whose boxes lie too far away to be right.
      target: the target slot that it copies.
      real: True where there is such a target.
      used: True on slots of the originals' layout.
      groups: number of groups of each image.
    """

    group: Int[Array, "b s"]
    negative: Bool[Array, "b s"]
    target: Int[Array, "b s"]
    real: Bool[Array, "b s"]
    used: Bool[Array, "b s"]
    groups: Int[Array, " b"]

    @property
    def positive(self) -> Bool[Array, "b s"]:
        """Slots whose target is to be found again."""
        return self.real & ~self.negative


@flax.struct.dataclass
class Noise:
    """The random numbers of each slot.

    Attributes:
      flip: uniform in [0, 1): whether the label is replaced.
      label: by which.
      shift: uniform in [0, 1) for each of four coordinates.
      sign: -1 or 1 for each (contrastive denoising alone).
    """

    flip: Float[Array, "b s"]
    label: Int[Array, "b s"]
    shift: Float[Array, "b s 4"]
    sign: Float[Array, "b s 4"]


@flax.struct.dataclass
class Denoised:
    """What the decoder made of noised targets, in slots (DN-DETR, arXiv 2203.01305, section 4).

    Attributes:
      logits, boxes: as in `DetectorOutput`, of every layer.
      target: the target slot that each one was made from.
      positive: True where that target is to be found again.
      scored: True on slots that stand in the class loss (as background unless positive).
      groups: copies of each image's targets, which the losses are divided by.
    """

    logits: Float[Array, "l b s k"]
    boxes: Float[Array, "l b s 4"]
    target: Int[Array, "b s"]
    positive: Bool[Array, "b s"]
    scored: Bool[Array, "b s"]
    groups: Int[Array, " b"]


@flax.struct.dataclass
class DetectorOutput:
    """What a detector predicts, with the intermediates that study and parity ask for.

    Attributes:
      logits: class logits of every decoder layer, the last layer last.
      boxes: cxcywh in [0, 1] of each image's own extent.
      states: decoder states that the heads read.
      memory: encoder output, all levels joined row by row.
      features: what the backbone returned.
      position: the position embedding of the encoder's tokens.
      extras: what else a model names. The criterion reads "first_stage" (`Predictions` of the
        encoder), "denoised" (`Denoised`) and "masks".
    """

    logits: Float[Array, "l b q k"]
    boxes: Float[Array, "l b q 4"]
    states: Float[Array, "l b q d"]
    memory: Float[Array, "b n d"]
    features: Features
    position: Float[Array, "b n d"]
    extras: dict = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class Detections:
    """Boxes as a user reads them, best first unless the model keeps its own order.

    Attributes:
      boxes: xyxy in pixels of the original image, not clipped.
      scores: in [0, 1]; minus infinity where a better detection suppresses this one.
      labels: class indices as the model numbers them.
      masks: optional object masks in the original image's frame.
    """

    boxes: Float[Array, "b q 4"]
    scores: Float[Array, "b q"]
    labels: Int[Array, "b q"]
    masks: Bool[Array, "b q h w"] | None = None


@flax.struct.dataclass
class Prompts:
    """What to segment: for each image p sets of prompts, each of one object.

    Coordinates are pixels of the model's input frame, x before y. A kind that is None is in no
    set; a mask of validity that is None says that all of its kind are real.

    Attributes:
      points: (x, y).
      labels: 1 is foreground, 0 background, −1 no point at all, which the model has an embedding
        for. A point that only fills up a set is False in `points_mask` instead, and seen by none.
      points_mask: True on real points.
      boxes: xyxy.
      boxes_mask: True for sets with a box.
      masks: logits as in `Masks`, of the whole canvas.
      masks_mask: True for sets with a mask.
    """

    points: Float[Array, "b p n 2"] | None = None
    labels: Int[Array, "b p n"] | None = None
    points_mask: Bool[Array, "b p n"] | None = None
    boxes: Float[Array, "b p 4"] | None = None
    boxes_mask: Bool[Array, "b p"] | None = None
    masks: Float[Array, "b p h w"] | None = None
    masks_mask: Bool[Array, "b p"] | None = None

    @property
    def images(self) -> int:
        """b; without any prompt it is 1."""
        given = (x for x in (self.points, self.boxes, self.masks) if x is not None)
        return max((x.shape[0] for x in given), default=1)

    @property
    def sets(self) -> int:
        """p; without any prompt it is 1."""
        given = (x for x in (self.points, self.boxes, self.masks) if x is not None)
        return next((x.shape[1] for x in given), 1)


@flax.struct.dataclass
class Masks:
    """Masks of prompts, and how good the model takes them to be.

    Attributes:
      logits: at a quarter of the input's size, padding included; above 0 is inside.
      iou: predicted intersection over union of each.
    """

    logits: Float[Array, "b p m h w"]
    iou: Float[Array, "b p m"]

    @property
    def single(self) -> "Masks":
        """The one mask that several prompts are answered with."""
        return Masks(self.logits[:, :, :1], self.iou[:, :, :1])

    @property
    def multiple(self) -> "Masks":
        """The masks that a single, ambiguous prompt is answered with: whole, part, subpart."""
        return Masks(self.logits[:, :, 1:], self.iou[:, :, 1:])


@flax.struct.dataclass
class TextFeatures:
    """What CLIP makes of texts.

    Attributes:
      features: the embedding that images share, not normalised.
      hidden: tokens after each block, before the final norm.
    """

    features: Float[Array, "m e"]
    hidden: Float[Array, "l m s d"]


@flax.struct.dataclass
class ImageFeatures:
    """What CLIP makes of images; n tokens, the class token and the patches row by row.

    Attributes:
      features: the embedding that texts share, not normalised.
      pooled: the class token after the last norm.
      embedded: tokens before the first block, normalised.
      tokens: after the last block, before any norm.
    """

    features: Float[Array, "b e"]
    pooled: Float[Array, "b d"]
    embedded: Float[Array, "b n d"]
    tokens: Float[Array, "b n d"]


@flax.struct.dataclass
class ClipOutput:
    """Both towers' answers, and how well each image goes with each text.

    Attributes:
      image, text: of the towers.
      logits: exp(logit_scale) times the cosine of the features, in float32.
    """

    image: ImageFeatures
    text: TextFeatures
    logits: Float[Array, "b m"]
