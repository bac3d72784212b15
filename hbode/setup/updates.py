"""Updates of the state at known times inside one solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ..solvers import Clock, SampleClock, Updates, real_dtype
from .state_tree import State, StateTree, halves, replaced, told

Tensors = tuple[Tensor, ...]
Jump = Callable[[Tensor, Tensor, Tensors], Tensor]


@dataclass(frozen=True)
class Update:
    """The state is replaced at known times, and the solve goes on: measurements, pulses, the cell of an ODE-RNN.

    Steps end at the updates; the step size, and the history of errors it was chosen by, are carried through. A method
    starts again from the new state, at one evaluation of f. An output requested at the time of an update shows the
    state after it; `Solution.updates` has the states on both sides. (Rubanova et al. 2019; the cotangents are those of
    ``y+ = U(t, y-, data)``.)

    Parameters
    ----------
    t
        Times, all different, in any order, and within the span of the solve: shape (K,), or (B, K) for a solve with
        times or steps per sample. NaN where a sample has fewer. They receive gradients.
    fn
        ``fn(t, h, m, data_k)`` returning (h, m), or ``fn(t, h, data_k)`` returning h for a first-order system; without
        `data`, it gets none. t has shape (), or (B,) where samples have updates of their own: there it gets all
        samples, and what it returns counts for those that have an update at that moment. In compiled solves and on
        accelerators it is computed at every step, and counts at updates: nobody waits to know whether there is one.
    data
        A tensor, or nested lists, tuples and dicts of tensors, with leading axes like `t`; data_k is without the K.
    mask
        Which updates take place, boolean, shape of `t`; default: all.

    Examples
    --------
    >>> import torch
    >>> from hbode import Update, hbodeint
    >>> kick = Update(torch.tensor([1.0, 2.0]), lambda t, h, m, push: (h, m + push), torch.tensor([0.5, -0.5]))
    >>> sol = hbodeint(lambda t, h: -h, torch.ones(3), torch.linspace(0, 3, 4), updates=kick)
    >>> sol.updates.before.m.shape
    torch.Size([2, 3])
    """

    t: Tensor
    fn: Callable[..., Any]
    data: Any = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.t, Tensor) or self.t.ndim not in (1, 2) or not self.t.is_floating_point():
            raise ValueError(f"Update.t must be a floating tensor (K,) or (B, K), got {told(self.t)}")
        if not callable(self.fn):
            raise TypeError(f"Update.fn must be callable, got {type(self.fn).__name__}")
        if self.mask is not None and (self.mask.dtype != torch.bool or self.mask.shape != self.t.shape):
            raise ValueError(f"Update.mask must be boolean of shape {tuple(self.t.shape)}, got {told(self.mask)}")
        tree_map(self._check_data, self.data)

    def _check_data(self, x: Any) -> None:
        if x is not None and (not isinstance(x, Tensor) or x.shape[: self.t.ndim] != self.t.shape):
            raise ValueError(f"Update.data must be tensors with leading axes {tuple(self.t.shape)}, got {told(x)}")


class Sides(NamedTuple):
    """Positions and momenta on one side of the updates, (K, *h0) each; m is None for a first-order system."""

    h: State
    m: State | None


class UpdateRecord(NamedTuple):
    """The states before and after each update; NaN where it did not take place or was not reached."""

    before: Sides
    after: Sides


class Merged(NamedTuple):
    """Requested times and update times as one grid, and what of its rows is what.

    `outputs`, `before` and `after` index the T + K rows of a tape and the K after them: (T,) or (B, T), and (K,) or
    (B, K), -1 where there is none.
    """

    times: Tensor
    updates: Updates
    outputs: Tensor
    before: Tensor
    after: Tensor

    def read(
        self, clock: Clock | SampleClock, rows: Tensor, second_order: bool, tree: StateTree | None
    ) -> tuple[Tensor, UpdateRecord]:
        """Return the rows of the solution, and the states on both sides of the updates, from those of a tape."""
        sides = (clock.pick(rows, at) for at in (self.before, self.after))
        before, after = (Sides(*halves(side, second_order, 1, tree)) for side in sides)
        return clock.pick(rows, self.outputs), UpdateRecord(before, after)


def merge(update: Update, times: Tensor, h0: Tensor, second_order: bool) -> Merged:
    """Return the grid of a solve with updates, for times (T,) or (B, T) in float64."""
    at = update.t.to(times.device, torch.float64)
    if at.shape[:-1] != times.shape[:-1]:
        what = f"({len(times)}, K), as samples have times or steps of their own" if times.ndim == 2 else "(K,)"
        raise ValueError(f"Update.t must have shape {what}, got {tuple(at.shape)}")
    present = at.isfinite() if update.mask is None else at.isfinite() & update.mask
    first, last = times[..., :1].detach(), times[..., -1:].detach()
    sign = torch.where(last >= first, 1.0, -1.0).to(times)
    order = torch.where(present, at.detach() * sign, torch.inf).argsort(dim=-1, stable=True)
    at, present = at.gather(-1, order), present.gather(-1, order)
    _check_times(at.detach(), present, first, last)
    at = torch.where(present, at, last)
    # at the same time updates come before the outputs, which show what is after them; the start stays the first
    joined = torch.cat((times[..., :1], at, times[..., 1:]), -1)
    sorting = (joined.detach() * sign).argsort(dim=-1, stable=True)
    place = sorting.argsort(-1)
    grid = joined.gather(-1, sorting)
    count, total = at.shape[-1], grid.shape[-1]
    mine = place[..., 1 : count + 1]
    anchors = torch.where(at == first, 0, torch.where(at == last, total - 1, mine))
    outputs = torch.cat((place[..., :1], place[..., count + 1 :]), -1)
    keys = F.pad(torch.where(present, at.detach() * sign, torch.inf), (0, 1), value=torch.inf)
    latest = torch.searchsorted(keys.contiguous(), (times.detach() * sign).contiguous(), right=True) - 1
    same = (latest >= 0) & (keys.gather(-1, latest.clamp(min=0)) == times.detach() * sign)
    number = torch.arange(count, device=at.device).expand_as(order)
    return Merged(
        grid,
        Updates(torch.where(present, anchors, -2), *_jump(update, order, h0, second_order)),
        torch.where(same, total + latest, outputs),
        _as_given(mine, present, order),
        _as_given(total + number, present, order),
    )


def _as_given(x: Tensor, present: Tensor, order: Tensor) -> Tensor:
    """Return what is known of the updates in the order of time, in the order in which they were given."""
    return torch.where(present, x, -1).gather(-1, order.argsort(-1))


def _check_times(at: Tensor, present: Tensor, first: Tensor, last: Tensor) -> None:
    """Raise unless the times that are present, in the order of the solve, lie within it and differ."""
    outside = present & ((at < first.minimum(last)) | (at > first.maximum(last)))
    if bool(outside.any()):
        found = (x.expand_as(at)[outside][0].item() for x in (first, last, at))
        raise ValueError("Update.t must lie within the span of t, from {:.10g} to {:.10g}, got {:.10g}".format(*found))
    if bool((present[..., 1:] & present[..., :-1] & (at.diff(dim=-1) == 0)).any()):
        raise ValueError("Update.t must not hold a time twice: join the updates at one time in fn")


def _jump(update: Update, order: Tensor, h0: Tensor, second_order: bool) -> tuple[Jump, Callable[[Tensor], Tensors]]:
    """Return what the update makes of a state, and what of its data belongs to updates by their order in time."""
    real, fn, user_data = real_dtype(h0), update.fn, update.data is not None
    leaves, form = tree_flatten(update.data)
    places = [i for i, x in enumerate(leaves) if x is not None]
    blank: list[Any] = [None] * len(leaves)

    def data(which: Tensor) -> Tensors:
        if order.ndim == 1:
            chosen: Any = order[which]
        else:
            chosen = torch.arange(len(order), device=order.device).expand_as(which), order.T.gather(0, which)
        return tuple(leaves[i][chosen] for i in places)

    def jump(t: Tensor, y: Tensor, data_k: Tensors) -> Tensor:
        filled = [*blank]
        for i, x in zip(places, data_k, strict=True):
            filled[i] = x
        given = (tree_unflatten(filled, form),) if user_data else ()
        t = t.to(real)
        return replaced("Update.fn", fn(t, *(y.unbind() if second_order else (y,)), *given), y, second_order)

    return jump, data
