"""Evaluate weights on a data set: COCO's table and the average precision of each class.

jaxseg eval facebook/detr-resnet-50 coco:/data/coco/val2017
jaxseg eval runs/cells/best cells/instances_val.json --json metrics.json
jaxseg eval facebook/detr-resnet-50-panoptic panoptic:/data/coco/val2017
jaxseg eval IDEA-Research/grounding-dino-tiny lvis/lvis_v1_minival.json
jaxseg eval IDEA-Research/grounding-dino-tiny refcoco:mdetr/finetune_refcoco_val.json
jaxseg eval IDEA-Research/grounding-dino-tiny list:odinw13.json --json odinw13_metrics.json

Of weights with masks the masks are judged too: by COCO's table of masks, or on panoptic ground
truth by panoptic quality.

Weights that read captions are asked for the names of the data set's classes, zero-shot. LVIS is
judged by fixed average precision, referring expressions by the best box of each, and a list of data
sets by the average and median of their average precision; a run that was interrupted goes on with
what `--json` has.

It uses all devices of all its processes; process 0 prints the table and writes the files.
"""

import argparse
from pathlib import Path

from jaxseg.errors import UserError
from jaxseg.eval.requirements import check_installed
from jaxseg.parallel.processes import add_process_arguments, join_processes

LIST = "list:"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "weights", help="folder of weights, official .pth or .safetensors file, or Hugging Face id"
    )
    parser.add_argument(
        "dataset",
        help="as for training, for example a COCO json file; or list:FILE, a JSON list of "
        '{"name": ..., "data": ..., "names": {class: what to ask for}}',
    )
    parser.add_argument("--model", help="builder of an official file (DC5 files look plain)")
    parser.add_argument("--revision", help="branch, tag or commit of a Hugging Face id")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the metrics to FILE")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="write the detections in COCO's form to FILE"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        help="images at once, on all devices together (default: one for each device)",
    )
    parser.add_argument(
        "--canvas",
        choices=("exact", "padded"),
        default="exact",
        help="exact: each image as if alone; padded: padding matters, as in batches of the "
        "originals (default: %(default)s)",
    )
    parser.add_argument(
        "--boxes", action="store_true", help="judge boxes alone, of weights with masks too"
    )
    parser.add_argument(
        "--vocab",
        metavar="FILE",
        help="of weights that read captions: a vocab.txt or tokenizer.json, a folder with one, or "
        "a Hugging Face id (default: the weights' own, or BERT's)",
    )
    parser.add_argument(
        "--names-at-once",
        type=int,
        metavar="N",
        help="ask weights that read captions for N classes at a time (default: as many as a "
        "caption holds; of LVIS 40)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that load images (default: %(default)s)"
    )
    add_process_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate as the arguments say, write the files and print the table."""
    _check(args)
    join_processes(args)
    import jax

    from jaxseg.data import open_dataset
    from jaxseg.eval.list_run import open_list, run_list
    from jaxseg.parallel.mesh import MeshShape
    from jaxseg.predict.result import refuse_not_finite

    mesh = MeshShape().build()
    listed = args.dataset.startswith(LIST)
    opened = open_list(args.dataset.removeprefix(LIST)) if listed else open_dataset(args.dataset)
    prepared = _prepare(args, mesh)
    with refuse_not_finite(args.weights):
        if listed:
            run_list(args, opened, prepared, _plain)
            return 0
        evaluation = prepared.evaluator(opened).evaluate(prepared.weights.params)
    if jax.process_index() == 0:
        _report(args, evaluation)
    return 0


def _prepare(args: argparse.Namespace, mesh):
    """The weights, which every device of the mesh holds, with all that the arguments say."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxseg.checkpoints import from_pretrained
    from jaxseg.eval.prepare import prepare
    from jaxseg.parallel.shard import place

    batch_size = _batch_size(args.batch_size, mesh.devices.size)
    weights = from_pretrained(args.weights, model=args.model, revision=args.revision)
    everywhere = NamedSharding(mesh, PartitionSpec())
    return prepare(
        args.weights,
        weights._replace(params=jax.tree.map(lambda x: place(x, everywhere), weights.params)),
        vocabulary=args.vocab,
        names_at_once=args.names_at_once,
        batch_size=batch_size,
        canvas=args.canvas,
        mesh=mesh,
        limit=args.limit,
        workers=args.workers,
        precision="highest",
        masks=not args.boxes,
    )


def _batch_size(given: int | None, devices: int) -> int:
    if given is not None and given % devices:
        raise UserError(
            f"--batch-size must be a multiple of the {devices} devices; got {given}: leave it "
            f"out, or make it {-(-given // devices) * devices}"
        )
    return given or devices


def _check(args: argparse.Namespace) -> None:
    for name, least in {"batch_size": 1, "limit": 1, "names_at_once": 1, "workers": 0}.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} must be {least} or more; got {value}")
    if args.results and args.dataset.startswith(LIST):
        raise UserError("--results is of one data set; a list's numbers go to --json")
    check_installed()
    # Late: the package of predictors imports JAX, which the help of the command does without.
    from jaxseg.predict.outputs import check_distinct, check_file

    files = {"--json": args.json, "--results": args.results}
    for option, path in files.items():
        check_file(option, path)
    check_distinct(files)


def _report(args: argparse.Namespace, evaluation) -> None:
    from jaxseg.predict.result import write_json

    if args.json:
        given = {name: str(getattr(args, name)) for name in ("weights", "dataset", "canvas")}
        write_json(args.json, given | _plain(evaluation))
    if args.results:
        write_json(args.results, evaluation.records)
    tables = (evaluation.table, evaluation.masks, evaluation.panoptic)
    print("\n\n".join(str(table) for table in tables if table is not None))
    images = "1 image" if evaluation.images == 1 else f"{evaluation.images} images"
    padded = ", padded canvases" if args.canvas == "padded" else ""
    print(f"\n{images}, {evaluation.images_per_second:.2f} images/s{padded}")


def _plain(evaluation) -> dict:
    """Everything as JSON, NaN as null."""

    def finite(values: dict) -> dict:
        return {key: None if value != value else value for key, value in values.items()}

    def plain(table) -> dict:
        per_class = {name: finite(row) for name, row in table.per_class.items()}
        return {"metrics": finite(table.stats), "per_class": per_class}

    more = {"masks": evaluation.masks, "panoptic": evaluation.panoptic}
    return {
        "images": evaluation.images,
        "images_per_second": evaluation.images_per_second,
        **plain(evaluation.table),
        **{name: plain(table) for name, table in more.items() if table is not None},
    }
