"""What solves and their gradients cost, over methods and tolerances."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...gradients import Gradient
from ...gradients.captured import reachable
from ...setup.arguments import as_system
from ...setup.options import gradient_mode
from ...solution import Solution, SolverError, Stats, of_batch
from ...solvers import METHODS
from ...systems import System
from ..inputs import (
    Inputs,
    Loss,
    Reference,
    checked_methods,
    checked_tolerances,
    divided_options,
    inputs_of,
    solve,
    solved_reference,
    sum_of_squares,
    terminal_loss,
)
from .measuring import now, peak_memory, untouched
from .result import Profile, in_words
from .run import Run

EVERY = 5.0
"""Seconds between the lines that say how far a profile is."""
MEMORY_EVALUATIONS = 5000
"""Evaluations, forward and backward, up to which a run's memory is measured on a CPU: the record of it grows."""


@torch.inference_mode(False)
@torch.enable_grad()
def profile(
    system: System | Callable[..., Tensor],
    inputs: Inputs | tuple[Any, ...],
    *,
    methods: Sequence[str] | None = None,
    tolerances: Sequence[float] = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7),
    gradient: str | Gradient = "discrete_adjoint",
    loss: Loss | None = None,
    repeats: int = 3,
    reference: str | Solution | None = None,
    memory: bool = True,
    options: Mapping[str, Any] | None = None,
    unit: str = "time units",
    say: Callable[[str], None] | None = None,
) -> Profile:
    """Solve forward and backward by several methods at several tolerances, and measure what that takes.

    Each run is made once to warm up, which gives its counts and its error; then `repeats` times by the clock, all
    methods in turn; then once for its memory. Gradients go to copies of the inputs and to the parameters of the
    system, all of which stay as they are, as do ``.grad``, buffers and the state of random numbers.

    Parameters
    ----------
    system
        A system of `hbode.systems`, or a field ``f(t, h, *args)``: the force of a heavy ball.
    inputs
        `Inputs`, or a tuple ``(h0, t)`` or ``(h0, t, m0)``; t of shape (T,).
    methods
        Names in `hbode.METHODS`. Default: dopri5 and dprkn6 for a damped system with h' = m, dopri5 and tsit5
        elsewhere. A method without an error estimate knows no tolerance and is run once.
    tolerances
        Values of rtol = atol.
    gradient
        As for `hbodeint`.
    loss
        ``loss(h_T, m_T)`` returns one real number that the gradient is taken of; m_T is zero for a first-order system.
        Default: the sum of |h_T|². Its own time counts as backward.
    repeats
        Of the timing.
    reference
        What errors are measured against: a method, a `Solution` at the same times, or None for dprkn8 if the system
        is damped with h' = m, dopri8 elsewhere. A method is run at a thousandth of the smallest tolerance, at least
        50 eps of the dtype, and once more at ten times that: where errors are below the difference, a note says so.
    memory
        Whether to measure memory too; on a CPU, of runs of up to 5000 evaluations.
    options
        As for `hbodeint`. Each is given to the methods that know it; step_size and grid_constructor to those without
        an error estimate only.
    unit
        Of time, for the labels.
    say
        Called with a line of text on how far it is, every few seconds.

    Returns
    -------
    Profile
        One `Run` for each method and tolerance, also for a solve that failed.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.

    Examples
    --------
    >>> import torch
    >>> from hbode.analysis import profile
    >>> inputs = torch.ones(2, 1, dtype=torch.float64), [0.0, 1.0]
    >>> found = profile(lambda t, h: -h, inputs, methods=("dprkn6", "dopri5"), tolerances=(1e-3,), repeats=1)
    >>> [run.method for run in found.runs]
    ['dprkn6', 'dopri5']
    """
    if not callable(system):
        raise TypeError(f"system must be a system or callable as f(t, h), got {type(system).__name__}")
    system = as_system(system, None, None, None)
    inputs = inputs_of(system, inputs)
    names = checked_methods(methods, system)
    ladder = checked_tolerances(tolerances)
    if not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"repeats must be a whole number, at least 1, got {repeats!r}")
    mode, rest = gradient_mode(gradient, dict(options or {}))
    own = divided_options(rest, names)
    adaptive = {name: METHODS[name].error_order is not None for name in names}

    device = inputs.h0.device
    with untouched(system, device):
        exact = solved_reference(system, inputs, reference, min(ladder), rest)
        notes = list(exact.notes)
        settings = [
            (name, tolerance if adaptive[name] else math.nan)
            for i, tolerance in enumerate(ladder)
            for name in names
            if adaptive[name] or i == 0
        ]
        trials = []
        for name, tolerance in settings:
            given = system, inputs, name, tolerance, loss or sum_of_squares
            once = partial(forward_and_backward, *given, gradient=mode, options=own[name])
            trials.append(_Trial(name, tolerance, once, exact))
        runs, told = trials * (1 + repeats), time.monotonic()
        for k, trial in enumerate(runs, 1):
            if say is not None and time.monotonic() - told >= EVERY:
                told = time.monotonic()
                say(f"  run {k} of {len(runs)}: {trial.method} at {in_words(trial.tolerance)} …")
            trial.measure()
        if any(trial.error < exact.resolution for trial in trials):
            notes.append(f"errors below {exact.resolution:.0e} may be those of the reference, {exact.label}")
        good = [trial for trial in trials if trial.failure is None]
        short = [trial for trial in good if device.type == "cuda" or trial.evaluations <= MEMORY_EVALUATIONS]
        if memory and len(short) < len(good):
            notes.append(f"memory is not measured for more than {MEMORY_EVALUATIONS} evaluations, on a CPU")
        if memory and short:
            peaks = peak_memory([trial.attempt for trial in short], device)
            if isinstance(peaks, str):
                notes.append(peaks)
            else:
                for trial, peak in zip(short, peaks, strict=True):
                    trial.peak = peak
    found = sorted((trial.run() for trial in trials), key=lambda run: names.index(run.method))
    shown = gradient if isinstance(gradient, str) else type(gradient).__name__
    dtype = str(inputs.h0.dtype).removeprefix("torch.")
    return Profile(
        tuple(found), tuple(notes), str(device), dtype, type(system).__name__, shown, exact.label, repeats, unit
    )


