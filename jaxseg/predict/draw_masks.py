"""Pictures of masks without names."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxseg.predict.paint import tint
from jaxseg.predict.preprocess import ImageSource, load_image
from jaxseg.predict.tags import class_color, text_sizes


def draw_masks(image: ImageSource, masks: Sequence[np.ndarray]) -> Image.Image:
    """The upright image with each mask, bool (h, w), in a colour of its own; small ones on top."""
    picture = Image.fromarray(load_image(image))
    thickness, _ = text_sizes(picture.size)
    order = sorted(range(len(masks)), key=lambda i: -np.count_nonzero(masks[i]))
    colors = [class_color(i) for i in range(len(masks))]
    return tint(picture, (masks[i] for i in order), colors, thickness)
