"""The gradients of times: the requested ones, and those of events, which were found without a graph."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...solvers import Crossing, Field, Tape
from ..problem import Problem
from .cotangents import Rows
from .transposed_updates import Jump


def differentiable_events(
    problem: Problem, field: Field, crossings: tuple[Crossing, ...], tape: Tape, times: Tensor, states: Tensor
) -> tuple[Tensor, Tensor]:
    """Return times and states of events with the gradient of the implicit function: the states are at fixed times.

    Its derivatives are those just before the zero: a function that stays zero is flat after it.
    """
    ts, ys = [], []
    sign = float(problem.clock.sign)
    for which, t, y in zip(tape.events.which, times, states, strict=True):
        slope = problem.slope(problem.seen_before(field, t, sign), t, y)
        back = sign * 8 * math.ulp(float(t))
        t_before, y_before = t - back, y - back * slope
        with torch.enable_grad():
            inputs = t_before.detach().requires_grad_(), y_before.detach().requires_grad_()
            value = crossings[which].fn(*inputs)
            by_t, by_y = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
        value = crossings[which].fn(t_before, y_before)
        rate = by_t + along_slope(by_y, slope)
        steep = rate != 0
        shift = torch.where(steep, (value - value.detach()).double(), 0.0) / torch.where(steep, rate, 1.0)
        ts.append(t - shift)
        ys.append(y - slope * shift.to(slope.real.dtype))
    return torch.stack(ts), torch.stack(ys)


def requested_times_bar(
    problem: Problem,
    field: Field,
    times: Tensor,
    known: tuple[Rows, Tensor],
    z: Tensor,
    jumps: Sequence[Jump],
    rows_bar: Tensor | None,
) -> Tensor:
    """Return the cotangents of the requested times, those of updates among them, shape (T,).

    Each row of the tape moves with its time along its slope. So does the solution around an update: its cotangent goes
    with the slope before, and against that after it. At the first time it is that of y0, which stays, for the start
    that moves.

    Parameters
    ----------
    known
        What the rows are, and the rows (n, *y).
    z
        The adjoint at the first time, shape of y.
    rows_bar
        Cotangents of the rows after those that show y0.
    """
    place, rows = known
    sign = float(problem.clock.sign)
    times_bar, moved = torch.zeros_like(times), torch.zeros_like(rows)
    if rows_bar is not None:
        moved[len(rows) - len(rows_bar) :] = rows_bar
    moved[0] -= z
    for jump in jumps:
        after = place.after[jump.which]
        moved[place.before[jump.which]] += jump.before
        moved[after] -= jump.after
        times_bar[place.anchor[after]] += jump.t
    starting = {0, *place.after}
    for n in moved.reshape(len(moved), -1).any(1).nonzero().flatten().tolist():
        t = times[place.anchor[n]]
        seen = (
            field.within(problem.plan.sides(float(t), sign)) if n in starting else problem.seen_before(field, t, sign)
        )
        times_bar[place.anchor[n]] += along_slope(moved[n], problem.slope(seen, t, rows[n]))
    return times_bar


def along_slope(bar: Tensor, slope: Tensor) -> Tensor:
    """Return the derivative along a direction, from the gradient, in float64."""
    return (bar.conj() * slope).real.sum().double()
