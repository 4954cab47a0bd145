"""Pictures of detections."""

import numpy as np
from PIL import Image, ImageDraw

from jaxseg.predict.fonts import font_for
from jaxseg.predict.paint import tint
from jaxseg.predict.preprocess import ImageSource, load_image
from jaxseg.predict.result import Prediction
from jaxseg.predict.tags import (
    Color,
    Rectangle,
    Tag,
    class_color,
    draw_tag,
    extent,
    overlap,
    shorten,
    text_sizes,
)


def draw(image: ImageSource, prediction: Prediction, *, scores: bool = True) -> Image.Image:
    """The upright image with a frame and a name tag for each object, and its mask if it has one.

    Objects of one class share a colour. Frames and letters grow with the image; tags stay inside
    it and, where there is room, off each other; the surest objects lie on top. On a small image
    long names are cut off, and where letters would cover it there are frames alone.

    Args:
      image: what was given to the detector.
      scores: write scores beside the names.
    """
    picture = Image.fromarray(load_image(image))
    thickness, letters = text_sizes(picture.size)
    boxes = prediction.clipped()
    order = range(len(prediction) - 1, -1, -1)
    if prediction.masks is not None:
        colors = [class_color(int(label)) for label in prediction.labels[::-1]]
        picture = tint(picture, prediction.masks[::-1], colors, thickness)
    canvas = ImageDraw.Draw(picture)
    for i in order:
        _frame(canvas, boxes[i], class_color(int(prediction.labels[i])), thickness, picture.size)
    tags = _place_tags(canvas, prediction, boxes, letters, picture.size, scores)
    for i in order:
        if tags[i] is not None:
            draw_tag(canvas, tags[i], class_color(int(prediction.labels[i])))
    return picture


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
        text = shorten(canvas, name, tail, font, size[0])
        room = extent(canvas, text, font)
        if not text or room[1] > size[1] / 3:
            tags.append(None)
            continue
        places = _places(boxes[i], room, size)
        taken = [tag.rectangle for tag in tags if tag is not None]
        free = (p for p in places if not any(overlap(p, other) for other in taken))
        tags.append(Tag(text, next(free, places[0]), font))
    return tags


def _places(box: np.ndarray, room: tuple, size: tuple) -> list[Rectangle]:
    """Above the box, inside at its top, below it, inside at its bottom: all within the image."""
    (width, height), (tag_width, tag_height) = size, room
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
