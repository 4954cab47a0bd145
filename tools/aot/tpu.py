"""What the TPU's compiler says of each form of multi-scale deformable attention.

make aot && JAX_PLATFORMS=cpu .venv/aot/bin/python tools/aot/tpu.py [--chips v5e v6e] [--small]

Needs no TPU. Prints, for each chip, form and number of queries, the bytes that the compiled
program accesses and the temporary memory it takes; `docs/kernels.md` holds a run.
"""

import argparse
import os

from attention import DECODER_QUERIES, FIVE, FOUR, report, tokens

TOPOLOGIES = {
    "v4": ("v4:2x2x1", {"chip_config_name": "megacore"}),
    "v5e": ("v5e:2x2", {}),
    "v5p": ("v5p:2x2x1", {}),
    "v6e": ("v6e:2x2", {}),
    "tpu7x": ("tpu7x:2x2x1", {}),
}
FORMS = ("reference", "quad", "chunked", "pallas_tpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--chips", nargs="+", choices=TOPOLOGIES, default=["v5e"])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--five", action="store_true", help="five scales instead of four")
    parser.add_argument("--small", action="store_true", help="a decoder's queries only")
    arguments = parser.parse_args()
    # Several processes may load the compiler, and no metadata server is asked for a TPU.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    from jax.experimental import topologies

    devices = {}
    for chip in arguments.chips:
        name, options = TOPOLOGIES[chip]
        devices[chip] = topologies.get_topology_desc(name, "tpu", **options).devices[0]
    shapes = FIVE if arguments.five else FOUR
    sizes = [(shapes, DECODER_QUERIES)]
    if not arguments.small:
        sizes.append((shapes, tokens(shapes)))
    report(devices, arguments.forms, sizes)


if __name__ == "__main__":
    main()
