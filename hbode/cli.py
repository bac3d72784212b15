"""The `hbode` command."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch

from .models import SYSTEMS
from .timeseries import DataError, DemoSettings, OutputError, run_demo

DEMO = """\
Learn a physical time series with neural ODEs of equal size (NODE, SONODE, HBNODE, GHBNODE), forecast it, and report
for each the test error, the evaluations of the field, the time per epoch and the damping γ it learned.

Without --data, the record of a driven structure of three masses and a cubic spring is made on the spot."""

DATA_HELP = (
    "CSV file with a header: numeric channels, and optionally a column t or time, "
    "or a column Fs with the sampling rate on its first row"
)


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0, 1 for a failed run, 2 for bad input, 130 for an interrupt."""
    started = time.perf_counter()
    arguments = _parser().parse_args(argv)
    try:
        run_demo(_demo_settings(arguments), started=started)
    except (DataError, OutputError) as error:
        return _complain(error, 2)
    except KeyboardInterrupt:
        return _complain("interrupted; nothing was written", 130)
    except RuntimeError as error:
        return _complain(error, 1)
    return 0


def _complain(error: Exception | str, code: int) -> int:
    print("hbode demo: error: " + " ".join(str(error).split()), file=sys.stderr)
    return code


def _demo_settings(a: argparse.Namespace) -> DemoSettings:
    default = DemoSettings()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    on_cpu = torch.device(a.device).type == "cpu"
    return replace(
        default,
        models=a.models,
        data=a.data,
        out=a.out,
        seed=a.seed,
        device=a.device,
        jobs=a.jobs or (min(cores, len(a.models)) if on_cpu else 1),
        solver=replace(default.solver, rtol=a.rtol, atol=a.rtol, gradient=a.gradient),
        training=replace(default.training, epochs=a.epochs),
    )


def _parser() -> argparse.ArgumentParser:
    default = DemoSettings()
    parser = _Parser(prog="hbode", description="Neural ODEs with heavy-ball (momentum) dynamics.")
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=_Parser)
    demo = commands.add_parser(
        "demo",
        help="learn and forecast a time series with four kinds of dynamics",
        description=DEMO,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = demo.add_argument
    add("--data", type=Path, metavar="CSV", help=DATA_HELP)
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
        type=_positive_int,
        default=default.training.epochs,
        metavar="N",
        help="passes over the training windows (default: %(default)s)",
    )
    add(
        "--rtol",
        type=_tolerance,
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
        type=_seed,
        default=default.seed,
        metavar="N",
        help="of the data, the weights and the batches (default: %(default)s)",
    )
    add("--device", type=_device, default=default.device, help="cpu, cuda, cuda:1 … (default: %(default)s)")
    add(
        "--jobs",
        type=_positive_int,
        metavar="N",
        help="models trained at the same time, each in a process with one thread (default: one a core; 1 on a GPU)",
    )
    return parser


def _models(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"must be names out of {','.join(SYSTEMS)}, got {text!r}")
    return names


def _positive_int(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 4294967295, got {text!r}")
    return int(text)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, got {text!r}")
    return value


def _device(text: str) -> str:
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {reason}") from None
    return text
