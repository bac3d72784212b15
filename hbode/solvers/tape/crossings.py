"""Where in a step event functions cross zero: for a batch that steps as one (N = 1), or for N samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .roots import first_zeros, rounding
from .tape import Crossing

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

LOOKS = (1 / 3, 2 / 3)
"""Fractions of a step at which every event function is looked at, besides the requested times in the step."""


class Zeros(NamedTuple):
    """Zeros of the event function `which`: the samples that have one, (N,), and its fractions of their steps.

    The function has become zero, or changed its sign, at `theta`; at `before`, the closest time before it, it has not.
    """

    which: int
    met: Tensor
    theta: Tensor
    before: Tensor


@dataclass(frozen=True)
class Stretch:
    """A step as event functions see it, from the times `start` to `end`, (N,), with states rounded to `eps`.

    ``states(theta)`` interpolates at fractions (n, N), and ``value(crossing, t, y)`` evaluates an event function at
    times (N,) and one of these states, (N,) in float64.
    """

    start: Tensor
    end: Tensor
    eps: float
    states: Callable[[Tensor], Tensor]
    value: Callable[[Crossing, Tensor, Tensor], Tensor]

    def at(self, crossings: Sequence[Crossing], theta: Tensor) -> Tensor:
        """Return event functions at fractions (n, N), shape (C n, N)."""
        times, states = self.start + theta * (self.end - self.start), self.states(theta)
        pairs = list(zip(times.unbind(), states.unbind(), strict=True))
        return torch.stack([self.value(crossing, t, y) for crossing in crossings for t, y in pairs])


class Sighted(NamedTuple):
    """What event functions met in a step: zeros, where they end it (a fraction; Inf: nowhere), who is lost or stuck.

    A sample is lost where a function became NaN with no zero before it, and stuck where it has turned back to a zero
    before it can be told from it.
    """

    zeros: tuple[Zeros, ...]
    limit: Tensor
    lost: Tensor
    stuck: Tensor
    width: Tensor
    """How narrow a bracket of a zero can be, as a fraction of the step."""


def mask_on_host(mask: Tensor) -> Mask:
    """Return a mask (N,) where the loop looks at it."""
    array: Mask = mask.cpu().numpy()
    return array


def on_host(values: Tensor) -> Array:
    """Return values of event functions where the loop looks at them."""
    array: Array = values.cpu().numpy()
    return array


def sampled(
    step: Stretch, crossings: Sequence[Crossing], first: Array, last: Array, rows: Tensor | None
) -> tuple[Array, Array]:
    """Return where in a step event functions are looked at, (n, N), and their values there, (C, n, N).

    That is at its ends, where the values are `first` and `last`, (C, N), at `LOOKS`, and at the fractions of requested
    times `rows`, (n, N), 1 where there are fewer.
    """
    theta = step.start.new_tensor(LOOKS).unsqueeze(1).expand(-1, len(step.start))
    if rows is not None:
        theta = torch.cat((theta, rows)).sort(dim=0).values
    inner = on_host(step.at(crossings, theta)).reshape(len(crossings), *theta.shape)
    at = np.concatenate((np.zeros_like(first[:1]), on_host(theta), np.ones_like(first[:1])))
    if rows is not None:
        inner = np.where(at[1:-1] < 1.0, inner, last[:, None])
    return at, np.concatenate((first[:, None], inner, last[:, None]), 1)


def find_zeros(
    step: Stretch,
    crossings: Sequence[Crossing],
    at: Array,
    values: Array,
    since: Array,
    moving: Mask,
    most: Array,
    stuck: Mask,
) -> Sighted | None:
    """Return the zeros in a step of the samples that are moving and not stuck; None: nothing is met.

    `values` are those that `sampled` gave. A function is looked at also at the extrema of parabolas through its values
    that reach for zero, `since` a fraction of the step, (C, N): zeros that come in pairs between all these are not
    seen. A zero is where a function that had a sign has it no more; one that is zero from the start, or that leaves
    zero, has none. Function c may have ``most[c]`` zeros, (N,), where the step ends for that sample.
    """
    moving = moving & ~stuck
    vertices = _vertices(at, values)
    vertices = np.where(moving & (vertices >= since[:, None]), vertices, np.nan)
    lost = moving & np.isnan(values[:, -1])
    if np.isnan(vertices).all() and not (_leaves(values) & moving).any() and not lost.any() and not stuck.any():
        return None
    width = rounding(step.start, step.end)
    found: list[Zeros] = []
    limit = torch.full_like(step.start, torch.inf)
    astray = torch.zeros_like(limit, dtype=torch.bool)
    for which, crossing in enumerate(crossings):
        places, g = _with_vertices(step, crossing, at, values[which], vertices[which])
        own, nowhere = _located(step, which, crossing, places, g, moving, width)
        found += own
        astray |= nowhere
        left = torch.from_numpy(most[which]).to(limit)
        for zeros in own:
            left = left - zeros.met.to(left)
            limit = torch.minimum(limit, zeros.theta.where(zeros.met & (left <= 0), torch.inf))
    kept = []
    for zeros in found:
        met = zeros.met & (zeros.theta <= limit + width)  # what differs by rounding comes together
        if met.any():
            kept.append(zeros._replace(met=met))
    return Sighted(tuple(kept), limit, astray & limit.isinf(), torch.from_numpy(stuck).to(limit.device), width)


def _located(
    step: Stretch, which: int, crossing: Crossing, at: Array, values: Array, moving: Mask, width: Tensor
) -> tuple[list[Zeros], Tensor]:
    """Return the zeros between places (n, N) with values there, and the samples that are lost."""
    leaves = _leaves(values) & moving
    edge = torch.zeros_like(width, dtype=torch.bool)
    lost = torch.zeros_like(edge)
    if crossing.direction:
        leaves &= (np.sign(values[:-1]) == -crossing.direction) | np.isnan(values[1:])
    order = leaves.cumsum(0)
    found = []
    for n in range(1, int(order.max()) + 1):
        hit = leaves & (order == n)
        i = hit.argmax(0)[None]
        met, low, high, start, end = (
            torch.from_numpy(x).to(width.device)
            for x in (hit.any(0), *(np.take_along_axis(x, j, 0)[0] for x in (at, values) for j in (i, i + 1)))
        )
        low = torch.where(met, low, high)
        before, theta, last, g = first_zeros(
            lambda x: step.at([crossing], x.unsqueeze(0))[0], low, high, start, end, width
        )
        # at the end of what is defined sqrt(y) has come down to the root of rounding; log(y) is far from zero there
        zero = ~g.isnan() | (last.abs() <= step.eps**0.25 * start.abs())
        lost |= met & ~zero
        edge |= met & g.isnan()
        met = met & zero
        if crossing.direction:
            met &= last.sign() == -crossing.direction
        found.append(Zeros(which, met, theta, before))
    unseen = torch.from_numpy(moving & np.isnan(values[-1])).to(width.device)
    return found, lost | (unseen & ~edge)


def _leaves(values: Array) -> Mask:
    """Return where, of values (..., n, N), one has a sign that the next has not, shape (..., n - 1, N)."""
    signs = np.sign(values)
    leaves: Mask = (np.abs(signs[..., :-1, :]) > 0) & (signs[..., 1:, :] != signs[..., :-1, :])
    return leaves


def _vertices(at: Array, values: Array) -> Array:
    """Return where parabolas through three consecutive values come near zero without crossing it; NaN: they do not.

    Near is to less than half of the least of the three. Places have shape (n, N), values (C, n, N), the result
    (C, n - 2, N).
    """
    size = np.abs(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.diff(size, axis=1) / np.diff(at, axis=0)
        bend = np.diff(slope, axis=1) / (at[2:] - at[:-2])
        x0, x1, x2 = at[:-2], at[1:-1], at[2:]
        vertex = 0.5 * (x0 + x1 - slope[:, :-1] / bend)
        reached = size[:, :-2] + (vertex - x0) * (slope[:, :-1] + bend * (vertex - x1))
        least = np.minimum(np.minimum(size[:, :-2], size[:, 1:-1]), size[:, 2:])
        near = (bend > 0) & (vertex > x0) & (vertex < x2) & (reached < 0.5 * least)
    one_sided = (values[:, :-2] > 0) == (values[:, 1:-1] > 0)
    one_sided &= (values[:, 2:] > 0) == (values[:, 1:-1] > 0)
    vertices: Array = np.where(near & one_sided, vertex, np.nan)
    return vertices


def _with_vertices(step: Stretch, crossing: Crossing, at: Array, values: Array, vertices: Array) -> tuple[Array, Array]:
    """Return places and values (n, N) with the vertices and the values there added in order."""
    wanted = ~np.isnan(vertices)
    some = wanted.any(1)
    if not some.any():
        return at, values
    wanted = wanted[some]
    added = np.where(wanted, vertices[some], at[1:-1][some])
    new = on_host(step.at([crossing], torch.from_numpy(added).to(step.start.device)))
    places = np.concatenate((at, added))
    order = places.argsort(0, kind="stable")
    new = np.where(wanted, new, values[1:-1][some])
    return np.take_along_axis(places, order, 0), np.take_along_axis(np.concatenate((values, new)), order, 0)
