"""From the records of a TFDS object-detection data set to annotations in COCO's form."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from jaxseg.data.images import read_size
from jaxseg.errors import UserError


def object_feature(features: Mapping, location: str) -> tuple[str, str, str]:
    """Names of the feature that holds the objects, of its boxes and of its labels.

    Raises:
      UserError: there is no such feature.
    """
    for name, feature in features.items():
        inner = getattr(feature, "feature", None)
        if not hasattr(inner, "items"):
            continue
        kinds = {type(part).__name__: key for key, part in inner.items()}
        if "BBoxFeature" in kinds and "ClassLabel" in kinds:
            return name, kinds["BBoxFeature"], kinds["ClassLabel"]
    raise UserError(
        f"tfds:{location} is no detection data set: none of its features ({', '.join(features)}) "
        "is a sequence of objects with boxes and class labels"
    )


def gather_coco(
    source: Sequence[Mapping], feature: tuple[str, str, str], features: Mapping, location: str
) -> dict:
    """Read all records, images undecoded, and write their objects down in COCO's form."""
    objects, box, label = feature
    names = features[objects].feature[label].names
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
    }
    for n in tqdm(range(len(source)), f"indexing tfds:{location}", leave=False, disable=None):
        record = source[n]
        image_id = _plain(record.get("image/id", record.get("image_id", n)))
        name = _plain(record.get("image/filename", image_id))
        height, width = read_size(record["image"], str(name))
        content["images"].append(
            {"id": image_id, "file_name": str(name), "height": height, "width": width}
        )
        content["annotations"] += _annotations(
            record[objects], box, label, image_id, (height, width), len(content["annotations"])
        )
    return content


def _annotations(
    objects: Mapping, box: str, label: str, image_id, size: tuple[int, int], before: int
) -> list[dict]:
    # TFDS writes a sequence of nothing as [], whatever its inner shape.
    corners = np.asarray(objects[box], np.float64).reshape(-1, 4)
    top, left, bottom, right = (corners * np.tile(size, 2)).T
    xywh = np.stack([left, top, right - left, bottom - top], -1).round(3)
    records = []
    for n, bbox in enumerate(xywh.tolist()):
        record = {
            "id": before + n + 1,
            "image_id": image_id,
            "category_id": int(objects[label][n]),
            "bbox": bbox,
            "area": float(objects["area"][n]) if "area" in objects else bbox[2] * bbox[3],
            "iscrowd": int(objects["is_crowd"][n]) if "is_crowd" in objects else 0,
        }
        if "segmentation" in objects and (text := objects["segmentation"][n]):
            record["segmentation"] = json.loads(text)
        records.append(record)
    return records


def _plain(value):
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value
