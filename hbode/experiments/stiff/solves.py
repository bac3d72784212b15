"""Solves at a tolerance, by hbode and by torchdiffeq, and the loosest tolerance that is enough for an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...integrate import hbodeint
from ...solution import SolverError, Stats
from ...systems.split_field import SplitField
from .problems import Problem

ERROR = 1e-4
"""The error at which methods are compared."""
TOLERANCES = tuple(10 ** -(2 + 0.25 * k) for k in range(25))
"""Relative and absolute, from the loosest."""


class GivenUp(RuntimeError):
    """A backward pass of the peer that evaluates the field more often than it is allowed to."""


@dataclass
class Calls:
    """Evaluations of a field that torchdiffeq calls, in both passes."""

    nfe: int = 0
    nfe_backward: int | None = None


Run = Callable[[float], tuple[Tensor, Stats | Calls]]
"""States (T, 1, n) at a tolerance, with a graph where gradients are asked for, and the evaluations."""


def ours(problem: Problem, method: str, split: bool = False, options: Mapping[str, object] | None = None) -> Run:
    """Return solves by a method of `hbodeint` and its default gradient; `split`: with the field in its two parts."""
    f = SplitField(stiff=problem.stiff, nonstiff=problem.nonstiff) if split else problem.whole

    def run(tol: float) -> tuple[Tensor, Stats]:
        call = {"rtol": tol, "atol": tol, "method": method, "options": dict(options or {})}
        sol = hbodeint(problem.system(f), problem.y0, problem.times, **call)  # type: ignore[arg-type]
        return torch.as_tensor(sol.h), sol.stats

    return run


def theirs(problem: Problem, most: int = 30_000) -> Run:
    """Return solves by dopri5 of torchdiffeq, `odeint_adjoint` where the problem has a parameter, else `odeint`.

    The adjoint solve takes the states back in time; after `most` evaluations it raises `GivenUp`.
    """
    import torchdiffeq

    def run(tol: float) -> tuple[Tensor, Calls]:
        calls = Calls()

        def f(t: Tensor, y: Tensor) -> Tensor:
            if calls.nfe_backward is None:
                calls.nfe += 1
            else:
                calls.nfe_backward += 1
                if calls.nfe_backward > most:
                    raise GivenUp(f"more than {most:,} evaluations")
            return problem.whole(t, y)

        call = {"rtol": tol, "atol": tol, "method": "dopri5"}
        if problem.parameter is None:
            states = torchdiffeq.odeint(f, problem.y0, problem.times, **call)
        else:
            kept = {"adjoint_params": (problem.parameter,)}
            states = torchdiffeq.odeint_adjoint(f, problem.y0, problem.times, **call, **kept)
        calls.nfe_backward = 0
        return states, calls

    return run


class Point(NamedTuple):
    """What a tolerance cost, in evaluations forward, and what it reached."""

    tol: float
    nfe: float
    error: float


@torch.no_grad()
def ladder(run: Run, error: Callable[[Tensor], float], until: float) -> list[Point]:
    """Return one point a tolerance, from the loosest to the first whose error is at most `until`.

    Tolerances at which a solve fails are left out.
    """
    points: list[Point] = []
    for tol in TOLERANCES:
        try:
            states, cost = run(tol)
        except (SolverError, AssertionError):  # torchdiffeq asserts
            continue
        points.append(Point(tol, float(torch.as_tensor(cost.nfe)), error(states)))
        if points[-1].error <= until:
            break
    return points


def loosest(points: list[Point], error: float = ERROR) -> Point | None:
    """Return the first of a ladder whose error is small enough; None where there is none."""
    return next((point for point in points if point.error <= error), None)


def gradient_error(problem: Problem, got: Tensor) -> float:
    """Return the error of a gradient of `mean_output` with respect to the parameter, relative to the exact one."""
    if problem.exact is None or problem.parameter is None:
        raise ValueError("problem must have an exact solution and a parameter")
    (exact,) = torch.autograd.grad(mean_output(problem.exact(problem.times)), problem.parameter)
    return float((got - exact).abs() / exact.abs())


def mean_output(states: Tensor) -> Tensor:
    """Return a scalar loss: the mean of states (T, 1, n) over all outputs but the start."""
    return states[1:].mean()
