"""Pictures of detections."""

import colorsys
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxseg.predict.fonts import font_for
from jaxseg.predict.preprocess import ImageSource, load_image
from jaxseg.predict.result import Prediction

Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]

_GOLDEN = 0.618034


class Tag(NamedTuple):
    """A name and where it stands."""

    text: str
    rectangle: Rectangle
    font: ImageFont.FreeTypeFont


def draw(image: ImageSource, prediction: Prediction, *, scores: bool = True) -> Image.Image:
    """The upright image with a frame and a name tag for each object.

    Objects of one class share a colour. Frames and letters grow with the image; tags stay inside
    it and, where there is room, off each other; the surest objects lie on top. On a small image
    long names are cut off, and where letters would cover it there are frames alone.

    Args:
      image: what was given to the detector.
      scores: write scores beside the names.
    """
    picture = Image.fromarray(load_image(image))
    canvas = ImageDraw.Draw(picture)
    thickness, letters = _sizes(picture.size)
    boxes = prediction.clipped()
    order = range(len(prediction) - 1, -1, -1)
    for i in order:
        _frame(canvas, boxes[i], class_color(int(prediction.labels[i])), thickness, picture.size)
    tags = _place_tags(canvas, prediction, boxes, letters, picture.size, scores)
    for i in order:
        if tags[i] is not None:
            _draw_tag(canvas, tags[i], class_color(int(prediction.labels[i])))
    return picture


def class_color(label: int) -> Color:
    """A vivid RGB colour; neighbouring labels are far apart on the colour wheel."""
    hue = (0.02 + label * _GOLDEN) % 1.0
    # Lightness steps at another rhythm than hue, so that a near return of the hue still differs.
    lightness = (0.50, 0.62, 0.40)[label % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def _sizes(size: tuple[int, int]) -> tuple[int, float]:
    """Thickness of frames and size of letters."""
    side = (size[0] * size[1]) ** 0.5
    thickness = max(1, round(side / 220))
    letters = min(max(10, side / 42), 0.5 * min(size) + 4)
    return thickness, letters


def _frame(
    canvas: ImageDraw.ImageDraw, box: np.ndarray, color: Color, thickness: int, size: tuple
) -> None:
    width, height = size
    x1, y1 = min(box[0], width - 1), min(box[1], height - 1)
    x2, y2 = max(x1, min(box[2], width) - 1), max(y1, min(box[3], height) - 1)
    canvas.rectangle((x1, y1, x2, y2), outline=color, width=thickness)


def _place_tags(canvas, prediction, boxes, letters, size, scores) -> list[Tag | None]:
    tags: list[Tag | None] = []
    for i, name in enumerate(prediction.names):
        name = " ".join(name.split())
        tail = f" {prediction.scores[i]:.2f}" if scores else ""
        font = font_for(name + tail, letters)
        text = _shorten(canvas, name, tail, font, size[0])
        extent = _extent(canvas, text, font)
        if not text or extent[1] > size[1] / 3:
            tags.append(None)
            continue
        places = _places(boxes[i], extent, size)
        taken = [tag.rectangle for tag in tags if tag is not None]
        free = (p for p in places if not any(_overlap(p, other) for other in taken))
        tags.append(Tag(text, next(free, places[0]), font))
    return tags


def _shorten(canvas, name: str, tail: str, font, width: float) -> str:
    """The name with as much of it, and the tail, as fits; "" if a few letters do not."""
    texts = [name + tail, name, *(f"{name[:n]}.." for n in range(len(name) - 1, 2, -1))]
    return next((text for text in texts if _extent(canvas, text, font)[0] <= width), "")


def _extent(canvas, text: str, font) -> tuple[float, float]:
    # From the font's own ascent, so that tags are of one height whatever their letters.
    ascent, descent = font.getmetrics()
    margin = max(2, round(ascent * 0.2))
    return canvas.textlength(text, font=font) + 2 * margin, ascent + descent + margin


def _places(box: np.ndarray, extent: tuple, size: tuple) -> list[Rectangle]:
    """Above the box, inside at its top, below it, inside at its bottom: all within the image."""
    (width, height), (tag_width, tag_height) = size, extent
    x1, y1, x2, y2 = map(float, box)
    corners = [
        (x, y)
        for y in (y1 - tag_height, y1, y2, y2 - tag_height)
        for x in (x1, x2 - tag_width)
        if y >= 0 and y + tag_height <= height
    ] or [(x1, y1)]
    places = []
    for x, y in corners:
        x = max(0.0, min(x, width - tag_width))
        y = max(0.0, min(y, height - tag_height))
        places.append((x, y, x + tag_width, y + tag_height))
    return places


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw_tag(canvas, tag: Tag, color: Color) -> None:
    canvas.rectangle(tag.rectangle, fill=color)
    x1, y1, x2, y2 = tag.rectangle
    middle = (x1 + x2) / 2, (y1 + y2) / 2
    canvas.text(middle, tag.text, fill=_ink(color), font=tag.font, anchor="mm")


def _ink(color: Color) -> Color:
    red, green, blue = color
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140
    return (0, 0, 0) if bright else (255, 255, 255)
