"""The doctor's look at the annotation file: categories and objects."""

from collections.abc import Iterator, Mapping, Sequence

from jaxseg.data.coco_json import bbox_problem, is_number, owner_of, usable_ids, whole_side
from jaxseg.data.findings import Finding
from jaxseg.data.segmentation import segmentation_problem

BOXES = "(boxes are trained and judged, masks need it mended)"


def category_findings(categories: Sequence[Mapping]) -> Iterator[Finding]:
    """Faults of the list of categories."""
    if not categories:
        yield Finding("no categories", "the list is empty: there is nothing to detect", True)
    ids, names = set(), set()
    for category in categories:
        id_, name = category.get("id"), category.get("name")
        if not isinstance(id_, int) or isinstance(id_, bool) or id_ < 0:
            yield Finding("category without an id", f"{category}: whole numbers from 0 on", True)
            continue
        if id_ in ids:
            yield Finding("duplicate category id", f"{id_} ({name!r})", True)
        if not isinstance(name, str):
            taken = "is missing" if name is None else f"{name!r} is no text"
            yield Finding("category without a name", f"{id_}: its name {taken}", False)
        elif name in names:
            yield Finding("category name used twice", f"{name!r}", False)
        ids.add(id_)
        names.add(str(name))


def annotation_findings(content: Mapping, images: Sequence[Mapping]) -> Iterator[Finding]:
    """Faults of the objects, and of the images that have none."""
    sizes = {image["id"]: stated_size(image) for image in images}
    categories = usable_ids(content["categories"])
    masks = any(annotation.get("segmentation") for annotation in content["annotations"])
    seen_ids, seen_boxes, annotated = set(), set(), set()
    for position, annotation in enumerate(content["annotations"]):
        id_, image_id = annotation.get("id"), annotation.get("image_id")
        where = f"annotation {id_ if id_ is not None else f'number {position + 1}'}"
        yield from _id_findings(id_, where, seen_ids)
        if owner_of(annotation) not in sizes:
            yield Finding("annotation of an unknown image", f"{where}: image {image_id!r}", False)
            continue
        annotated.add(image_id)
        where += f" (image {image_id})"
        yield from object_findings(annotation, where, sizes[image_id], categories)
        key = (image_id, str(annotation.get("category_id")), str(annotation.get("bbox")))
        if key in seen_boxes:
            yield Finding("the same box twice", f"{where}: bbox {annotation.get('bbox')}", False)
        seen_boxes.add(key)
        if masks and annotation.get("segmentation") is None:
            yield Finding("object without a mask", f"{where}: others have one {BOXES}", False)
    for image in images:
        if image["id"] not in annotated:
            name = image.get("file_name", image["id"])
            yield Finding("image without annotations", f"{name} (learned as empty)", False)


def _id_findings(id_, where: str, seen: set) -> Iterator[Finding]:
    if isinstance(id_, int | str):
        if id_ in seen:
            yield Finding("duplicate annotation id", f"{where} (numbered anew)", False)
        seen.add(id_)
    else:
        yield Finding("annotation without an id", f"{where} (numbered anew)", False)


def object_findings(
    annotation: Mapping, where: str, size: tuple[int, int] | None, categories: set
) -> Iterator[Finding]:
    """Faults of one object: its category, box, area and mask."""
    category = annotation.get("category_id")
    if not isinstance(category, int) or category not in categories:
        yield Finding("unknown category", f"{where}: category {category!r}", True)
    bbox = annotation.get("bbox")
    if problem := bbox_problem(bbox):
        yield Finding("unusable box", f"{where}: {problem}, got {bbox}", True)
    elif size is not None:
        yield from _box_findings(bbox, where, size)
    if "area" in annotation and not is_number(annotation["area"]):
        detail = f"{where}: {annotation['area']!r} (the box's is taken)"
        yield Finding("unusable area", detail, False)
    if size is not None and (
        problem := segmentation_problem(annotation.get("segmentation"), *size)
    ):
        kind = "empty mask" if problem.decodes else "unusable mask"
        detail = f"{where}: {problem.text}" + (f" {BOXES}" if problem.decodes else "")
        yield Finding(kind, detail, not problem.decodes)


def _box_findings(bbox, where: str, size: tuple[int, int]) -> Iterator[Finding]:
    x, y, w, h = bbox
    height, width = size
    stated = f"{where}: bbox {list(bbox)}, image {width} x {height}"
    if w <= 0 or h <= 0:
        yield Finding("empty box", f"{stated} (left out)", False)
    elif x >= width or y >= height or x + w <= 0 or y + h <= 0:
        yield Finding("box outside the image", f"{stated} (left out)", False)
    # A pixel over the edge is common rounding, and is clamped as well.
    elif x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
        yield Finding("box partly outside the image", f"{stated} (clamped)", False)


def stated_size(image: Mapping) -> tuple[int, int] | None:
    """(h, w) of an image's record, if it can be read."""
    height, width = whole_side(image.get("height")), whole_side(image.get("width"))
    return None if height is None or width is None else (height, width)
