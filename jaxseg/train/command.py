"""Train a model as a config file says.

jaxseg train detr/bccd data.train=cells/train.json data.val=cells/val.json
jaxseg train my_config.py optimizer.learning_rate=2e-4 --workdir runs/cells

CONFIG is a Python file or the name of an installed config; an override changes any of its
settings (--show lists them). The same command resumes an interrupted run. In WORKDIR appear
checkpoints/, metrics.jsonl, tensorboard/, and at the end the weights: last/ and best/.
"""

import argparse
import dataclasses
import shlex
from pathlib import Path

from jaxseg.parallel.processes import add_process_arguments, join_processes, process_words
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
    check_folder("--workdir", _workdir(args))
    join_processes(args)
    return _train(args, experiment)


def _train(args: argparse.Namespace, experiment) -> int:
    import jax

    from jaxseg.train.checkpoint import Checkpoints
    from jaxseg.train.describe import describe
    from jaxseg.train.export import Export
    from jaxseg.train.loop import Trainer
    from jaxseg.train.metrics import MetricsLog
    from jaxseg.train.session import prepare, summary
    from jaxseg.train.workdir import check_workdir, read_record

    main = jax.process_index() == 0
    workdir = _workdir(args)
    record = read_record(workdir) if check_workdir(workdir, args.resume) else None
    session = prepare(experiment, record)
    experiment = session.experiment
    # Now: after hours of training an error would be too late.
    prompts = experiment.data.prompts
    told = (None, None) if prompts is None else (prompts.vocabulary, prompts.length)
    about = (session.classes, experiment.data.image, *told)
    export = Export(*describe(session.model), *about)
    evaluate = session.evaluator()
    if main:
        print(summary(session), flush=True)
    checkpoints = Checkpoints(workdir / "checkpoints", keep_every=experiment.keep_every)
    state, export = _begin(args, session, checkpoints, record, export)
    session = dataclasses.replace(session, initial=None)  # the state has them, and they are large
    metrics = MetricsLog(workdir, int(state.step), enabled=main)
    trainer = Trainer(
        session.step,
        _plan(session),
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
            export.write(outcome.state, workdir / "last")
            best = checkpoints.restore_best(session.abstract_state())
            if best is not None:
                export.write(best, workdir / "best")
    finally:
        metrics.close()
        checkpoints.close()
    if main:
        _say_end(args, outcome, checkpoints, experiment)
        _say_lost(session.loader, experiment)
    # A scheduler's SIGTERM is obeyed, and that is success; a person at a shell has broken off
    # what would come next as well.
    return 130 if outcome.interrupted == "SIGINT" else 0


def _workdir(args: argparse.Namespace) -> Path:
    from jaxseg.train.workdir import default_workdir

    return args.workdir or default_workdir(args.config)


def _plan(session):
    from jaxseg.train.loop import Plan

    experiment, epoch = session.experiment, session.loader.steps_per_epoch
    return Plan(
        num_steps=session.num_steps,
        batch_size=experiment.data.batch_size,
        evaluate_every=experiment.evaluate_every or epoch,
        checkpoint_every=experiment.checkpoint_every or epoch,
        log_every=experiment.log_every,
        metric=experiment.metric,
    )


def _begin(args: argparse.Namespace, session, checkpoints, record, export):
    """The state to train on, and what is written beside its weights at the end.

    A finished run keeps what it was trained with, whatever is set now.
    """
    import jax

    from jaxseg.train.begin import first_state, saved_state
    from jaxseg.train.workdir import write_record

    workdir = _workdir(args)
    state = None if record is None else saved_state(session, checkpoints, record, workdir)
    if state is not None and int(state.step) == session.num_steps:
        return state, record.export or export
    if jax.process_index() == 0:
        about = (session.given, export, session.init)
        write_record(workdir, args.config, args.overrides, *about)
    return (first_state(session) if state is None else state), export


def _say_end(args: argparse.Namespace, outcome, checkpoints, experiment) -> None:
    step, workdir = int(outcome.state.step), _workdir(args)
    if outcome.interrupted is not None:
        print(f"stopped by {outcome.interrupted}; step {step} is saved in {workdir}. {_next(args)}")
        return
    print(f"weights after {step} steps: {workdir / 'last'}")
    weights = workdir / "last"
    if checkpoints.best_step is not None:
        weights = workdir / "best"
        print(f"best {experiment.metric}, at step {checkpoints.best_step}: {weights}")
    told = "" if experiment.data.prompts is None else " --text 'WORDS. WORDS.'"
    print(f"try them:  {program()} predict IMAGES --weights {shlex.quote(str(weights))}{told}")


def _next(args: argparse.Namespace) -> str:
    """How to go on with a run that was stopped."""
    processes, everywhere = process_words(args), ""
    if processes:
        own = " with its own --process-id" if args.process_id is not None else ""
        everywhere = f", in every process{own}"
    words = ["train", args.config, *args.overrides, "--workdir", str(_workdir(args)), *processes]
    return f"Go on with{everywhere}:\n  {program()} {shlex.join(words)}"


def _say_lost(loader, experiment) -> None:
    if skipped := loader.skipped:
        print(f"{len(skipped)} times an image could not be read and another took its place")
    if unnamed := loader.unnamed:
        print(
            f"{unnamed} times an object was no target, for its name did not fit in the caption of "
            f"data.prompts.length={experiment.data.prompts.length} tokens"
        )
    if dropped := loader.dropped:
        print(
            f"{dropped} times an object was no target, for its image had more than "
            f"data.max_targets={experiment.data.max_targets}: raise it if that is often"
        )
