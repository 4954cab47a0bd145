"""The doctor's look at the images: the list of them, and every file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from jaxseg.data.coco_json import whole_side
from jaxseg.data.findings import Finding
from jaxseg.data.images import check_size, orientation, read_image
from jaxseg.errors import UserError


def listing_findings(images: Sequence[Mapping]) -> Iterator[Finding]:
    """Faults of the list of images."""
    ids, names = set(), set()
    for position, image in enumerate(images):
        id_, name = image.get("id"), image.get("file_name")
        if not isinstance(id_, int | str):
            yield Finding("image without an id", f"number {position + 1}: {dict(image)}", True)
        elif id_ in ids:
            yield Finding("duplicate image id", f"{id_} ({name})", True)
        else:
            ids.add(id_)
        if not isinstance(name, str):
            yield Finding("image without a file name", f"number {position + 1}, id {id_}", True)
            continue
        if name in names:
            yield Finding("file listed twice", name, False)
        names.add(name)
        sides = (image.get("height"), image.get("width"))
        if any(side is not None and whole_side(side) is None for side in sides):
            yield Finding("bad image size", f"{name}: height and width are {sides}", True)


def image_findings(
    images: Sequence[Mapping], root: Path, progress: bool = True
) -> Iterator[Finding]:
    """Faults of the files: missing, damaged, of another size, turned by EXIF."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        looked = pool.map(lambda image: list(_look(image, root)), images)
        for found in bar(looked, len(images), progress):
            yield from found


def bar(steps: Iterable, total: int, progress: bool, title: str = "images") -> Iterable:
    """A progress bar over files, where a terminal shows it."""
    return tqdm(steps, title, total, leave=False, disable=None if progress else True)


def _look(image: Mapping, root: Path) -> Iterator[Finding]:
    path = root / image["file_name"]
    if not path.is_file():
        yield Finding("missing image", str(path), True)
        return
    try:
        size = read_image(path).shape[:2]
    except UserError as error:
        yield Finding("unreadable image", f"{path}: {error.__cause__}", True)
        return
    stated = (whole_side(image.get("height")), whole_side(image.get("width")))
    if None not in stated:
        try:
            check_size(str(path), size, stated)
        except UserError as error:
            yield Finding("image of another size than stated", str(error), True)
    with Image.open(path) as opened:
        turned = orientation(opened)
    if turned != 1:
        yield Finding(
            "image turned by EXIF",
            f"{path}: orientation {turned}; it is read as stored, as COCO's tools do: see that its "
            "boxes fit that",
            False,
        )
