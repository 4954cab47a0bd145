"""What XLA says of each form of multi-scale deformable attention on an H100.

python3 -m venv .venv-cuda && .venv-cuda/bin/pip install -e '.[gpu]'
JAX_PLATFORMS=cpu .venv-cuda/bin/python tools/aot/h100.py [--five]

Needs no GPU, but JAX's packages for CUDA (5.5 GB). Prints the temporary memory that each compiled
program takes; of bytes accessed this compiler says nothing. `docs/kernels.md` holds a run.
"""

import argparse

from attention import DECODER_QUERIES, FIVE, FOUR, report, tokens
from jax.experimental import topologies

# The chip as XLA describes it.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
FORMS = ("reference", "quad", "chunked", "ordered", "pallas_gpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--five", action="store_true", help="five scales instead of four")
    arguments = parser.parse_args()
    found = topologies.get_topology_desc(
        platform="cuda", topology="1x1x1", target_config=H100
    ).devices
    shapes = FIVE if arguments.five else FOUR
    sizes = [(shapes, DECODER_QUERIES), (shapes, tokens(shapes))]
    report({"H100": found[0]}, arguments.forms, sizes)


if __name__ == "__main__":
    main()
