"""Solves by the methods of scipy and torchdiffeq, to compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .bound import bound_field
from .gradients.captured import reachable
from .options import number
from .solution import Solution, SolverError, Stats
from .solvers import Autocast, Status
from .solvers.methods.reference import SCIPY_METHODS, solve_scipy, solve_torchdiffeq
from .state_tree import StateTree, halves
from .systems import System


def solve_by_reference(
    name: str,
    system: System,
    h0: Tensor,
    y0: Tensor,
    times: Tensor,
    coefficients: Sequence[Tensor | None],
    args: Sequence[Any],
    rtol: float | Tensor,
    atol: float | Tensor,
    options: dict[str, Any],
    throw: bool,
    precision: Autocast,
    tree: StateTree | None,
    knots: Tensor | None = None,
) -> Solution:
    """Return the solution by the method `name`, of the form back end:method."""
    backend, _, method = name.partition(":")
    gamma, xi = coefficients
    field = bound_field(system, False, h0, gamma, xi, args, precision, knots)
    if backend == "scipy":
        if method not in SCIPY_METHODS:
            raise ValueError(f"method must be scipy:<one of {', '.join(SCIPY_METHODS)}>, got {name!r}")
        inputs = (y0, times, *coefficients, *args, *reachable(system).leaves)
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
            raise ValueError(f"method {name!r} has no gradient; call it under torch.no_grad()")
        done = solve_scipy(method, field, y0, times, number("rtol", rtol), number("atol", atol), options)
    elif backend == "torchdiffeq":
        done = solve_torchdiffeq(method, field, y0, times, rtol, atol, options)
    else:
        raise ValueError(f"method must name a back end scipy or torchdiffeq before the colon, got {name!r}")
    reached = torch.isfinite(done.rows.detach().reshape(len(times), -1)).all(1)
    status = Status.SUCCESS if done.failure is None else Status.NON_FINITE
    if done.failure is not None and throw:
        at = float(times[max(int(reached.sum()) - 1, 0)])
        raise SolverError(status, at, math.nan, detail=f"{name} says: {done.failure}")
    none = torch.zeros(0, dtype=torch.float64)
    stats = Stats(field.calls, 0, 0, status, none, none, 0, math.nan)
    return Solution(times, *halves(done.rows, system.second_order, 1, tree), stats)
