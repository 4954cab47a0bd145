"""Segment everything in images: a JSON file of masks for each, in SA-1B's form, and a picture.

jaxseg masks holiday/ --weights facebook/sam-vit-base --out masks
jaxseg masks a.jpg --weights sam_vit_h_4b8939.pth --preset sa1b
jaxseg masks 'b/*.png' --weights mine --set points_per_side=16 pred_iou_thresh=0.8

An image whose file of masks is there already is left out, so that the same command goes on where
it was stopped. One that cannot be read is named and skipped; the exit status is then 1.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxseg.errors import UserError
from jaxseg.predict.coco_form import check_image_ids, image_id
from jaxseg.predict.inputs import find_images
from jaxseg.predict.outputs import check_folder

if TYPE_CHECKING:
    from jaxseg.predict.automatic import Settings

SETTINGS = "settings.json"  # what the masks in a folder were made with


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders or patterns")
    parser.add_argument(
        "--weights",
        required=True,
        help="folder of weights, official .pth or .safetensors file, or Hugging Face id",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hugging Face id")
    parser.add_argument("--out", type=Path, default=Path("masks"), help="default: %(default)s")
    parser.add_argument(
        "--preset",
        default="release",
        help="release: the whole image at 32 × 32 points; sa1b: crops, too, and the filters that "
        "made SA-1B (default: %(default)s)",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="other settings: points_per_side, points_per_batch, pred_iou_thresh, "
        "stability_score_thresh, stability_score_offset, box_nms_thresh, crop_n_layers, "
        "crop_nms_thresh, crop_overlap_ratio, crop_n_points_downscale_factor, "
        "min_mask_region_area, max_mask_coverage, drop_small_masks",
    )
    parser.add_argument("--no-pictures", action="store_true", help="write the JSON files alone")


def run(args: argparse.Namespace) -> int:
    """Segment as the arguments say; 1 if an image had to be skipped."""
    check_folder("--out", args.out)
    paths = find_images(args.images)
    check_image_ids("masks", paths)
    targets = {path: args.out / f"{path.stem}.json" for path in paths}
    _check_names(targets)
    for path in paths:
        if path.resolve().parent == args.out.resolve():
            raise UserError(
                f"--out {args.out} holds the image {path}, and pictures in it would be taken for "
                "images: choose another folder"
            )
    if not args.no_pictures:
        _check_pictures(targets)

    from jaxseg.predict.automatic import settings

    wanted = settings(args.preset, **_read_settings(args.set), output_mode="coco_rle")
    done = _done(args, _record(args, wanted), targets)
    todo = [path for path in paths if path not in done]
    if done:
        print(f"{len(done)} of {len(paths)} images are done already in {args.out}", file=sys.stderr)
    skipped: list[Path] = []
    count = 0
    if todo:
        for path, found in _segment(args, wanted, {path: targets[path] for path in todo}):
            if found is None:
                skipped.append(path)
            else:
                count += found
    made = len(todo) - len(skipped)
    images = "1 image" if made == 1 else f"{made} images"
    print(f"{images} segmented, {count} masks; a JSON file for each image is in {args.out}")
    if made and not count:
        print(
            "no mask was sure and stable enough: --set pred_iou_thresh=... stability_score_thresh="
            "... with lower values keeps more"
        )
    if skipped:
        print(f"{len(skipped)} skipped: {', '.join(map(str, skipped))}")
    return 1 if skipped else 0


def _check_names(targets: dict[Path, Path]) -> None:
    seen: dict[Path, Path] = {}
    for path, target in targets.items():
        first = seen.setdefault(target, path)
        if first != path or target.name == SETTINGS:
            other = first if first != path else "the file of settings"
            raise UserError(
                f"the masks of {path} would go to {target}, as would {other}: rename the image"
            )


def _read_settings(words: Sequence[str]) -> dict[str, Any]:
    """Values of `--set`, as numbers, true, false or null.

    Raises:
      UserError: a word without "=", or no such value.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        try:
            found[name] = json.loads(value)
        except ValueError:
            equals = ""
        if not equals:
            raise UserError(
                f"a setting is NAME=VALUE with a number, true, false or null; got {word!r}"
            )
        if name == "output_mode":
            raise UserError("output_mode is a setting in Python; these files hold coco_rle")
    return found


