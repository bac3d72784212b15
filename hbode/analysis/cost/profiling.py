"""What solves and their gradients cost, over methods and tolerances."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...arguments import as_system, check_state, check_times
from ...gradients import Gradient
from ...gradients.captured import reachable
from ...options import gradient_mode
from ...solution import Solution, SolverError, Stats, of_batch
from ...solvers import METHODS
from ...systems import System
from ..inputs import (
    Inputs,
    Loss,
    Reference,
    as_inputs,
    checked_methods,
    checked_tolerances,
    divided_options,
    solve,
    solved_reference,
    sum_of_squares,
    terminal_loss,
)
from .measuring import now, peak_memory, untouched
from .result import Profile, Run, in_words

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
    system, inputs = as_system(system, None, None, None), as_inputs(inputs)
    check_state(inputs.h0, inputs.m0, system)
    if check_times(inputs.t, inputs.h0, False).ndim != 1:
        raise ValueError("t of inputs must have shape (T,): times per sample cannot be profiled")
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
        bench = _Bench(system, inputs, mode, loss or sum_of_squares, exact)
        trials = [
            _Trial(bench, name, tolerance if adaptive[name] else math.nan, own[name])
            for i, tolerance in enumerate(ladder)
            for name in names
            if adaptive[name] or i == 0
        ]
        progress = _Progress(say, len(trials) * (1 + repeats))
        for trial in trials:
            progress.at(trial)
            trial.warm_up()
        if any(trial.error < exact.resolution for trial in trials):
            notes.append(f"errors below {exact.resolution:.0e} may be those of the reference, {exact.label}")
        for _ in range(repeats):
            for trial in trials:
                progress.at(trial)
                trial.time()
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
    runs = sorted((trial.run() for trial in trials), key=lambda run: names.index(run.method))
    shown = gradient if isinstance(gradient, str) else type(gradient).__name__
    dtype = str(inputs.h0.dtype).removeprefix("torch.")
    return Profile(
        tuple(runs), tuple(notes), str(device), dtype, type(system).__name__, shown, exact.label, repeats, unit
    )


class _Progress:
    """Says how far a profile is, where it takes long."""

    def __init__(self, say: Callable[[str], None] | None, count: int) -> None:
        self.say, self.count, self.done, self.last = say, count, 0, time.monotonic()

    def at(self, trial: _Trial) -> None:
        self.done += 1
        now = time.monotonic()
        if self.say is not None and now - self.last >= EVERY:
            self.last = now
            self.say(f"  run {self.done} of {self.count}: {trial.method} at {in_words(trial.tolerance)} …")


class _Bench(NamedTuple):
    """What all runs of a profile share."""

    system: System
    inputs: Inputs
    gradient: Gradient
    loss: Loss
    exact: Reference


@dataclass
class _Trial:
    """One method at one tolerance, and what has been measured of it so far."""

    bench: _Bench
    method: str
    tolerance: float
    options: dict[str, Any]
    stats: Stats | None = None
    error: float = math.nan
    failure: str | None = None
    times: list[tuple[float, float]] = field(default_factory=list)
    peak: int | None = None

    @property
    def evaluations(self) -> int:
        """Forward and backward."""
        return 0 if self.stats is None else of_batch(self.stats.nfe) + (self.stats.nfe_backward or 0)

    def warm_up(self) -> None:
        done = self.attempt()
        if done is not None:
            self.stats, self.error = done[0].stats, self.bench.exact.error(done[0])

    def time(self) -> None:
        done = self.attempt()
        if done is not None:
            self.times.append(done[1])

    def attempt(self) -> tuple[Solution, tuple[float, float]] | None:
        """Run once, unless a run has failed, which fields with random numbers may do later on."""
        if self.failure is not None:
            return None
        system, inputs, gradient, loss, _ = self.bench
        more = {"gradient": gradient, "options": self.options}
        try:
            return forward_and_backward(system, inputs, self.method, self.tolerance, loss, **more)
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
