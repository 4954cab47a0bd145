"""Train a model as a config file says.

jaxseg train detr/bccd data.train=cells/train.json data.val=cells/val.json
jaxseg train my_config.py optimizer.learning_rate=2e-4 --workdir runs/cells

CONFIG is a Python file or the name of an installed config; an override changes any of its
settings (--show lists them). The same command resumes an interrupted run. In WORKDIR appear
checkpoints/, metrics.jsonl, tensorboard/, and at the end the weights: last/ and best/.
"""

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import Any

from jaxseg.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("config", metavar="CONFIG", help="a .py file or a name, as detr/r50_coco")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="as epochs=50")
    parser.add_argument("--workdir", type=Path, help="of the run (default: runs/CONFIG)")
    parser.add_argument(
        "--resume",
        choices=("auto", "never", "must"),
        default="auto",
        help="go on from the newest checkpoint in WORKDIR: if there is one, never (it is an "
        "error to have one), or always (it is an error to have none) (default: %(default)s)",
    )
    parser.add_argument("--show", action="store_true", help="print all settings and stop")
    several = parser.add_argument_group("several processes (start the same command in each)")
    several.add_argument(
        "--distributed", action="store_true", help="find the others by itself: TPU pods, Slurm"
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    several.add_argument("--num-processes", type=int, metavar="N")
    several.add_argument("--process-id", type=int, metavar="I", help="0 to N - 1")


def run(args: argparse.Namespace) -> int:
    """Train; 0 when the run has ended or was stopped by a signal after saving."""
    from jaxseg.train.configs import load_config
    from jaxseg.train.overrides import apply_overrides, settings

    experiment = apply_overrides(load_config(args.config), args.overrides)
    if args.show:
        for name, value in settings(experiment).items():
            print(f"{name} = {_text(value)}")
        return 0
    _join_processes(args)
    return _train(args, experiment)


def _join_processes(args: argparse.Namespace) -> None:
    given = (args.coordinator, args.num_processes, args.process_id)
    if not args.distributed and given == (None, None, None):
        return
    if not args.distributed and None in given:
        raise UserError(
            "several processes need all of --coordinator, --num-processes and --process-id, or "
            "--distributed where the cluster tells them"
        )
    import jax

    jax.distributed.initialize(*given)


def _train(args: argparse.Namespace, experiment) -> int:
    import jax

    from jaxseg.train.checkpoint import Checkpoints
    from jaxseg.train.describe import describe
    from jaxseg.train.loop import Plan, Trainer
    from jaxseg.train.metrics import MetricsLog
    from jaxseg.train.session import prepare, summary

    main = jax.process_index() == 0
    session = prepare(experiment)
    experiment, classes = session.experiment, session.classes
    builder = describe(session.model)  # now: after hours of training it would be too late
    workdir = args.workdir or Path("runs") / Path(args.config).with_suffix("")
    _check_workdir(workdir, args.resume)
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
        evaluate=session.evaluator(),
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
    return 0


def _check_workdir(workdir: Path, resume: str) -> None:
    latest = workdir / "checkpoints" / "latest"
    has_some = latest.is_dir() and any(entry.name.isdigit() for entry in latest.iterdir())
    if resume == "never" and has_some:
        raise UserError(
            f"{workdir} holds a run already: choose another --workdir, or --resume auto to go on"
        )
    if resume == "must" and not has_some:
        raise UserError(f"{workdir} holds no checkpoint to resume from: check --workdir")
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"{workdir} is a file: choose another --workdir")


def _initial_state(args: argparse.Namespace, session, checkpoints, workdir: Path, main: bool):
    state = checkpoints.restore(session.abstract_state())
    if state is None:
        if main:
            _write_settings(args, session, workdir)
        return session.create_state()
    step = int(state.step)
    if step > session.num_steps:
        raise UserError(
            f"the checkpoint in {workdir} is of step {step}, and the run shall have "
            f"{session.num_steps}: raise epochs or steps, or choose another --workdir"
        )
    if main:
        print(f"resuming at step {step} of {session.num_steps} from {workdir}")
        for line in _changed_settings(session, workdir):
            print(f"  changed since: {line}")
        _write_settings(args, session, workdir)
    return state


def _write_settings(args: argparse.Namespace, session, workdir: Path) -> None:
    from jaxseg.train.overrides import settings

    record = {
        "config": args.config,
        "overrides": args.overrides,
        "settings": {name: _text(v) for name, v in settings(session.experiment).items()},
    }
    workdir.mkdir(parents=True, exist_ok=True)
    partial = workdir / "experiment.json.partial"
    partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, workdir / "experiment.json")


def _changed_settings(session, workdir: Path) -> list[str]:
    from jaxseg.train.overrides import settings

    try:
        old = json.loads((workdir / "experiment.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError):
        return ["(the run's experiment.json cannot be read)"]
    new = {name: _text(value) for name, value in settings(session.experiment).items()}
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [f"{name}: {old.get(name)} → {new.get(name)}" for name in names]


def _text(value: Any) -> str:
    # A function's repr holds its address, which differs from run to run.
    return getattr(value, "__name__", None) or repr(value)


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
    print(f"try them:  jaxseg predict IMAGES --weights {weights}")