def _check_pictures(targets: dict[Path, Path]) -> None:
    """Refuse to overwrite a picture whose masks are not there."""
    for target in targets.values():
        picture = target.with_suffix(".png")
        if os.path.lexists(picture) and not os.path.lexists(target):
            raise UserError(
                f"the picture {picture} would overwrite a file that no run wrote: choose another "
                "folder with --out, or move the file away"
            )


def _done(args: argparse.Namespace, record: dict[str, Any], targets: dict[Path, Path]) -> set[Path]:
    """Images whose masks, and pictures if they are wanted, are there.

    Raises:
      UserError: the folder's masks were made with other weights or settings, or a file is no such
        file.
    """
    there = args.out / SETTINGS
    if there.exists():
        try:
            before = json.loads(there.read_text(encoding="utf-8"))
        except ValueError:
            before = None
        if not isinstance(before, dict) or set(before) != set(record):
            raise UserError(
                f"{there} was not written by such a run: choose another folder with --out"
            )
        if others := [name for name in record if before[name] != record[name]]:
            raise UserError(
                f"the masks in {args.out} were made with other weights or settings ({others[0]} "
                f"was {before[others[0]]!r}): choose another folder with --out, or give the same "
                "ones to go on"
            )
    done = {path for path, target in targets.items() if os.path.lexists(target)}
    for path in done:
        if not there.exists() or not _is_masks(targets[path]):
            raise UserError(
                f"{targets[path]} would be overwritten, and no run wrote it: choose another folder "
                "with --out, or move the file away"
            )
    if args.no_pictures:
        return done
    return {path for path in done if targets[path].with_suffix(".png").exists()}


def _is_masks(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return isinstance(content["annotations"], list)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _record(args: argparse.Namespace, wanted: "Settings") -> dict[str, Any]:
    """What the masks in a folder are made with."""
    from dataclasses import asdict

    local = Path(args.weights)
    weights = str(local.resolve()) if local.exists() else args.weights
    return {"weights": weights, "revision": args.revision, **asdict(wanted)}


def _segment(
    args: argparse.Namespace, wanted: "Settings", targets: dict[Path, Path]
) -> Iterator[tuple[Path, int | None]]:
    """Write the masks of all images; yields how many each has, None where it was skipped."""
    from dataclasses import asdict

    from tqdm import tqdm

    from jaxseg.predict.draw_masks import draw_masks
    from jaxseg.predict.mask_generator import AutomaticMaskGenerator
    from jaxseg.predict.preprocess import load_image
    from jaxseg.predict.result import write_json

    generator = AutomaticMaskGenerator.from_pretrained(
        args.weights, revision=args.revision, **asdict(wanted)
    )
    for path, target in tqdm(targets.items(), unit="image", disable=None):
        try:
            pixels = load_image(path)
            found = generator.find(pixels)
            size = pixels.shape[:2]
            write_json(args.out / SETTINGS, _record(args, wanted))
            # First, so that a picture without masks beside it is never one of these.
            write_json(target, sa1b_form(path, size, [m.record(size, "coco_rle") for m in found]))
            if not args.no_pictures:
                partial = target.with_suffix(".partial.png")
                draw_masks(pixels, [mask.mask(size) for mask in found]).save(partial)
                partial.replace(target.with_suffix(".png"))
            yield path, len(found)
        except (UserError, OSError) as error:
            reason = error if isinstance(error, UserError) else f"cannot write {target}: {error}"
            tqdm.write(f"skipped: {reason}", file=sys.stderr)
            yield path, None


def sa1b_form(path: Path, size: tuple[int, int], records: Sequence[dict]) -> dict[str, Any]:
    """SA-1B's JSON of an image of (h, w)."""
    height, width = size
    image = {
        "image_id": image_id(path),
        "width": width,
        "height": height,
        "file_name": path.name,
    }
    for record in records:
        # No logit above either threshold: JSON has no word for 0 / 0.
        if not math.isfinite(record["stability_score"]):
            record["stability_score"] = None
    return {"image": image, "annotations": [{"id": i, **r} for i, r in enumerate(records)]}
