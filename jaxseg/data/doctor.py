"""Everything that is wrong with a data set, in one report.

A finding is *broken* if training would stop at it or learn from nonsense, and a *note* if the
package copes with it. Unlike opening a data set, which stops at the first error, the examination
goes on to the end.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from jaxseg.data.coco import find_annotations, find_images, refuse_panoptic
from jaxseg.data.coco_json import load_coco, owner_of
from jaxseg.data.dataset import Dataset, open_dataset, parse_spec
from jaxseg.data.doctor_annotations import annotation_findings, category_findings, stated_size
from jaxseg.data.doctor_images import bar, image_findings, listing_findings
from jaxseg.data.doctor_panoptic import png_findings, segment_findings
from jaxseg.data.findings import Finding
from jaxseg.data.odvg_lines import load_lines, read_label_map
from jaxseg.data.panoptic import SCHEME, find_panoptic, find_segments, lists_segments
from jaxseg.errors import UserError


class ClassCount(NamedTuple):
    """How often a class occurs."""

    name: str
    objects: int
    images: int


@dataclass
class Report:
    """What an examination found.

    Attributes:
      name: of the data set.
      images, objects: how many there are; None where nothing could be read.
      classes: counts of each class.
      findings: in the order they were made.
    """

    name: str
    images: int | None = None
    objects: int | None = None
    classes: list[ClassCount] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether training would work."""
        return not any(finding.broken for finding in self.findings)

    def lines(self, examples: int = 5) -> Iterator[str]:
        """The report as text; at most so many examples of each kind of finding."""
        read = self.images is not None
        counts = f"{self.images} images, {self.objects} objects" if read else "cannot be read"
        yield f"{self.name}: {counts}"
        yield from self._class_lines(examples)
        for broken, title in ((True, "Would break training"), (False, "Notes")):
            kinds: dict[str, list[Finding]] = {}
            for finding in self.findings:
                if finding.broken == broken:
                    kinds.setdefault(finding.kind, []).append(finding)
            if kinds:
                yield ""
                yield f"{title}:"
            for kind, some in kinds.items():
                yield f"  {kind}: {len(some)}"
                yield from (f"    {finding.detail}" for finding in some[:examples])
                if len(some) > examples:
                    yield f"    ... and {len(some) - examples} more"
        yield ""
        yield "Nothing would break training." if self.ok else "Mend the above before training."

    def _class_lines(self, examples: int) -> Iterator[str]:
        seen = [count for count in self.classes if count.objects]
        unseen = [count.name for count in self.classes if not count.objects]
        if self.classes:
            yield ""
        if seen:
            width = max(len("class"), *(len(count.name) for count in seen))
            yield f"  {'class':<{width}}  objects  images"
        for count in seen:
            yield f"  {count.name:<{width}}  {count.objects:>7}  {count.images:>6}"
        if unseen:
            names = ", ".join(unseen[:examples]) or "..."
            more = f" and {len(unseen) - examples} more" if len(unseen) > examples > 0 else ""
            yield f"  {len(unseen)} of {len(self.classes)} have no objects here: {names}{more}"


def examine(spec: str, *, progress: bool = True) -> Report:
    """Examine a data set by its name, as `open_dataset` takes it; never raises for its faults."""
    report = Report(spec)
    scheme, location, options = parse_spec(spec)
    with _noting(report):
        if scheme == "coco":
            _examine_coco(report, location, options.get("images"), progress)
        elif scheme == "panoptic":
            _examine_panoptic(report, location, options, progress)
        elif scheme == "odvg":
            _examine_odvg(report, spec, location, options, progress)
        else:
            _examine_opened(report, open_dataset(spec), progress)
    return report


def _examine_coco(report: Report, location: str, folder: str | None, progress: bool) -> None:
    path = find_annotations(location)
    report.name = str(path)
    content = load_coco(path)
    refuse_panoptic(content, path)
    images = _examine_lists(report, content, content["annotations"])
    report.findings += annotation_findings(content, images)
    if named := _named(images):
        root = find_images(path, named, folder)
        report.findings += image_findings(named, root, progress)


def _examine_panoptic(report: Report, location: str, options: Mapping, progress: bool) -> None:
    path = find_panoptic(location)
    report.name = f"{SCHEME}{path}"
    content = load_coco(path)
    listed = [a for a in content["annotations"] if lists_segments(a)]
    segments = [s | {"image_id": a.get("image_id")} for a in listed for s in a["segments_info"]]
    images = _examine_lists(report, content, segments)
    report.findings += segment_findings(content, images)
    if named := _named(images):
        with _noting(report):
            root = find_images(path, named, options.get("images"), SCHEME)
            report.findings += image_findings(named, root, progress)
    sizes = {image["id"]: stated_size(image) for image in images}
    if owned := [a for a in listed if owner_of(a) in sizes]:
        with _noting(report):
            root = find_segments(path, owned, options.get("segments"))
            report.findings += png_findings(owned, sizes, root, progress)


def _examine_odvg(
    report: Report, spec: str, location: str, options: Mapping, progress: bool
) -> None:
    path, labels = Path(location).expanduser(), options.get("label_map")
    _, problems = load_lines(path, labels and read_label_map(Path(labels).expanduser()))
    for number, text in problems:
        report.findings.append(Finding("line that cannot be used", f"line {number}: {text}", True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are in the report
        _examine_opened(report, open_dataset(spec, skip=True), progress)


def _examine_lists(report: Report, content: Mapping, objects: Sequence[Mapping]) -> list[Mapping]:
    """Note the faults of a file's lists, and count; returns the images that have an id."""
    report.images, report.objects = len(content["images"]), len(objects)
    report.findings += category_findings(content["categories"])
    report.findings += listing_findings(content["images"])
    report.classes = _count_classes(content["categories"], objects)
    return [i for i in content["images"] if isinstance(i.get("id"), int | str)]


def _named(images: Sequence[Mapping]) -> list[Mapping]:
    return [image for image in images if isinstance(image.get("file_name"), str)]


@contextmanager
def _noting(report: Report) -> Iterator[None]:
    """Note what cannot be opened."""
    try:
        yield
    except UserError as error:
        report.findings.append(Finding("cannot be opened", str(error), True))


def _examine_opened(report: Report, dataset: Dataset, progress: bool) -> None:
    truth = dataset.coco()
    report.images, report.objects = len(dataset), len(truth["annotations"])
    report.findings += category_findings(truth["categories"])
    report.findings += annotation_findings(truth, truth["images"])
    report.classes = _count_classes(truth["categories"], truth["annotations"])
    for index in bar(range(len(dataset)), len(dataset), progress):
        try:
            dataset[index]
        except UserError as error:
            report.findings.append(Finding("unreadable image", str(error), True))


def _count_classes(
    categories: Iterable[Mapping], annotations: Iterable[Mapping]
) -> list[ClassCount]:
    objects: dict[object, int] = {}
    images: dict[object, set] = {}
    for annotation in annotations:
        id_ = annotation.get("category_id")
        if isinstance(id_, int):
            objects[id_] = objects.get(id_, 0) + 1
            images.setdefault(id_, set()).add(str(annotation.get("image_id")))
    return [
        ClassCount(
            str(category.get("name", category["id"])),
            objects.get(category["id"], 0),
            len(images.get(category["id"], ())),
        )
        for category in categories
        if isinstance(category.get("id"), int)
    ]
