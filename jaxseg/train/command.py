"""Train a model as a config file says.

jaxseg train detr/bccd data.train=cells/train.json data.val=cells/val.json
jaxseg train my_config.py optimizer.learning_rate=2e-4 --workdir runs/cells

CONFIG is a Python file or the name of an installed config; an override changes any of its
settings (--show lists them). The same command resumes an interrupted run. In WORKDIR appear
checkpoints/, metrics.jsonl, tensorboard/, and at the end the weights: last/ and best/.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

from jaxseg.errors import UserError
from jaxseg.parallel.processes import add_process_arguments, join_processes
from jaxseg.program import program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("config", metavar="CONFIG", help="a .py file or a name, as detr/r50_coco")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="NAME=VALUE", help="as epochs=50"
    )
    parser.add_argument(
        "--workdir", type=Path, help="of the run (default: runs/CONFIG; of a file its name)"
    )
    parser.add_argument(
        "--resume",
        choices=("auto", "never", "must"),
        default="auto",
        help="go on from the newest checkpoint in WORKDIR: if there is one, never (it is an "
        "error to have one), or always (it is an error to have none) (default: %(default)s)",
    )
    parser.add_argument("--show", action="store_true", help="print all settings and stop")
    add_process_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train; 0 when the run has ended, or after saving on SIGTERM, and 130 after Ctrl-C."""
    from jaxseg.predict.outputs import check_folder
    from jaxseg.train.configs import load_config
    from jaxseg.train.overrides import apply_overrides, settings
    from jaxseg.train.workdir import text_of

    experiment = apply_overrides(load_config(args.config), args.overrides)
    if args.show:
        for name, value in settings(experiment).items():
            print(f"{name} = {text_of(value)}")
        return 0
    if args.workdir:
        check_folder("--workdir", args.workdir)
    join_processes(args)
    return _train(args, experiment)


def _train(args: argparse.Namespace, experiment) -> int:
    import jax

    from jaxseg.train.checkpoint import Checkpoints
    from jaxseg.train.describe import describe
    from jaxseg.train.loop import Plan, Trainer
    from jaxseg.train.metrics import MetricsLog
    from jaxseg.train.session import prepare, summary
    from jaxseg.train.workdir import check_workdir, default_workdir

    main = jax.process_index() == 0
    session = prepare(experiment)
    experiment, classes = session.experiment, session.classes
    builder = describe(session.model)  # now: after hours of training it would be too late
    evaluate = session.evaluator()
    workdir = args.workdir or default_workdir(args.config)
    check_workdir(workdir, args.resume)
    if main:
        print(summary(session), flush=True)
    checkpoints = Checkpoints(workdir / "checkpoints", keep_every=experiment.keep_every)
    state = _initial_state(args, session, checkpoints, workdir, main)
    metrics = MetricsLog(workdir, int(state.step), enabled=main)
    epoch = session.loader.steps_per_epoch
    plan = Plan(
        num_steps=session.num_steps,
        batch_size=experiment.data.batch_size,
        evaluate_every=experiment.evaluate_every or epoch,
        checkpoint_every=experiment.checkpoint_every or epoch,
        log_every=experiment.log_every,
        metric=experiment.metric,
    )
    trainer = Trainer(
        session.step,
        plan,
        session.mesh,
        checkpoints,
        metrics,
        trainable=session.trainable,
        image_ids=session.train_set.image_ids,
        learning_rate=session.learning_rate,
        evaluate=evaluate,
    )
    try:
        outcome = trainer.run(state, session.loader)
        if outcome.interrupted is None:
            image = experiment.data.image
            _export(outcome.state, workdir / "last", builder, classes, image)
            best = checkpoints.restore_best(session.abstract_state())
            if best is not None:
                _export(best, workdir / "best", builder, classes, image)
    finally:
        metrics.close()
        checkpoints.close()
    if main:
        _say_end(args, outcome, checkpoints, workdir, experiment)
        if skipped := session.loader.skipped:
            print(f"{len(skipped)} times an image could not be read and another took its place")
        if dropped := session.loader.dropped:
            print(
                f"{dropped} times an object was no target, for its image had more than "
                f"data.max_targets={experiment.data.max_targets}: raise it if that is often"
            )
    # A scheduler's SIGTERM is obeyed, and that is success; a person at a shell has broken off
    # what would come next as well.
    return 130 if outcome.interrupted == "SIGINT" else 0


def _initial_state(args: argparse.Namespace, session, checkpoints, workdir: Path, main: bool):
    from jaxseg.train.workdir import changed_settings, write_settings

    settings = (workdir, args.config, args.overrides, session.experiment)
    state = checkpoints.restore(session.abstract_state())
    if state is None:
        if main:
            write_settings(*settings)
        return _first_state(session, main)
    step = int(state.step)
    if step > session.num_steps:
        raise UserError(
            f"the checkpoint in {workdir} is of step {step}, and the run shall have "
            f"{session.num_steps}: raise epochs or steps, or choose another --workdir"
        )
    seed = session.experiment.seed
    if int(state.seed) != seed:
        raise UserError(
            f"the run in {workdir} has the seed {int(state.seed)}, which its data and its dropout "
            f"go on with; got seed={seed}: set seed={int(state.seed)}, or choose another --workdir"
        )
    if main:
        _say_resumed(
            step, session.num_steps, workdir, changed_settings(workdir, session.experiment)
        )
        if step < session.num_steps:
            write_settings(*settings)
    return state


def _say_resumed(step: int, num_steps: int, workdir: Path, changes: list[str]) -> None:
    if step < num_steps:
        print(f"resuming at step {step} of {num_steps} from {workdir}")
        for line in changes:
            print(f"  changed since: {line}")
        return
    print(f"the run in {workdir} is finished at step {step}: nothing is trained")
    for line in changes:
        print(f"  has no effect: {line}")
    if changes:
        print("  raise steps or epochs, or choose another --workdir")


def _first_state(session, main: bool):
    """The state before the first step, with what there is to say about it."""
    import jax

    def say(*lines: str) -> None:
        if main:
            print(*lines, sep="\n", file=sys.stderr, flush=True)

    say(*session.notes, "making the parameters")
    started = time.monotonic()
    state = jax.block_until_ready(session.create_state())
    say(f"made in {time.monotonic() - started:.0f} s")
    return state


def _export(state, directory: Path, builder: tuple[str, dict], classes, image) -> None:
    """Write the averaged weights as a folder that `from_pretrained` reads."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    from jaxseg.checkpoints import save_pretrained

    def on_host(x):
        if x.is_fully_addressable:
            return np.asarray(x)
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    params = jax.tree.map(on_host, state.averaged())
    if jax.process_index() == 0:
        name, kwargs = builder
        save_pretrained(directory, name, kwargs, params, classes=classes, image=image)


def _say_end(args: argparse.Namespace, outcome, checkpoints, workdir: Path, experiment) -> None:
    step = int(outcome.state.step)
    if outcome.interrupted is not None:
        words = ["jaxseg", "train", args.config, *args.overrides, "--workdir", str(workdir)]
        print(
            f"stopped by {outcome.interrupted}; step {step} is saved in {workdir}. Go on with:\n"
            f"  {shlex.join(words)}"
        )
        return
    print(f"weights after {step} steps: {workdir / 'last'}")
    weights = workdir / "last"
    if checkpoints.best_step is not None:
        weights = workdir / "best"
        print(f"best {experiment.metric}, at step {checkpoints.best_step}: {weights}")
    print(f"try them:  {program()} predict IMAGES --weights {shlex.quote(str(weights))}")
