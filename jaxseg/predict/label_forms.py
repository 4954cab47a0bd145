"""What was found in many images as a data set: COCO's JSON, or ODVG's lines."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.data.odvg_write import detection_line, write_odvg
from jaxseg.data.segmentation import encode_mask
from jaxseg.predict.result import Prediction, write_json

Record = Mapping[str, Any]


def record_of(path: Path, found: Prediction, turned: bool) -> dict[str, Any]:
    """What is kept of an image: its file, (h, w), whether it is stored turned, and its objects.

    Boxes are cut off at the border. Objects without an area there are left out, and of objects with
    masks those whose mask has no pixel.
    """
    objects = []
    for i, box in enumerate(found.clipped().astype(np.float64).round(2).tolist()):
        if not (box[2] > box[0] and box[3] > box[1]):
            continue
        one = {"label": int(found.labels[i]), "score": round(float(found.scores[i]), 5), "box": box}
        if found.masks is not None:
            mask = found.masks[i]
            one |= {"segmentation": encode_mask(mask), "area": int(mask.sum())}
        if one.get("area", 1):
            objects.append(one)
    size = list(map(int, found.size))
    return {"file": str(path.resolve()), "size": size, "turned": turned, "objects": objects}


def file_name(path: Path, folder: Path) -> str:
    """Where an image lies, from the folder of its labels."""
    image = os.path.join(os.path.realpath(path.parent), path.name)
    return Path(os.path.relpath(image, os.path.realpath(folder))).as_posix()


def write_coco(out: Path, images: Mapping[Path, Record], phrases: Sequence[str]) -> None:
    """Write COCO's form of a data set; the category ids are the places of the phrases, from 1."""
    listed, annotations = [], []
    for id_, (path, record) in enumerate(images.items(), 1):
        height, width = record["size"]
        name = file_name(path, out.parent)
        listed.append({"id": id_, "file_name": name, "height": height, "width": width})
        for one in record["objects"]:
            x1, y1, x2, y2 = one["box"]
            box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
            annotation = {
                "id": len(annotations) + 1,
                "image_id": id_,
                "category_id": one["label"] + 1,
                "bbox": box,
                "area": one.get("area", round(box[2] * box[3], 2)),
                "iscrowd": 0,
                "score": one["score"],
            }
            mask = {"segmentation": one["segmentation"]} if "segmentation" in one else {}
            annotations.append(annotation | mask)
    categories = [{"id": id_, "name": name} for id_, name in enumerate(phrases, 1)]
    write_json(out, {"images": listed, "annotations": annotations, "categories": categories})


def label_map(out: Path) -> Path:
    """Where the names of ODVG's labels are written."""
    return out.with_name(f"{out.stem}_label_map.json")


def write_lines(out: Path, images: Mapping[Path, Record], phrases: Sequence[str]) -> None:
    """Write ODVG's lines of detection, and a label map beside them; a label is the place of a
    phrase, from 0."""

    def lines() -> Iterable[dict]:
        for path, record in images.items():
            objects = record["objects"]
            labels = [one["label"] for one in objects]
            boxes = np.asarray([one["box"] for one in objects]).reshape(-1, 4)
            names = [phrases[label] for label in labels]
            name = file_name(path, out.parent)
            yield detection_line(name, tuple(record["size"]), boxes, labels, names)

    write_json(label_map(out), {str(label): name for label, name in enumerate(phrases)})
    write_odvg(out, lines())
