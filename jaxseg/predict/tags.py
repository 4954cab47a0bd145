"""Name tags, and the colours of classes."""

import colorsys
from typing import NamedTuple

from PIL import ImageFont

Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]

_GOLDEN = 0.618034


class Tag(NamedTuple):
    """A name and where it stands."""

    text: str
    rectangle: Rectangle
    font: ImageFont.FreeTypeFont


def class_color(label: int) -> Color:
    """A vivid RGB colour; neighbouring labels are far apart on the colour wheel."""
    hue = (0.02 + label * _GOLDEN) % 1.0
    # Lightness steps at another rhythm than hue, so that a near return of the hue still differs.
    lightness = (0.50, 0.62, 0.40)[label % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_sizes(size: tuple[int, int]) -> tuple[int, float]:
    """Thickness of frames and size of letters."""
    side = (size[0] * size[1]) ** 0.5
    thickness = max(1, round(side / 220))
    letters = min(max(10, side / 42), 0.5 * min(size) + 4)
    return thickness, letters


def shorten(canvas, name: str, tail: str, font, width: float) -> str:
    """The name with as much of it, and the tail, as fits; "" if a few letters do not."""
    texts = [name + tail, name, *(f"{name[:n]}.." for n in range(len(name) - 1, 2, -1))]
    return next((text for text in texts if extent(canvas, text, font)[0] <= width), "")


def extent(canvas, text: str, font) -> tuple[float, float]:
    """Width and height of a tag with this text."""
    # From the font's own ascent, so that tags are of one height whatever their letters.
    ascent, descent = font.getmetrics()
    margin = max(2, round(ascent * 0.2))
    return canvas.textlength(text, font=font) + 2 * margin, ascent + descent + margin


def overlap(a: Rectangle, b: Rectangle) -> bool:
    """Whether two rectangles share a point."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def draw_tag(canvas, tag: Tag, color: Color) -> None:
    """Paint a tag in its class's colour."""
    canvas.rectangle(tag.rectangle, fill=color)
    x1, y1, x2, y2 = tag.rectangle
    middle = (x1 + x2) / 2, (y1 + y2) / 2
    canvas.text(middle, tag.text, fill=_ink(color), font=tag.font, anchor="mm")


def _ink(color: Color) -> Color:
    red, green, blue = color
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140
    return (0, 0, 0) if bright else (255, 255, 255)
