"""Solves by the methods of scipy and torchdiffeq, to compare with: no tape, no dense output, their own step control.

They load where they are used: they take as long as torch does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..gradients.captured import reachable
from ..setup.bound import bound_field
from ..setup.options import number
from ..setup.state_tree import StateTree, halves
from ..solution import Solution, SolverError, Stats
from ..solvers import Autocast, Field, Status
from ..systems import System

SCIPY_METHODS = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")


class ReferenceRows(NamedTuple):
    """The states at the requested times (T, *y), NaN where they were not reached, and why not."""

    rows: Tensor
    failure: str | None


def solve_scipy(
    method: str, field: Field, y0: Tensor, times: Tensor, rtol: float, atol: float, options: dict[str, Any]
) -> ReferenceRows:
    """Integrate with `scipy.integrate.solve_ivp`, in float64 on the host; there is no gradient.

    Parameters
    ----------
    method
        One of scipy's `solve_ivp` methods.
    field
        Right-hand side of y' = field(t, y).
    times
        (T,) float64.
    options
        Passed to `solve_ivp`.
    """
    from scipy.integrate import solve_ivp

    complex_state = y0.is_complex()
    dtype = torch.complex128 if complex_state else torch.float64

    def rhs(t: float, y: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(y).to(dtype).view(y0.shape).to(y0)
        with torch.no_grad():
            out = field(torch.tensor(t, dtype=torch.float64, device=y0.device), state)
        return np.asarray(out.detach().cpu().to(dtype).reshape(-1).numpy())

    t = times.detach().cpu().double().numpy()
    start = y0.detach().cpu().to(dtype).reshape(-1).numpy()
    points, places = np.unique(t, return_inverse=True)
    if len(points) == 1:
        return ReferenceRows(y0.detach().unsqueeze(0).expand(len(t), *y0.shape).clone(), None)
    backward = t[-1] < t[0]
    result = solve_ivp(
        rhs,
        (t[0], t[-1]),
        start,
        method=method,
        t_eval=points[::-1] if backward else points,
        rtol=rtol,
        atol=atol,
        **options,
    )
    rows = np.full((len(points), start.size), np.nan, dtype=start.dtype)
    rows[: result.y.shape[1]] = result.y.T
    rows = rows[len(points) - 1 - places if backward else places]
    full = torch.from_numpy(rows).to(y0.device, y0.dtype).view(len(t), *y0.shape)
    return ReferenceRows(full, None if result.success else str(result.message))


def solve_torchdiffeq(
    method: str, field: Field, y0: Tensor, times: Tensor, rtol: Any, atol: Any, options: dict[str, Any]
) -> ReferenceRows:
    """Integrate with `torchdiffeq.odeint`; gradients by backpropagation through its operations."""
    import torchdiffeq

    distinct, places = torch.unique_consecutive(times, return_inverse=True)
    if len(distinct) == 1:
        return ReferenceRows(y0.unsqueeze(0).expand(len(times), *y0.shape), None)
    try:
        rows = torchdiffeq.odeint(field, y0, distinct, rtol=rtol, atol=atol, method=method, options=options or None)
    except AssertionError as error:
        return ReferenceRows(y0.detach().new_full((len(times), *y0.shape), float("nan")), str(error))
    return ReferenceRows(rows[places], None)


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
