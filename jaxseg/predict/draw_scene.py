"""Pictures of whole scenes: every segment in its colour."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from jaxseg.predict.fonts import font_for
from jaxseg.predict.paint import blend, borders
from jaxseg.predict.panoptic import Scene, Segment
from jaxseg.predict.preprocess import ImageSource, load_image
from jaxseg.predict.tags import (
    Color,
    Tag,
    class_color,
    draw_tag,
    extent,
    overlap,
    shorten,
    text_sizes,
)

TINT = 0.6  # share of a segment's colour
TAGGED = 0.002  # of the image; smaller segments have no room for a name
COARSE = 160  # pixels of the long side of the map in which places for names are looked for
LINE = 245  # grey between segments


def draw_scene(image: ImageSource, scene: Scene) -> Image.Image:
    """The upright image with its segments in colours, and the names of the larger ones.

    Things of one class have shades of its colour; stuff is paler. A light line divides segments.
    """
    pixels = np.array(load_image(image))  # the caller's own array stays as it is
    colors = dict(zip(scene.segments, scene_colors(scene.segments), strict=True))
    for segment, color in colors.items():
        blend(pixels, scene.ids == segment.id, color, TINT)
    height, width = scene.size
    thickness, letters = text_sizes((width, height))
    pixels[borders(scene.ids, max(1, thickness // 2))] = LINE
    picture = Image.fromarray(pixels)
    canvas = ImageDraw.Draw(picture)
    tags: list[Tag] = []
    for segment in sorted(scene.segments, key=lambda s: -s.area):
        tag = _tag(canvas, scene.ids, segment, letters)
        if tag is not None and not any(overlap(tag.rectangle, t.rectangle) for t in tags):
            draw_tag(canvas, tag, colors[segment])
            tags.append(tag)
    return picture


def scene_colors(segments: Sequence[Segment]) -> list[Color]:
    """A colour for each segment."""
    seen: dict[int, int] = {}
    colors = []
    for segment in segments:
        turn = seen[segment.label] = seen.get(segment.label, -1) + 1
        red, green, blue = (x / 255 for x in class_color(segment.label))
        hue, light, strength = colorsys.rgb_to_hls(red, green, blue)
        if segment.thing:
            # 0, 1, 2, ... lie apart and never far from the class's own colour.
            light = light + 0.16 * ((turn * 0.618034 + 0.5) % 1 - 0.5)
            hue = hue + 0.05 * ((turn * 0.381966 + 0.5) % 1 - 0.5)
        else:
            light, strength = 0.35 + 0.4 * light, 0.45 * strength
        rgb = colorsys.hls_to_rgb(hue % 1, light, strength)
        colors.append(tuple(round(255 * x) for x in rgb))
    return colors


def _tag(canvas, ids: np.ndarray, segment: Segment, letters: float) -> Tag | None:
    """A segment's name where it is widest, or None if it is small."""
    height, width = ids.shape
    if segment.area < TAGGED * height * width:
        return None
    font = font_for(segment.name, letters)
    text = shorten(canvas, segment.name, "", font, width)
    wide, high = extent(canvas, text, font)
    if not text or high > height / 3:
        return None
    step = max(1, max(ids.shape) // COARSE)
    # Padded, so that the image's border counts as an end.
    mask = np.pad(ids[::step, ::step] == segment.id, 1)
    depth = ndimage.distance_transform_edt(mask)[1:-1, 1:-1]
    y, x = (step * int(i) for i in np.unravel_index(depth.argmax(), depth.shape))
    left = min(max(0.0, x - wide / 2), width - wide)
    top = min(max(0.0, y - high / 2), height - high)
    return Tag(text, (left, top, left + wide, top + high), font)
