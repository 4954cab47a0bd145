"""One process of two: evaluates its share of the published example and prints the numbers.

Run as `python -m tests.eval.gather_worker PORT PROCESS`.
"""

import json
import sys

import jax

from jaxseg.eval.coco_ap import coco_table
from jaxseg.eval.gather import gather_records
from tests.eval.example import example, example_batches


def main(port: str, process: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))
    stats = {}
    for iou_type in ("bbox", "segm"):
        truth, _, _ = example(iou_type)
        # Unequal shares that overlap: 0-69 here, 60-99 there, as fill rows would make them.
        share = range(70) if process == "0" else range(60, 100)
        gathered = gather_records(dict(example_batches(iou_type, share)))
        assert list(gathered) == list(range(100))
        records = [record for found in gathered.values() for record in found]
        stats[iou_type] = coco_table(truth, records, iou_type).stats
    print(json.dumps(stats))


if __name__ == "__main__":
    main(*sys.argv[1:])
