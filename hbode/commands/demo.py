"""`hbode demo`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..models import SYSTEMS, SolverSettings
from ..timeseries import DataError, DemoSettings, ForecastSettings, Protocol, TrainSettings, run_demo, run_forecast
from .arguments import cores, delimiter, device, names, positive_int, seed, tolerance

DEMO = """\
Identify a driven structure of three masses and a cubic spring from a record of its force and motion that is made on the
spot, and simulate it for a new force, with bands and beside simpler models; see `hbode fit` for your own. Then the same
by neural ODEs of equal size (NODE, SONODE, HBNODE, GHBNODE) side by side: for each the error, the evaluations of the
field, the seconds of a fitting step, γ, ξ and the stiffness.

With --data, learn the record with these four instead, forecast it, and report the same. The options that only this job
has are marked with *."""

OF_FORECASTS = ("time", "columns", "delimiter", "window", "horizon", "epochs", "rtol", "gradient", "device")
DATA_HELP = (
    "CSV (also .gz), Parquet or .npz file: numeric channels, and optionally a column of times, "
    "or a column Fs with the sampling rate on its first row"
)


def add(commands: Any) -> None:
    """Add the parser of the command."""
    default, solver = DemoSettings(), SolverSettings()
    demo = commands.add_parser(
        "demo",
        help="identify and simulate a structure with four kinds of dynamics, or forecast a record with them",
        description=DEMO,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = demo.add_argument
    add("--data", type=Path, metavar="FILE", help=DATA_HELP)
    add("--time", metavar="COLUMN", help="* the column of the times (default: the one that is called so)")
    add("--columns", type=names, metavar="A,B", help="* the channels (default: all columns but the times)")
    add("--delimiter", type=delimiter, metavar="C", help=r"* what separates the cells of a text file: , ; | or \t")
    add("--window", type=positive_int, metavar="N", help="* samples that are seen (default: 64)")
    add("--horizon", type=positive_int, metavar="N", help="* samples that are forecast then (default: 8)")
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
        help=f"* passes over the training windows (default: {TrainSettings().epochs})",
    )
    add(
        "--rtol",
        type=tolerance,
        metavar="TOL",
        help=f"* relative and absolute tolerance of the solver (default: {solver.rtol:g})",
    )
    add(
        "--gradient",
        choices=("discrete_adjoint", "reversible", "backprop"),
        help=f"* gradient mode (default: {solver.gradient}); backprop evaluates nothing again in the backward pass",
    )
    add(
        "--seed",
        type=seed,
        default=default.seed,
        metavar="N",
        help="of the data, the weights and the batches (default: %(default)s)",
    )
    add("--device", type=device, help="* cpu, cuda, cuda:1 … (default: cpu)")
    add(
        "--jobs",
        type=positive_int,
        metavar="N",
        help="models fitted at the same time, each in a process with one thread (default: one a core; 1 on a GPU)",
    )
    demo.set_defaults(run=run)


def run(arguments: argparse.Namespace, started: float) -> None:
    """Run the command; `started` is when, by `time.perf_counter`."""
    a = arguments
    if a.data is not None:
        run_forecast(_forecast(a), started=started)
        return
    for name in OF_FORECASTS:
        if getattr(a, name) is not None:
            raise DataError(f"--{name} is for the forecast of a record: it needs --data FILE")
    run_demo(DemoSettings(a.models, a.out, a.seed, a.jobs or min(cores(), 4)), started=started)


def _forecast(a: argparse.Namespace) -> ForecastSettings:
    solver, training, protocol, where = SolverSettings(), TrainSettings(), Protocol(), a.device or "cpu"
    rtol, on_cpu = a.rtol or solver.rtol, torch.device(where).type == "cpu"
    return ForecastSettings(
        a.data,
        models=a.models,
        time=a.time,
        columns=a.columns,
        delimiter=a.delimiter,
        out=a.out,
        seed=a.seed,
        device=where,
        jobs=a.jobs or (min(cores(), len(a.models)) if on_cpu else 1),
        protocol=replace(protocol, observed=a.window or protocol.observed, forecast=a.horizon or protocol.forecast),
        solver=replace(solver, rtol=rtol, atol=rtol, gradient=a.gradient or solver.gradient),
        training=replace(training, epochs=a.epochs or training.epochs),
    )


def _models(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"must be names out of {','.join(SYSTEMS)}, got {text!r}")
    return names
