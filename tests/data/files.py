"""Small COCO data sets written for one test."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def shared(name: str) -> Path:
    """A real data set, or the test is skipped."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs the shared data set {name}, which is not here")
    return path


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def two_images(folder: Path, **changes) -> Path:
    """Images 7 (6 x 8, high x wide) and 3 (8 x 6), categories 2 and 5; returns the json's path.

    `changes` replace the lists of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(6, 8, 1)).save(folder / "wide.png")
    Image.fromarray(picture(8, 6, 2)).save(folder / "high.png")
    content = {
        "images": [
            {"id": 7, "file_name": "wide.png", "height": 6, "width": 8},
            {"id": 3, "file_name": "high.png", "height": 8, "width": 6},
        ],
        "annotations": [
            box(1, 7, 5, [1, 2, 3, 2]),
            box(2, 3, 2, [0, 0, 6, 8]),
            box(3, 7, 2, [4, 1, 2, 4]),
        ],
        "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps({**content, **changes}))
    return path


def box(id_: int, image_id, category_id: int, bbox: list, **fields) -> dict:
    return {"id": id_, "image_id": image_id, "category_id": category_id, "bbox": bbox, **fields}
