"""A panoptic data set of upright stripes, written for one test."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from jaxseg.data.panoptic import write_ids

CATEGORIES = [
    {"id": 3, "name": "red", "isthing": 1},
    {"id": 5, "name": "green", "isthing": 1},
    {"id": 120, "name": "blue", "isthing": 0},
]
# Of each image the colour and the right edge of each stripe in pixels; None is void.
STRIPES = [
    [("red", 16), ("blue", 40), ("green", 64)],
    [("blue", 24), (None, 40), ("red", 80), ("blue", 96)],
    [("green", 64)],
]
HEIGHT = 64
CHANNEL = {"red": 0, "green": 1, "blue": 2}


def stripes(folder: Path, layout=STRIPES) -> Path:
    """COCO's layout with the split `val`; returns its JSON file. Segment ids are large."""
    names = {c["name"]: c["id"] for c in CATEGORIES}
    images, annotations = [], []
    places = (folder / "val", folder / "annotations" / "panoptic_val")
    for place in places:
        place.mkdir(parents=True)
    for number, image in enumerate(layout, 11):
        width = image[-1][1]
        pixels = np.zeros((HEIGHT, width, 3), np.uint8)
        ids = np.zeros((HEIGHT, width), np.int32)
        owner, left = {}, 0
        for name, right in image:
            if name is not None:
                # Stuff of one kind is one segment.
                id_ = owner.setdefault(name, 70000 * number + 10 * len(owner) + 300)
                pixels[:, left:right, CHANNEL[name]] = 255
                ids[:, left:right] = id_
            left = right
        Image.fromarray(pixels).save(places[0] / f"{number}.png")
        write_ids(ids, places[1] / f"{number}.png")
        record = {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": width}
        images.append(record)
        segments = [_segment(id_, names[name], ids == id_) for name, id_ in owner.items()]
        annotations.append(
            {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}
        )
    path = folder / "annotations" / "panoptic_val.json"
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    path.write_text(json.dumps(content))
    return path


def _segment(id_: int, category: int, mask: np.ndarray) -> dict:
    (columns,) = np.nonzero(mask.any(0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return {
        "id": id_,
        "category_id": category,
        "bbox": [left, 0, right - left, HEIGHT],
        "area": int(mask.sum()),
        "iscrowd": 0,
    }
