"""The doctor's look at panoptic data: the segments listed, and the PNG files of their ids."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxseg.data.coco_json import owner_of, usable_ids
from jaxseg.data.doctor_annotations import object_findings, stated_size
from jaxseg.data.doctor_images import bar
from jaxseg.data.findings import Finding
from jaxseg.data.images import check_size, read_image
from jaxseg.data.panoptic import VOID, ids_of_colours, is_segment_id, lists_segments
from jaxseg.errors import UserError

Size = tuple[int, int]


def segment_findings(content: Mapping, images: Sequence[Mapping]) -> Iterator[Finding]:
    """Faults of the annotations and of their segments, and images that have none."""
    sizes = {image["id"]: stated_size(image) for image in images}
    categories = usable_ids(content["categories"])
    seen, divided = set(), set()
    for annotation in content["annotations"]:
        image_id = owner_of(annotation)
        where = f"image {annotation.get('image_id')!r}"
        if image_id not in sizes:
            yield Finding("annotation of an unknown image", where, False)
            continue
        if image_id in seen:
            yield Finding("image annotated twice", where, True)
        seen.add(image_id)
        if not lists_segments(annotation):
            detail = f"{where}: it needs a file_name and a list segments_info"
            yield Finding("annotation without segments", detail, True)
            continue
        if annotation["segments_info"]:
            divided.add(image_id)
        yield from _listed_findings(annotation, where, sizes[image_id], categories)
    for image in images:
        name = image.get("file_name", image["id"])
        if image["id"] not in seen:
            yield Finding("image without an annotation", f"{name}: add one, if of nothing", True)
        elif image["id"] not in divided:
            yield Finding("image without segments", f"{name} (learned as empty)", False)


def _listed_findings(
    annotation: Mapping, where: str, size: Size | None, categories: set
) -> Iterator[Finding]:
    seen = set()
    for segment in annotation["segments_info"]:
        id_ = segment.get("id")
        which = f"segment {id_!r} ({where})"
        if not is_segment_id(id_):
            yield Finding("unusable segment id", f"{which}: from 1 to 2**24 - 1", True)
        elif id_ in seen:
            yield Finding("segment listed twice", which, True)
        else:
            seen.add(id_)
        yield from object_findings(segment, which, size, categories)
        if "area" not in segment:
            yield Finding("segment without an area", f"{which} (its pixels are counted)", False)


def png_findings(
    annotations: Sequence[Mapping], sizes: Mapping, root: Path, progress: bool = True
) -> Iterator[Finding]:
    """Faults of the PNG files: missing, damaged, of another size, of other ids than listed.

    Args:
      annotations: that list segments.
      sizes: (h, w) that is stated for each image, or None.
      root: the files' folder.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        looked = pool.map(lambda a: list(_look(a, sizes[a["image_id"]], root)), annotations)
        for found in bar(looked, len(annotations), progress, "PNG files"):
            yield from found


def _look(annotation: Mapping, size: Size | None, root: Path) -> Iterator[Finding]:
    path = root / annotation["file_name"]
    if not path.is_file():
        yield Finding("missing PNG", str(path), True)
        return
    try:
        ids = ids_of_colours(read_image(path))
    except UserError as error:
        yield Finding("unreadable PNG", f"{path}: {error.__cause__}", True)
        return
    try:
        check_size(str(path), ids.shape, size or ids.shape)
    except UserError as error:
        yield Finding("PNG of another size than stated", str(error), True)
    drawn = set(np.unique(ids).tolist()) - {VOID}
    listed = {s["id"] for s in annotation["segments_info"] if is_segment_id(s.get("id"))}
    for id_ in sorted(listed - drawn):
        yield Finding("segment without a pixel", f"{path}: {id_} is listed", True)
    for id_ in sorted(drawn - listed):
        yield Finding("pixels of no listed segment", f"{path}: of the id {id_}", False)
