"""Events as torchdiffeq has them: the first entry of a function that changes its sign ends the solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..solvers import real_dtype
from .state import Layout, State

Func = Callable[[Tensor, Any], Any]
EventFn = Callable[[Tensor, Any], Tensor]


def positive_at_start(event_fn: EventFn, t0: Tensor, y0: State) -> EventFn:
    """Return the smallest entry of event_fn, each with the sign that makes it positive at the start."""
    with torch.no_grad():
        signs = torch.sign(event_fn(t0, y0))

    def entry(t: Tensor, y: State) -> Tensor:
        return torch.min(event_fn(t, y) * signs)

    return entry


def at_fixed_time(entry: EventFn, layout: Layout, dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a crossing whose zero `entry` locates, and which no gradient moves in time."""

    def value(t: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            g = entry(t.to(dtype), layout.split(y))
        return g + (t - t.detach())

    return value


def with_event_gradient(
    func: Func, entry: EventFn, layout: Layout, event_t: Tensor, end: Tensor
) -> tuple[Tensor, Tensor]:
    """Return time () and state of an event, both moving with what moves the zero.

    One Newton step from the zero carries the derivative, dτ = -dg / (∂g/∂t + ∂g/∂y · func); its length is zero.
    """
    held = end.detach()
    with torch.no_grad():
        velocity = layout.join(func(event_t.to(real_dtype(end)), layout.split(held)), held)
    value = entry(event_t, layout.split(end))
    if not value.requires_grad:
        return event_t, end
    shift = torch.zeros_like(event_t, requires_grad=True)
    along = entry(event_t + shift, layout.split(held + shift.to(held.dtype) * velocity))
    (slope,) = torch.autograd.grad(along, shift)
    if not slope:  # that of a function that steps or stays zero: nothing moves the event
        return event_t, end
    moved = event_t - (value - value.detach()).to(event_t.dtype) / slope
    return moved, end + (moved - event_t).to(end.dtype) * velocity
