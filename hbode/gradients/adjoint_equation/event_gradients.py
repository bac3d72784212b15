"""The gradients of event times and states that were found without a graph."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...solvers import Crossing, Field, Tape
from ..problem import Problem


def differentiable_events(
    problem: Problem, field: Field, crossings: tuple[Crossing, ...], tape: Tape, times: Tensor, states: Tensor
) -> tuple[Tensor, Tensor]:
    """Return times and states of events with the gradient of the implicit function: the states are at fixed times.

    Its derivatives are those just before the zero: a function that stays zero is flat after it.
    """
    ts, ys = [], []
    sign = 1.0 if problem.clock.times[-1] >= problem.clock.times[0] else -1.0
    for which, t, y in zip(tape.event_index, times, states, strict=True):
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


def along_slope(bar: Tensor, slope: Tensor) -> Tensor:
    """Return the derivative along a direction, from the gradient, in float64."""
    return (bar.conj() * slope).real.sum().double()
