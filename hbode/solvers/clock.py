"""The time grid: its points as functions of the requested times."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Node(NamedTuple):
    """A point of the time grid: ``times[anchor] + constant``, or a constant where `anchor` is None."""

    value: float
    anchor: int | None


class Passed(NamedTuple):
    """How many requested times lie behind points of the grid, (n,) or (n, B), and what lies in each interval between.

    How many of them a sample has there at most, how many all samples have together, and whether all are at its end.
    """

    row: Tensor
    most: list[int]
    counts: list[int]
    exact: list[bool]


def constant(times: Tensor) -> bool:
    """Return whether no derivative reaches the times, backwards or, as far as can be told, in forward mode."""
    return not times.requires_grad and torch.autograd.forward_ad._current_level < 0


def _blanked(rows: Tensor, missing: Tensor) -> Tensor:
    """Return rows with NaN where they are missing."""
    return torch.where(missing.view(*missing.shape, *[1] * (rows.ndim - missing.ndim)), math.nan, rows)


@dataclass(frozen=True)
class Clock:
    """The requested times, shape (T,) in float64, and the nodes of the grid as functions of them.

    The controller's choices count as constants: a node keeps its distance from the requested time that it was
    measured from. That makes the gradient with respect to the times exact for the grid that was used.
    """

    times: Tensor
    values: tuple[float, ...]
    per_sample = False
    ndim = 0

    @classmethod
    def of(cls, times: Tensor) -> Clock:
        return cls(times, tuple(times.tolist()))

    @cached_property
    def constant(self) -> bool:
        """Whether no derivative reaches the times."""
        return constant(self.times)

    def start(self) -> Tensor:
        """Return the first time, shape ()."""
        return self.times[0]

    @property
    def origin(self) -> float | None:
        """The first time, or None where samples have their own."""
        return self.values[0]

    def fold(self, rows: Tensor, places: Sequence[Tensor]) -> Tensor:
        """Return the sum of the rows (n, *y) that show the initial state, shape (*y)."""
        return rows.sum(0)

    def place(self, rows: Tensor, places: Sequence[Tensor], updates: int = 0) -> Tensor:
        """Return the rows of a tape, shape (T + K, *y), NaN where they were not reached.

        At the requested times, where K updates show the states before, and after the updates.
        """
        if places:
            blank = rows.new_full((len(self.values) + updates, *rows.shape[1:]), math.nan)
            return blank.index_put((torch.cat(list(places)).to(rows.device),), rows)
        missing = len(self.values) - len(rows)
        return rows if not missing else torch.cat((rows, rows.new_full((missing, *rows.shape[1:]), math.nan)))

    def pick(self, rows: Tensor, index: Tensor) -> Tensor:
        """Return some of the rows (n, *y), by number, shape (k, *y); NaN for -1."""
        return _blanked(rows[index.clamp(min=0)], index < 0)

    def requested(self, index: Tensor) -> Tensor:
        """Return requested times, in the shape of the index, without a graph."""
        return self.times.detach()[index]

    def wide(self, x: Tensor) -> Tensor:
        """Return what is in the shape in which it meets the state: one number for all of it."""
        return x

    @cached_property
    def sign(self) -> float:
        """The direction of time, ±1."""
        return 1.0 if self.values[-1] >= self.values[0] else -1.0

    def passed(self, points: Tensor) -> Passed:
        """Return what lies between points of the grid, (n,)."""
        sign, ends = self.sign, points.tolist()
        keys = self.values if sign > 0 else [-t for t in self.values]
        row = [bisect_right(keys, sign * t) for t in ends]
        at_end = [n - bisect_left(keys, sign * t) for n, t in zip(row, ends, strict=True)]
        most = [b - a for a, b in pairwise(row)]
        exact = [n <= m for n, m in zip(most, at_end[1:], strict=True)]
        return Passed(torch.tensor(row, device=points.device), most, most, exact)

    def samples(self, y: Tensor) -> Tensor:
        """Return a state as those of N = 1 samples, (N, *row)."""
        return y.unsqueeze(0)

    def at(self, node: Node) -> Tensor:
        """Return the time of a node, shape ()."""
        if node.anchor is None or self.constant:
            return torch.scalar_tensor(node.value, dtype=torch.float64, device=self.times.device)
        return self.times[node.anchor] + (node.value - self.values[node.anchor])

    def span(self, start: Node, end: Node) -> Tensor:
        """Return the length of a step, shape ()."""
        if self.constant:
            return torch.scalar_tensor(end.value - start.value, dtype=torch.float64, device=self.times.device)
        return self.at(end) - self.at(start)

    def fractions(self, start: Node, end: Node, first: int, last: int) -> Tensor:
        """Return where times[first:last] fall in a step, 0 at its start and 1 at its end, shape (n,)."""
        if self.constant:
            length = end.value - start.value
            theta = [(t - start.value) / length for t in self.values[first:last]]
            return torch.tensor(theta, dtype=torch.float64, device=self.times.device)
        return (self.times[first:last] - self.at(start)) / self.span(start, end)


class Nodes(NamedTuple):
    """A point of every sample's grid, (B,) each: ``times[b, anchor]`` plus a constant; a constant for anchor -1.

    Or several, with a leading axis; of a batch that steps as one, they have no other.
    """

    value: Tensor
    anchor: Tensor

    def where(self, mask: Tensor, other: Nodes) -> Nodes:
        """Return these nodes where `mask`, the others elsewhere."""
        return Nodes(torch.where(mask, self.value, other.value), torch.where(mask, self.anchor, other.anchor))


@dataclass(frozen=True)
class SampleClock:
    """The requested times, shape (B, T) in float64, and the grids as functions of them (see `Clock`).

    `ndim` is the number of axes of h: times and steps meet the state with shape (B, 1, …, 1).
    """

    times: Tensor
    ndim: int
    per_sample = True

    @property
    def constant(self) -> bool:
        """Whether no derivative reaches the times."""
        return constant(self.times)

    def start(self) -> Tensor:
        """Return the first times, shape (B, 1, …, 1)."""
        return self.wide(self.times[:, 0])

    def fold(self, rows: Tensor, places: Sequence[Tensor]) -> Tensor:
        """Return the sums of the rows (n, *row) that show the initial states, shape (*y)."""
        first = rows.new_zeros((len(self.times), *rows.shape[1:])).index_add(0, places[0][:, 1], rows)
        return first.movedim(0, first.ndim - self.ndim)

    origin = None

    def place(self, rows: Tensor, places: Sequence[Tensor], updates: int = 0) -> Tensor:
        """Return the rows of a tape, shape (T + K, *y), NaN where they were not reached (see `Clock.place`)."""
        batch, count = self.times.shape
        at = torch.cat(list(places))
        blank = rows.new_full((count + updates, batch, *rows.shape[1:]), math.nan)
        full = blank.index_put((at[:, 0], at[:, 1]), rows)
        return full.movedim(1, full.ndim - self.ndim)

    def pick(self, rows: Tensor, index: Tensor) -> Tensor:
        """Return some of the rows (n, *y) of every sample, by numbers (B, k), shape (k, *y); NaN for -1."""
        axis = rows.ndim - self.ndim
        given = rows.movedim(axis, 1)[index.T.clamp(min=0), torch.arange(len(index), device=rows.device)]
        return _blanked(given, index.T < 0).movedim(1, axis)

    def requested(self, index: Tensor) -> Tensor:
        """Return requested times of every sample, shape (n, B) like the index, without a graph."""
        return self.times.detach().gather(1, index.T).T

    @cached_property
    def sign(self) -> Tensor:
        """The directions of time, ±1, (B,)."""
        times = self.times.detach()
        return torch.where(times[:, -1] >= times[:, 0], 1.0, -1.0).to(times)

    def passed(self, points: Tensor) -> Passed:
        """Return what lies between points of the grids, (n, B)."""
        direction = self.sign.unsqueeze(1)
        ends, times = (points.T * direction).contiguous(), self.times.detach() * direction
        row = torch.searchsorted(times, ends, right=True).T
        passed, at_end = row.diff(dim=0), (row - torch.searchsorted(times, ends).T)[1:]
        most, counts, exact = torch.stack((passed.amax(1), passed.sum(1), (passed <= at_end).all(1).long())).tolist()
        return Passed(row, most, counts, [bool(x) for x in exact])

    def at(self, nodes: Nodes) -> Tensor:
        """Return the times of the nodes, shape (B,)."""
        if self.constant:
            return nodes.value
        tied = self.times.gather(1, nodes.anchor.clamp(min=0).unsqueeze(1)).squeeze(1)
        return torch.where(nodes.anchor >= 0, nodes.value + (tied - tied.detach()), nodes.value)

    def wide(self, x: Tensor) -> Tensor:
        """Give (…, B) the shape (…, B, 1, …, 1) in which it meets the state."""
        return x.reshape(*x.shape, *[1] * (self.ndim - 1))

    def samples(self, y: Tensor) -> Tensor:
        """Return the states of samples, (B, *row)."""
        return y.movedim(y.ndim - self.ndim, 0)