@dataclass
class _Trial:
    """One method at one tolerance, and what has been measured of it so far."""

    method: str
    tolerance: float
    once: Callable[[], tuple[Solution, tuple[float, float]]]
    exact: Reference
    stats: Stats | None = None
    error: float = math.nan
    failure: str | None = None
    times: list[tuple[float, float]] = field(default_factory=list)
    peak: int | None = None

    @property
    def evaluations(self) -> int:
        """Forward and backward."""
        return 0 if self.stats is None else of_batch(self.stats.nfe) + (self.stats.nfe_backward or 0)

    def measure(self) -> None:
        """Run: first to warm up, which gives the counts and the error, then by the clock."""
        done = self.attempt()
        if done is not None and self.stats is None:
            self.stats, self.error = done[0].stats, self.exact.error(done[0])
        elif done is not None:
            self.times.append(done[1])

    def attempt(self) -> tuple[Solution, tuple[float, float]] | None:
        """Run once, unless a run has failed, which fields with random numbers may do later on."""
        try:
            return None if self.failure else self.once()
        except SolverError as error:
            self.failure = str(error)
            return None

    def run(self) -> Run:
        stats = self.stats
        none = torch.zeros(0, dtype=torch.float64)
        if stats is None or self.failure:
            return Run(method=self.method, tolerance=self.tolerance, t=none, dt=none, failure=self.failure)
        forward, backward = zip(*self.times, strict=True)
        return Run(
            method=self.method,
            tolerance=self.tolerance,
            nfe=of_batch(stats.nfe),
            nfe_backward=stats.nfe_backward,
            products=of_batch(stats.products),
            accepted=of_batch(stats.accepted),
            rejected=of_batch(stats.rejected),
            stiffness=stats.stiffness if isinstance(stats.stiffness, float) else math.nan,
            t=stats.t,
            dt=stats.dt,
            error=self.error,
            seconds_forward=statistics.median(forward),
            seconds_forward_range=(min(forward), max(forward)),
            seconds_backward=statistics.median(backward),
            seconds_backward_range=(min(backward), max(backward)),
            peak_bytes=self.peak,
        )


def forward_and_backward(
    system: System, inputs: Inputs, method: str | None, tolerance: float, loss: Loss, **more: Any
) -> tuple[Solution, tuple[float, float]]:
    """Solve, and take the gradient by copies of the inputs and by parameters; return the seconds of both as well."""
    device = inputs.h0.device
    h0, (m0, t, *args) = inputs.h0.detach().clone(), map(_apart, (inputs.m0, inputs.t, *inputs.args))
    start = now(device)
    sol = solve(system, Inputs(h0.requires_grad_(), t, m0, tuple(args)), method, tolerance, **more)
    between = now(device)
    given = [x for x in (h0, m0, t, *args) if isinstance(x, Tensor) and x.requires_grad]
    wanted = {id(x): x for x in (*given, *reachable(system).leaves)}
    value = terminal_loss(loss, sol.h[-1], None if sol.m is None else sol.m[-1])
    if not value.requires_grad:
        raise ValueError("loss must depend on h_T or m_T: what it returned has no gradient")
    torch.autograd.grad(value, list(wanted.values()), allow_unused=True)
    return sol, (between - start, now(device) - between)


def _apart(value: Any) -> Any:
    """Return a tensor without its graph, so that no gradient passes through a graph of the caller."""
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
