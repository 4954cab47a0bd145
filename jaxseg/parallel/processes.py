"""One command on several hosts: the options with which its processes find each other."""

import argparse
import sys

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


def _waiting(coordinator: str | None, count: int | None, index: int | None) -> str:
    if coordinator is None or count is None or index is None:
        return "looking for the other processes, as the cluster tells"
    if index:
        return f"process {index} of {count}: looking for process 0 at {coordinator}"
    if count == 1:
        return f"process 0 of 1, at {coordinator}: there are no others to wait for"
    missing = "process 1" if count == 2 else f"processes 1 to {count - 1}"
    return f"process 0 of {count}: waiting at {coordinator} for {missing}"


def process_words(args: argparse.Namespace) -> list[str]:
    """The options of `add_process_arguments` as this process was given them."""
    named = {
        "--coordinator": args.coordinator,
        "--num-processes": args.num_processes,
        "--process-id": args.process_id,
    }
    words = ["--distributed"] if args.distributed else []
    return words + [w for name, x in named.items() if x is not None for w in (name, str(x))]


def join_processes(args: argparse.Namespace) -> None:
    """Meet the other processes, if there are any; before anything else asks JAX for devices.

    Raises:
      UserError: some of the options are missing or contradict each other, or nobody was met.
    """
    given = (args.coordinator, args.num_processes, args.process_id)
    if not args.distributed and given == (None, None, None):
        return
    if not args.distributed and None in given:
        raise UserError(
            "several processes need all of --coordinator, --num-processes and --process-id, or "
            "--distributed where the cluster tells them"
        )
    count, index = args.num_processes, args.process_id
    if count is not None and count < 1:
        raise UserError(f"--num-processes must be 1 or more; got {count}")
    if None not in (count, index) and not 0 <= index < count:
        raise UserError(
            f"--process-id must be 0 to {count - 1} for --num-processes {count}; got {index}"
        )
    import jax

    print(_waiting(*given), file=sys.stderr, flush=True)
    try:
        jax.distributed.initialize(*given)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes did not find each other ({str(error).splitlines()[0]}): where no "
            "cluster tells them (TPU pods, Slurm, Open MPI), start each with --coordinator, "
            "--num-processes and --process-id"
        ) from error
