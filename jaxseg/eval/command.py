"""Evaluate weights on a data set: COCO's table and the average precision of each class.

jaxseg eval facebook/detr-resnet-50 coco:/data/coco/val2017
jaxseg eval runs/cells/best cells/instances_val.json --json metrics.json
"""

import argparse
from pathlib import Path

from jaxseg.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("weights", help="folder of weights, or a Hugging Face id")
    parser.add_argument("dataset", help="as for training, for example a COCO json file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the metrics to FILE")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="write the detections in COCO's form to FILE"
    )
    parser.add_argument(
        "--batch-size", type=int, default=1, help="images at once (default: %(default)s)"
    )
    parser.add_argument(
        "--canvas",
        choices=("exact", "padded"),
        default="exact",
        help="exact: each image as if alone; padded: padding matters, as in batches of the "
        "originals (default: %(default)s)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that load images (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate as the arguments say, print the table and write the files."""
    _check(args)
    import jax

    from jaxseg.checkpoints import from_pretrained
    from jaxseg.data import open_dataset
    from jaxseg.eval.build import make_evaluator
    from jaxseg.eval.categories import match_categories

    dataset = open_dataset(args.dataset)
    weights = from_pretrained(args.weights)
    annotated = {annotation["category_id"] for annotation in dataset.coco()["annotations"]}
    evaluator = make_evaluator(
        weights.model,
        dataset,
        image=weights.image,
        category_ids=match_categories(
            weights.classes, weights.model.num_classes, dataset.classes, annotated
        ),
        batch_size=args.batch_size,
        canvas=args.canvas,
        limit=args.limit,
        workers=args.workers,
        precision="highest",
    )
    evaluation = evaluator.evaluate(jax.device_put(weights.params))
    if jax.process_index() == 0:
        _report(args, evaluation)
    return 0


def _check(args: argparse.Namespace) -> None:
    for name in ("batch_size", "limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be 1 or more; got {value}")
    for path in (args.json, args.results):
        if path is not None and path.is_dir():
            raise UserError(f"{path} is a folder: name a file to write to")


def _report(args: argparse.Namespace, evaluation) -> None:
    from jaxseg.predict.result import write_json

    print(evaluation.table)
    images = "1 image" if evaluation.images == 1 else f"{evaluation.images} images"
    padded = ", padded canvases" if args.canvas == "padded" else ""
    print(f"\n{images}, {evaluation.images_per_second:.2f} images/s{padded}")
    if args.json:
        _make_room(args.json)
        write_json(args.json, _plain(args, evaluation))
    if args.results:
        _make_room(args.results)
        write_json(args.results, evaluation.records)


def _make_room(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)


def _plain(args: argparse.Namespace, evaluation) -> dict:
    """Everything as JSON, NaN as null."""
    table = evaluation.table

    def finite(values: dict) -> dict:
        return {key: None if value != value else value for key, value in values.items()}

    return {
        "weights": str(args.weights),
        "dataset": str(args.dataset),
        "canvas": args.canvas,
        "images": evaluation.images,
        "images_per_second": evaluation.images_per_second,
        "metrics": finite(table.stats),
        "per_class": {name: finite(row) for name, row in table.per_class.items()},
    }
