"""The gradients of times: the requested ones, and those of events, which were found without a graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from ...solvers import Crossing, Field, Tape
from ..problem import Problem
from .cotangents import Rows


@dataclass(frozen=True)
class Slopes:
    """The slopes of a solution, shape of y, without a graph, as they are before and after a time, shape ()."""

    problem: Problem
    field: Field

    @property
    def sign(self) -> float:
        """The direction of time."""
        return float(self.problem.clock.sign)

    def before(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt on the way to a time; at the first one, after it."""
        if t == self.problem.clock.times[0]:
            return self.after(t, y)
        return self.problem.slope(self.problem.seen_before(self.field, t, self.sign), t, y)

    def after(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt from a time on."""
        return self.problem.slope(self.field.within(self.problem.plan.sides(float(t), self.sign)), t, y)


def differentiable_events(
    slopes: Slopes, crossings: tuple[Crossing, ...], tape: Tape, times: Tensor, states: Tensor
) -> tuple[Tensor, Tensor]:
    """Return times and states of events with the gradient of the implicit function: the states are at fixed times.

    Those of a reset have one time, that of the event which cut the step short.
    """
    ts, ys = list[Tensor](), list[Tensor]()
    resets = {reset.event: reset for reset in tape.resets}
    while (n := len(ts)) < len(times):
        reset, t, y = resets.get(n), times[n], states[n]
        crossing = crossings[tape.events.which[n]] if reset is None else reset.crossing
        last = n + (1 if reset is None else len(reset.change.fired))
        slope = slopes.before(t, y)
        where = just_before(t, y, slope, slopes.sign)
        rate, value = rate_along(crossing, *where, slope), crossing.fn(*where)
        shift = (value - value.detach()).double() * inverse(rate)
        ts += [t - shift] * (last - n)
        ys += [x - slope * shift.to(slope.real.dtype) for x in states[n:last]]
        if reset is not None:
            slope = slopes.after(t, states[last])
            ts += [t - shift] * (last - n)
            ys += [x - slope * shift.to(slope.real.dtype) for x in states[last : 2 * last - n]]
    return torch.stack(ts), torch.stack(ys)


def requested_times_bar(slopes: Slopes, times: Tensor, rows: Rows, z: Tensor, rows_bar: Tensor | None) -> Tensor:
    """Return the cotangents of the requested times, shape (T,), but for those of updates as such.

    Each row of the tape moves with its time along its slope. At the first time its cotangent is that of y0, which
    stays, for the start that moves.

    Parameters
    ----------
    z
        The adjoint at the first time, shape of y.
    rows_bar
        Cotangents of the rows after those that show y0.
    """
    times_bar, moved = torch.zeros_like(times), torch.zeros_like(rows.states)
    if rows_bar is not None:
        moved[len(moved) - len(rows_bar) :] = rows_bar
    moved[0] -= z
    values = times.tolist()
    fresh = set[int]()
    for jump in rows.jumps:
        fresh.update(takewhile(lambda n: values[rows.anchor[n]] == jump.t, range(jump.row, len(moved))))  # noqa: B023
    for n in moved.reshape(len(moved), -1).any(1).nonzero().flatten().tolist():
        t, y = times[rows.anchor[n]], rows.states[n]
        slope = slopes.after(t, y) if n in fresh else slopes.before(t, y)
        times_bar[rows.anchor[n]] += along_slope(moved[n], slope)
    return times_bar


def just_before(t: Tensor, y: Tensor, slope: Tensor, sign: float) -> tuple[Tensor, Tensor]:
    """Return time and state by some roundings before a zero, as a function that stays zero is flat after it."""
    back = sign * 8 * math.ulp(float(t))
    return t - back, y - back * slope


def rate_along(crossing: Crossing, t: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    """Return the rate of change of an event function along a solution, shape (), in float64."""
    with torch.enable_grad():
        inputs = t.detach().requires_grad_(), y.detach().requires_grad_()
        value = crossing.fn(*inputs)
        if not value.requires_grad:  # as of a function that steps
            return torch.zeros_like(t)
        by_t, by_y = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
    return by_t + along_slope(by_y, slope)


def inverse(rate: Tensor) -> Tensor:
    """Return 1 / rate, and zero for a rate of zero: no gradient passes through the time of an event without one."""
    return torch.where(rate != 0, 1.0, 0.0) / torch.where(rate != 0, rate, 1.0)


def along_slope(bar: Tensor, slope: Tensor) -> Tensor:
    """Return the derivative along a direction, from the gradient, in float64."""
    return (bar.conj() * slope).real.sum().double()
