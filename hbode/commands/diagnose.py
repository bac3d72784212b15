"""`hbode diagnose`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..analysis.inputs import Inputs, checked_methods
from ..analysis.reports.diagnosis import diagnose
from ..analysis.reports.diagnosis_result import MADE_BY, NUMBERS
from ..gradients.captured import reachable
from ..progress.jobs import LOGGER
from ..reporting.results_folder import OutputError, results_in
from ..setup.arguments import as_coefficient
from ..solution import SolverError
from ..solvers import METHODS
from ..systems import FAMILY, System
from .arguments import NOT_ASKED, device, positive_int, tolerance
from .loading import LoadError, described, load_state, load_system

DIAGNOSE = """\
Say how stiff a system is along a solve, what methods pay for it at which accuracy, and how the same field fares as a
NODE, a SONODE, a heavy ball and a generalised heavy ball. Writes a folder with report.json, report.md and figures.

TARGET names what to look at:
  package.module:name, file.py:name   a system of hbode, a field f(t, h), or a function or class without required
                                      arguments that returns one
  model.pt2                           a field f(t, h) saved by torch.export.save; export it with a state h of the shape
                                      of STATE, its batch dynamic, and t a tensor of shape () and the dtype of h
A TARGET in Python is imported, which runs its code. Modules are looked at in evaluation mode."""

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
    add(
        "--no-batch",
        action="store_true",
        help="the rows of the state are one sample together, as they must be where they interact",
    )
    add("--until", type=_time, default=1.0, metavar="T", help="the solve goes from t = 0 to T (default: %(default)g)")
    add(
        "--times",
        type=_times,
        default=33,
        metavar="N",
        help="at how many times, both ends included, stiffness is measured (default: %(default)s)",
    )
    add("--weights", type=Path, metavar="FILE", help="state dict for the model, from torch.save or safetensors")
    add(
        "--system",
        choices=tuple(FAMILY),
        default="hbnode",
        help="the system around a bare field f(t, h), or f(t, h, m) for sonode (default: %(default)s)",
    )
    add(
        "--methods",
        type=_Names(tuple(METHODS)),
        metavar="A,B",
        help="what to profile, such as dopri5,dprkn6,auto (default: dopri5, and dprkn6 or tsit5)",
    )
    add(
        "--repeats",
        type=positive_int,
        default=1,
        metavar="N",
        help="how often each solve of the profile is timed (default: %(default)s)",
    )
    add(
        "--rtol",
        type=tolerance,
        metavar="TOL",
        help="relative and absolute tolerance of the solve that is looked at (default: 1e-6, or 50 eps of the dtype "
        "if that is more: 6e-6 in float32)",
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
    system = load_system(a.target, a.weights, a.system)
    dtype = _placed(system, DTYPES[a.dtype] if a.dtype else None, a.device)
    h0 = load_state(a.state, dtype).to(a.device)
    t = torch.linspace(0.0, a.until, a.times, dtype=torch.float64)
    inputs = Inputs(h0, t, _momentum(a.momentum, h0, system))
    try:
        methods = checked_methods(a.methods, system)
    except ValueError as error:
        raise LoadError(f"--methods: {error}") from None
    _try(system, inputs, a.target)
    with results_in(a.out, MADE_BY, NUMBERS) as folder:
        try:
            found = diagnose(
                system,
                inputs,
                methods=methods,
                tolerance=a.rtol,
                batch=False if a.no_batch else None,
                repeats=a.repeats,
                unit=a.unit,
                say=_say,
            )
            _say("Drawing …")
            names = found.save(folder, a.formats, _asked(a, system))
        except Exception as error:
            raise _reported(error, system, a) from error
    print(found.summary())
    print(f"\nReport: {a.out}/ ({', '.join(names)}), after {time.perf_counter() - started:.0f} s.")


def _say(line: str) -> None:
    if LOGGER.isEnabledFor(logging.INFO):
        print(line, file=sys.stderr, flush=True)


def _asked(a: argparse.Namespace, system: System) -> dict[str, Any]:
    """Return what was asked for, in types of JSON."""
    about = {name: value for name, value in vars(a).items() if name not in NOT_ASKED}
    about["system"] = type(system).__name__  # --system is for bare fields alone
    about["methods"] = None if a.methods is None else ",".join(a.methods)
    return {
        name: value if isinstance(value, bool | int | float) else str(value)
        for name, value in about.items()
        if value is not None and value is not False
    }


def _placed(system: System, dtype: torch.dtype | None, device: str) -> torch.dtype | None:
    """Move a system with all that its field reaches, in evaluation mode; return the dtype of what it has learned.

    γ and ξ, which are float32 by default, do not tell the dtype.
    """
    held = (*system.named_parameters(), *system.named_buffers())
    own = {id(x) for name, x in held if name in ("omega", "chi", "fixed_gamma", "fixed_xi")}
    found = reachable(system)
    tensors = (
        *found.leaves,
        *(x for module in found.modules for _, x in (*module.named_parameters(), *module.named_buffers())),
    )
    learned = next((x.dtype for x in tensors if x.is_floating_point() and id(x) not in own), None)
    dtype = dtype or learned
    for module in found.modules:
        module.to(device, dtype)
        with suppress(NotImplementedError):  # an exported program stays in the mode it was exported in
            module.eval()
    return dtype


def _momentum(text: str | None, h0: Tensor, system: System) -> Tensor | None:
    if text is None:
        return None
    if not system.second_order:
        raise LoadError(f"--momentum {text}: must not be given, a {type(system).__name__} system has no momentum")
    m0 = load_state(text, h0.dtype, "--momentum", seed=1).to(h0.device)
    if m0.shape != h0.shape:
        raise LoadError(f"--momentum {text}: must have the shape of --state, {tuple(h0.shape)}, got {tuple(m0.shape)}")
    return m0


def _try(system: System, inputs: Inputs, target: str) -> None:
    """Evaluate a system once at its start, so that a state or a field that does not fit is found before any work."""
    h0, t, m0, _ = inputs
    y = torch.stack((h0, torch.zeros_like(h0) if m0 is None else m0)) if system.second_order else h0.clone()
    try:
        gamma, xi = (None if c is None else as_coefficient(c, h0).to(h0) for c in system.coefficients())
        with torch.no_grad():
            system.rhs(torch.as_tensor(t)[0].to(h0), y, gamma, xi)
    except Exception as error:
        state = f"{tuple(h0.shape)}, {str(h0.dtype).removeprefix('torch.')}"
        raise LoadError(f"TARGET {target}: at t = 0 and h of shape {state}, it raised {described(error)}") from error


def _reported(error: Exception, system: System, a: argparse.Namespace) -> Exception:
    """Return what to say of an error of a run: a `LoadError` if the arguments are to blame."""
    if _of_field(error, system):
        return RuntimeError(f"TARGET {a.target}: during the run it raised {described(error)}")
    if isinstance(error, OSError):
        return OutputError(f"--out {a.out}: cannot be written ({error.strerror})")
    if isinstance(error, TypeError | ValueError):
        return LoadError(f"TARGET {a.target}: {error}".replace("batch=False", "--no-batch"))
    what = str(error) if isinstance(error, SolverError) else described(error)
    return RuntimeError(f"TARGET {a.target}: {what}")


def _of_field(error: Exception, system: System) -> bool:
    """Tell whether an error was raised inside the field, from the code that was running."""
    f = system.f.forward if isinstance(system.f, torch.nn.Module) else system.f
    own = [getattr(x, "__code__", None) for x in (f, type(f).__call__, type(system).rhs)]
    return any(frame.f_code in own for frame, _ in traceback.walk_tb(error.__traceback__))


def _time(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number other than zero, got {text!r}")
    return value


def _times(text: str) -> int:
    if positive_int(text) < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, the start and the end, got {text!r}")
    return int(text)
