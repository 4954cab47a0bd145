"""The feature enhancer (Grounding DINO, arXiv 2303.05499, section 3.1 and figure 3, block 2).

Each layer: image and words read each other, then each its own kind. The paper's figure draws
the last two first; the released weights want this order.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from jaxseg.kernels.ms_deform_attn import Implementation, Shapes
from jaxseg.models.detr.deformable_encoder import LAYER_FIELDS, DeformableEncoderLayer
from jaxseg.models.detr.encoder import EncoderLayer
from jaxseg.models.grounding_dino.fusion import Fusion
from jaxseg.nn.position import sine_embedding
from jaxseg.typing import Array, Bool, DTypeLike, Float, Int


class Text(NamedTuple):
    """Words as the detector reads them.

    Attributes:
      features: of each token.
      mask: True on real tokens.
      attend: True where a token may attend another: within its phrase, and to itself.
      positions: of each token within its phrase.
    """

    features: Float[Array, "b s d"]
    mask: Bool[Array, "b s"]
    attend: Bool[Array, "b s s"]
    positions: Int[Array, "b s"]

    def take(self, rows: Int[Array, " p"]) -> "Text":
        """For each of p rows what belongs to one of the b captions."""
        return Text(*(x[rows] for x in self))


class FeatureEnhancer(nn.Module):
    """A stack of fusion, attention among words and deformable attention.

    Attributes:
      fusion: what lets the two sides meet: `Fusion`, or `Apart` without it.
      fusion_heads, fusion_width, drop_path: its fields.
      text_heads, text_feedforward: of the attention among words.
      num_heads, num_points, feedforward, implementation: of the deformable one.
    """

    num_layers: int = 6
    fusion: type[nn.Module] = Fusion
    fusion_heads: int = 4
    fusion_width: int = 1024
    drop_path: float = 0.1
    text_heads: int = 4
    text_feedforward: int = 1024
    num_heads: int = 8
    num_points: int = 4
    feedforward: int = 2048
    dropout: float = 0.0
    activation: Callable = nn.relu
    implementation: Implementation | None = None
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        position: Float[Array, "b n d"],
        reference: Float[Array, "b n l 2"],
        shapes: Shapes,
        mask: Bool[Array, "b n"],
        text: Text,
        exact: bool = False,
        train: bool = False,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b s d"]]:
        """Enhanced tokens of the image and of the words.

        Args:
          reference: see `levels.cell_centres`.
          exact: as in `Fusion`.
        """
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        fusion, words, layer = self.fusion, EncoderLayer, DeformableEncoderLayer
        if self.remat:
            fusion = nn.remat(fusion, static_argnums=(5, 6))
            words = nn.remat(words, static_argnums=(4,))
            layer = nn.remat(layer, static_argnums=(4, 6))
        fused = {"num_heads": self.fusion_heads, "width": self.fusion_width}
        fused |= {"drop_path": self.drop_path, **dtypes}
        spoken = {"num_heads": self.text_heads, "feedforward": self.text_feedforward}
        spoken |= {"dropout": self.dropout, **dtypes}
        fields = {f: getattr(self, f) for f in LAYER_FIELDS}

        y, place = text.features, sine_embedding(2 * jnp.pi * text.positions, x.shape[-1])
        for i in range(self.num_layers):
            x, y = fusion(**fused, name=f"fusion_{i}")(x, y, mask, text.mask, exact, train)
            y = words(**spoken, name=f"text_{i}")(y, place, text.attend, train)
            x = layer(**fields, name=f"layer_{i}")(x, position, reference, shapes, mask, train)
        return x, y
