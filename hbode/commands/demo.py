"""`hbode demo`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..models import SYSTEMS
from ..timeseries import DemoSettings, run_demo
from .arguments import cores, delimiter, device, names, positive_int, seed, tolerance

DEMO = """\
Identify a driven structure of three masses and a cubic spring from a record of its force and motion that is made on the
spot, and simulate it for a new force, with bands and beside simpler models; see `hbode fit` for your own.

Then learn its accelerations, or only the record of --data, with neural ODEs of equal size (NODE, SONODE, HBNODE,
GHBNODE), forecast them, and report for each the test error, the evaluations of the field, the time per epoch and the
damping γ."""

FEWER_EPOCHS = 6
"""With the identification before it, the demo is to take less than two minutes."""
DATA_HELP = (
    "CSV (also .gz), Parquet or .npz file: numeric channels, and optionally a column of times, "
    "or a column Fs with the sampling rate on its first row"
)


def add(commands: Any) -> None:
    """Add the parser of the command."""
    default = DemoSettings()
    demo = commands.add_parser(
        "demo",
        help="learn and forecast a time series with four kinds of dynamics",
        description=DEMO,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = demo.add_argument
    add("--data", type=Path, metavar="FILE", help=DATA_HELP)
    add("--time", metavar="COLUMN", help="the column of the times (default: the one that is called so)")
    add("--columns", type=names, metavar="A,B", help="the channels (default: all columns but the times)")
    add("--delimiter", type=delimiter, metavar="C", help=r"what separates the cells of a text file: , ; | or \t")
    add("--window", type=positive_int, metavar="N", help="samples that are seen (default: 64, made-up record: 32)")
    add("--horizon", type=positive_int, metavar="N", help="samples that are forecast then (default: 8)")
    add(
        "--out",
        type=Path,
        default=default.out,
        metavar="FOLDER",
        help="results folder (default: %(default)s); a former result is replaced, any other full folder is refused",
    )
    add(
        "--models",
        type=_models,
        default=default.models,
        metavar="A,B",
        help=f"which models (default: {','.join(SYSTEMS)})",
    )
    add(
        "--epochs",
        type=positive_int,
        metavar="N",
        help=f"passes over the training windows (default: {default.training.epochs}, made-up record: {FEWER_EPOCHS})",
    )
    add(
        "--rtol",
        type=tolerance,
        default=default.solver.rtol,
        metavar="TOL",
        help="relative and absolute tolerance of the solver (default: %(default)g)",
    )
    add(
        "--gradient",
        choices=("discrete_adjoint", "reversible", "backprop"),
        default=default.solver.gradient,
        help="gradient mode (default: %(default)s); backprop evaluates nothing again in the backward pass",
    )
    add(
        "--seed",
        type=seed,
        default=default.seed,
        metavar="N",
        help="of the data, the weights and the batches (default: %(default)s)",
    )
    add("--device", type=device, default=default.device, help="cpu, cuda, cuda:1 … (default: %(default)s)")
    add(
        "--jobs",
        type=positive_int,
        metavar="N",
        help="models trained at the same time, each in a process with one thread (default: one a core; 1 on a GPU)",
    )
    demo.set_defaults(run=run)


def run(arguments: argparse.Namespace, started: float) -> None:
    """Run the command; `started` is when, by `time.perf_counter`."""
    run_demo(_settings(arguments), started=started)


def _settings(a: argparse.Namespace) -> DemoSettings:
    default = DemoSettings()
    on_cpu = torch.device(a.device).type == "cpu"
    return replace(
        default,
        models=a.models,
        data=a.data,
        time=a.time,
        columns=a.columns,
        delimiter=a.delimiter,
        window=a.window,
        horizon=a.horizon,
        out=a.out,
        seed=a.seed,
        device=a.device,
        jobs=a.jobs or (min(cores(), len(a.models)) if on_cpu else 1),
        solver=replace(default.solver, rtol=a.rtol, atol=a.rtol, gradient=a.gradient),
        training=replace(default.training, epochs=a.epochs or (default.training.epochs if a.data else FEWER_EPOCHS)),
    )


def _models(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"must be names out of {','.join(SYSTEMS)}, got {text!r}")
    return names
