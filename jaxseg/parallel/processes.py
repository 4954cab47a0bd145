"""One command on several hosts: the options with which its processes find each other."""

import argparse

from jaxseg.errors import UserError


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that `join_processes` reads."""
    several = parser.add_argument_group("several processes (start the same command in each)")
    several.add_argument(
        "--distributed", action="store_true", help="find the others by itself: TPU pods, Slurm"
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    several.add_argument("--num-processes", type=int, metavar="N")
    several.add_argument("--process-id", type=int, metavar="I", help="0 to N - 1")


def join_processes(args: argparse.Namespace) -> None:
    """Meet the other processes, if there are any; before anything else asks JAX for devices.

    Raises:
      UserError: some of the options are missing, or they contradict each other.
    """
    given = (args.coordinator, args.num_processes, args.process_id)
    if not args.distributed and given == (None, None, None):
        return
    if not args.distributed and None in given:
        raise UserError(
            "several processes need all of --coordinator, --num-processes and --process-id, or "
            "--distributed where the cluster tells them"
        )
    if None not in given and not 0 <= args.process_id < args.num_processes:
        raise UserError(
            f"--process-id must lie in 0 to {args.num_processes - 1}, as --num-processes is "
            f"{args.num_processes}; got {args.process_id}"
        )
    import jax

    jax.distributed.initialize(*given)
