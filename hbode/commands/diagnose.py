"""`hbode diagnose`."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..analysis.diagnosis import MADE_BY, NUMBERS, diagnose
from ..analysis.inputs import Inputs, checked_methods
from ..results_folder import ResultsFolder
from .arguments import device, positive_int, tolerance
from .loading import WRAPPERS, LoadError, load_state, load_system

DIAGNOSE = """\
Say how stiff a system is along a solve, what methods pay for it at which accuracy, and how the same field fares as a
NODE, a SONODE, a heavy ball and a generalised heavy ball. Writes a folder with report.json, report.md and figures.

TARGET names what to look at:
  package.module:name, file.py:name   a system of hbode, a field f(t, h), or a function or class without required
                                      arguments that returns one
  model.pt2                           a field f(t, h) saved by torch.export.save
A TARGET in Python is imported, which runs its code."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}
FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class _Names:
    """Names out of a choice, separated by commas."""

    choice: tuple[str, ...]

    def __call__(self, text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        if not names or any(name not in self.choice for name in names):
            raise argparse.ArgumentTypeError(f"must be names out of {','.join(self.choice)}, got {text!r}")
        return names


def add(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "diagnose",
        help="say how stiff a model is, what it costs, and whether momentum helps",
        description=DIAGNOSE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("target", metavar="TARGET", help="module:name, file.py:name or model.pt2")
    add(
        "--state",
        required=True,
        metavar="STATE",
        help="initial position: a file .npy, .csv, .txt or .pt with one sample a row, the numbers of one sample "
        "1,0.5,…, or a size 64x2 for standard normal numbers (write --state=-1,0.5 where the first is negative)",
    )
    add("--momentum", metavar="STATE", help="initial momentum, of the same shape (default: zero)")
    add("--until", type=_time, default=1.0, metavar="T", help="the solve goes from t = 0 to T (default: %(default)g)")
    add(
        "--times",
        type=positive_int,
        default=33,
        metavar="N",
        help="at how many times stiffness is measured (default: %(default)s)",
    )
    add("--weights", type=Path, metavar="FILE", help="state dict for the model, from torch.save or safetensors")
    add(
        "--system",
        choices=tuple(WRAPPERS),
        default="hbnode",
        help="the system around a bare field f(t, h) (default: %(default)s)",
    )
    add("--methods", metavar="A,B", help="what to profile (default: dopri5, and dprkn6 or tsit5)")
    add(
        "--rtol",
        type=tolerance,
        default=1e-6,
        metavar="TOL",
        help="relative and absolute tolerance of the solve that is looked at (default: %(default)g)",
    )
    add("--unit", default="time units", help="name of the unit of time, for the labels (default: %(default)s)")
    add("--dtype", choices=tuple(DTYPES), help="compute in this precision (default: that of the model)")
    add("--device", type=device, default="cpu", help="cpu, cuda, cuda:1 … (default: %(default)s)")
    add(
        "--formats",
        type=_Names(FORMATS),
        default=("png",),
        metavar="A,B",
        help=f"of the figures, out of {','.join(FORMATS)} (default: png)",
    )
    add(
        "--out",
        type=Path,
        default=Path("hbode-diagnosis"),
        metavar="FOLDER",
        help="report folder (default: %(default)s); a former report is replaced, any other full folder is refused",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, started: float) -> None:
    """Run the command; `started` is when, by `time.perf_counter`."""
    a = arguments
    system = load_system(a.target, a.weights, a.system).to(a.device)
    floating = [x.dtype for x in (*system.parameters(), *system.buffers()) if x.is_floating_point()]
    learned = [x.dtype for x in system.f.parameters()] if isinstance(system.f, torch.nn.Module) else []
    dtype = DTYPES[a.dtype] if a.dtype else (learned[0] if learned else None)
    if dtype is not None and floating:
        system = system.to(dtype)
    h0 = load_state(a.state, dtype).to(a.device)
    m0 = None if a.momentum is None else load_state(a.momentum, h0.dtype).to(a.device)
    t = torch.linspace(0.0, a.until, max(a.times, 2), dtype=torch.float64)
    inputs = Inputs(h0, t, m0)
    with ResultsFolder(a.out, MADE_BY, NUMBERS) as folder:
        try:
            methods = None if a.methods is None else checked_methods(a.methods.split(","), system)
            found = diagnose(system, inputs, methods=methods, tolerance=a.rtol, unit=a.unit)
        except (TypeError, ValueError) as error:  # arguments that do not fit the model
            raise LoadError(f"{a.target}: {error}") from error
        names = found.save(folder, a.formats)
    print(found.summary())
    print(f"\nReport: {a.out}/ ({', '.join(names)}), after {time.perf_counter() - started:.0f} s.")


def _time(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number other than zero, got {text!r}")
    return value
