"""A small model that is told what to find, as weights for the command; and images for it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from jaxseg import cli
from jaxseg.params import abstract_inputs
from jaxseg.pretrained import ImageConfig, Pretrained
from tests.train.told import Told
from tests.vocabulary import FOLDER, package_file
from tests.weights import draw

IMAGE = ImageConfig(short_side=32, long_side=32)


def weights(vocabulary: bool = True) -> Pretrained:
    """`Told` with random weights, and its vocabulary or none."""
    model = Told()
    file = package_file(f"{FOLDER}/vocab.txt") if vocabulary else None
    params = draw(model, *abstract_inputs(model))
    return Pretrained(model, params, None, IMAGE, "told", {}, vocabulary=file)


def evaluate(monkeypatch, *words, vocabulary: bool = True) -> int:
    """`jaxseg eval told ...`."""
    found = weights(vocabulary)
    monkeypatch.setattr("jaxseg.checkpoints.from_pretrained", lambda name, **options: found)
    return cli.main(["eval", "told", *map(str, words)])


def save_images(folder: Path, count: int) -> list[dict]:
    """Images of 32 by 32 pixels, and their records."""
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(1, count + 1):
        pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        records.append({"id": number, "file_name": f"{number}.png", "height": 32, "width": 32})
    return records


def save_coco(path: Path, names: list[str], count: int = 2, objects: bool = True) -> Path:
    """A COCO file of `count` images with an object of each class, or without any."""
    images = save_images(path.parent, count)
    categories = [{"id": 10 * (i + 1), "name": name} for i, name in enumerate(names)]
    annotations = [
        {"id": len(categories) * image["id"] + i, "image_id": image["id"],
         "category_id": category["id"], "bbox": [2, 2, 28, 28], "area": 784, "iscrowd": 0}
        for image in images for i, category in enumerate(categories)
    ]  # fmt: skip
    content = {
        "images": images,
        "annotations": annotations if objects else [],
        "categories": categories,
    }
    path.write_text(json.dumps(content))
    return path
