"""`hbode reproduce`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..experiments import EXPERIMENTS, Experiment, Settings, reproduce
from ..solvers import METHODS
from ..timeseries import DataError
from .arguments import add_training, cores, device, names, positive, positive_int, seed, tolerance, training_settings

REPRODUCE = """\
Repeat a published experiment with all its models: NODE, ANODE, SONODE, HBNODE and GHBNODE in those of Xia et al.,
"Heavy Ball Neural Ordinary Differential Equations" (2021), recurrent cells with and without momentum on sequences,
diffusion and heavy balls on graphs, stiff problems by every solver. A table with errors, costs and seconds beside the
published numbers and beside simple models, figures, and all numbers. Short settings, which take minutes, unless --full
is given; the table says what is short. Trainings that were interrupted go on when the same command is given again.

--data names:
"""

NYSTROM = tuple(name for name, method in METHODS.items() if method.damped)
ALL = tuple(name for name in METHODS if name not in NYSTROM)
"""Methods of damped systems, whose h' is m; those of all systems."""


def add(commands: Any) -> None:
    """Add the parser of the command."""
    data = "\n".join(f"  {name:16s} {one.takes or 'nothing'}" for name, one in EXPERIMENTS.items())
    parser = commands.add_parser(
        "reproduce",
        help="repeat a published experiment",
        description=REPRODUCE + data,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("name", choices=tuple(EXPERIMENTS), metavar="NAME", help=", ".join(EXPERIMENTS))
    add("--data", type=Path, metavar="PATH", help="file or folder of the data")
    add("--full", action="store_true", help="the published length, tolerance and sizes")
    add("--models", type=names, metavar="A,B", help="which models (default: all)")
    add("--seeds", type=positive_int, metavar="N", help="trainings of each model, or timings where none is trained")
    add("--seed", type=seed, default=0, metavar="N", help="the first of the seeds (default: %(default)s)")
    add_training(parser)
    add("--width", type=positive_int, metavar="N", help="units, where all models are made as large as one of them")
    add("--length", type=positive_int, metavar="N", help="samples of a sequence, where they are drawn")
    add("--span", type=positive, metavar="T", help="time over which a layer is solved, where it is to be chosen")
    add("--tol", type=tolerance, metavar="TOL", help="relative and absolute tolerance of the solver")
    add("--method", choices=ALL, metavar="NAME", help="of the solver (default: dopri5, as published)")
    fewer = "untrained, dprkn8 takes less than half the evaluations of dopri5 on plane vibration"
    add("--nystrom", choices=NYSTROM, help=f"method of the damped models alone (HBNODE): {fewer} (default: as for all)")
    add("--compile", action=argparse.BooleanOptionalAction, help="compiled solves (default: with --full, for series)")
    add(
        "--published-code", action="store_true", default=None, help="systems as in the published code, not the formulas"
    )
    add("--device", type=device, default="cpu", help="cpu, cuda, cuda:1 … (default: %(default)s)")
    add(
        "--jobs",
        type=positive_int,
        metavar="N",
        help="trainings at a time (default: one a core; 1 on a GPU, with --devices, or where time is compared)",
    )
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="results folder (default: hbode-NAME); a former result is replaced, any other full folder is refused",
    )
    parser.set_defaults(run=run)


def run(a: argparse.Namespace, started: float) -> None:
    """Run the command; `started` is when, by `time.perf_counter`."""
    experiment = EXPERIMENTS[a.name]
    if a.nystrom is not None and a.published_code:
        raise DataError("--nystrom is for the formulas: no Nyström method takes the h' = σ(-m) of the published code")
    if a.devices > 1 and (a.jobs or 1) > 1:
        raise DataError(f"--jobs must be 1 where {a.devices} devices share each training, got {a.jobs}")
    reproduce(
        experiment,
        _settings(experiment, a),
        a.out or Path(f"hbode-{a.name}"),
        data=a.data,
        models=_chosen(tuple(experiment.looks), a.models),
        seed=a.seed,
        code=bool(a.published_code),
        jobs=a.jobs or (cores() if a.device == "cpu" and a.devices == 1 and experiment.peer is None else 1),
        device=a.device,
        engine=a.engine,
        devices=a.devices,
    )


def _settings(experiment: Experiment, a: argparse.Namespace) -> Settings:
    """Return settings with what was asked for in their place; `DataError` for what has no meaning there."""
    own = experiment.settings["full" if a.full else "short"]
    unsolved = "nothing is solved" if experiment.peer is None else "its models are the methods"
    without = {
        ("epochs", "batch", "learning_rate"): own.training is None and "nothing is trained",
        ("tol", "method", "compile", "nystrom", "published_code"): own.solver is None and unsolved,
        ("width",): not own.width and "its models have sizes of their own",
        ("length",): not own.length and "its sequences are as long as they are",
        ("span",): not own.span and "its layers are solved over the times of the data",
    }
    for options, reason in without.items():
        given = [name for name in options if getattr(a, name) is not None]
        if reason and given:
            raise DataError(f"--{given[0].replace('_', '-')} has no meaning in {a.name}: {reason}")
    solver, training = own.solver, own.training
    if solver is not None:
        solver = replace(
            solver,
            **({} if a.tol is None else {"rtol": a.tol, "atol": a.tol}),
            method=a.method or solver.method,
            compile=solver.compile if a.compile is None else a.compile,
        )
    if training is not None:
        training = training_settings(a, training)
    sizes = {name: getattr(a, name) or getattr(own, name) for name in ("seeds", "width", "length", "span")}
    return replace(own, solver=solver, training=training, nystrom=a.nystrom, **sizes)


def _chosen(known: Sequence[str], asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the models that were asked for, all by default."""
    if asked is None:
        return tuple(known)
    if not asked or set(asked) - set(known):
        raise DataError(f"--models must be some of {', '.join(known)}, got {','.join(asked)!r}")
    return tuple(dict.fromkeys(asked))
