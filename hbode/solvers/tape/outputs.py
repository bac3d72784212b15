"""A block of accepted steps as it was written down, its outputs read off its records, and the transpose of that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..clock import Clock, Node, Nodes, SampleClock
from ..field import Field
from ..linear import combine_rows, write_rows, write_spread
from ..method import Uniform
from .sample_step import SampleStep, batch_first
from .shared_step import SharedStep


class Window(NamedTuple):
    """The outputs of a block, M for the sample that has most in each step: which, shape (M,) or (M, B).

    `inside` says which there are, `step` (M,) the step that they fall into.
    """

    which: Tensor
    inside: Tensor
    step: Tensor


@dataclass(frozen=True)
class Block:
    """K consecutive steps.

    Attributes
    ----------
    clock, nodes
        The ends of the steps, shape (K + 1,) or (K + 1, B).
    row
        How many outputs each node has behind it, like the nodes.
    most, counts, exact
        Of each step: how many outputs a sample has in it at most, how many all samples have together, and whether all
        of these are the states that it ends with.
    carry, record
        What the steps start from, and their joined records, if these were kept: those of step n are ``carry[i][n]``.
    """

    clock: Clock | SampleClock
    nodes: Nodes
    row: Tensor
    most: list[int]
    counts: list[int]
    exact: list[bool]
    carry: tuple[Tensor, ...]
    record: tuple[Tensor, ...] = ()

    @classmethod
    def of(
        cls,
        clock: Clock | SampleClock,
        nodes: Nodes,
        sign: Tensor,
        carry: tuple[Tensor, ...] = (),
        record: tuple[Tensor, ...] = (),
    ) -> Block:
        """Return the block with these nodes, in the directions `sign` of time."""
        direction = sign.unsqueeze(-1)
        ends, times = (nodes.value.movedim(0, -1) * direction).contiguous(), clock.times.detach() * direction
        row = torch.searchsorted(times, ends, right=True).movedim(-1, 0)
        before = torch.searchsorted(times, ends).movedim(-1, 0)
        passed = row.diff(dim=0).flatten(1) if row.ndim > 1 else row.diff(dim=0).unsqueeze(1)
        at_end = (row - before)[1:].view(passed.shape)
        most, counts, exact = torch.stack((passed.amax(1), passed.sum(1), (passed <= at_end).all(1).long())).tolist()
        return cls(clock, nodes, row, most, counts, [bool(x) for x in exact], carry, record)

    def __len__(self) -> int:
        return len(self.most)

    @property
    def lengths(self) -> Tensor:
        """The lengths of the steps, (K,) or (K, B), zero where a sample waits."""
        return self.nodes.value.diff(dim=0)

    def spans(self, size: int) -> tuple[Tensor, Tensor]:
        """Return starts and lengths of `size` steps in the shape in which they meet the states; who waits has zero."""
        start, dt = self.nodes.value[:-1], self.lengths
        missing = start.new_zeros(size - len(self), *start.shape[1:])
        return self.clock.wide(torch.cat((start, missing))), self.clock.wide(torch.cat((dt, missing)))

    @cached_property
    def window(self) -> Window:
        """The outputs in the steps."""
        numbers = [(n, i) for n, most in enumerate(self.most) for i in range(most)]
        step, place = torch.tensor(numbers, dtype=torch.long, device=self.row.device).view(-1, 2).unbind(1)
        place = place.view(-1, *[1] * (self.row.ndim - 1))
        index = self.row[step] + place
        return Window(index.clamp(max=self.clock.times.shape[-1] - 1), index < self.row[step + 1], step)

    @property
    def rows(self) -> int:
        """How many outputs the block has."""
        return sum(self.counts)

    @property
    def t(self) -> list[Any]:
        """The starts of the steps: numbers, or (B,) with NaN where a sample waits."""
        return self._listed(self.nodes.value[:-1])

    @property
    def dt(self) -> list[Any]:
        """The lengths of the steps, likewise."""
        return self._listed(self.lengths)

    def _listed(self, x: Tensor) -> list[Any]:
        return [*torch.where(self.lengths != 0, x, math.nan)] if self.clock.per_sample else x.tolist()

    @property
    def places(self) -> list[Tensor]:
        """Of samples with times of their own: which time of which sample each output is, in order, (n, 2)."""
        if not (self.clock.per_sample and self.rows):
            return []
        index, inside, _ = self.window
        samples = torch.arange(index.shape[-1], device=index.device).expand_as(index)
        return [torch.stack((index, samples), -1)[inside]]

    @cached_property
    def steps(self) -> list[Any]:
        """The steps one by one."""
        carries = [tuple(buffer[n] for buffer in self.carry) for n in range(len(self))]
        if isinstance(self.clock, Clock):
            ends = [Node(t, a if a >= 0 else None) for t, a in zip(*(x.tolist() for x in self.nodes), strict=True)]
            rows = self.row.tolist()
            return [SharedStep(*x) for x in zip(carries, ends, ends[1:], rows, rows[1:], strict=False)]
        nodes = [Nodes(t, a) for t, a in zip(*self.nodes, strict=True)]
        windows = (x.split(self.most) for x in self.window[:2])
        return [SampleStep(*x) for x in zip(carries, nodes, nodes[1:], self.lengths != 0, *windows, strict=False)]


class Outputs:
    """How the outputs in a block are read: as the states that steps end with, or as combinations of their records.

    Attributes
    ----------
    weights
        Those of the columns of the record, for each step; empty where no output is read off one.
    """

    def __init__(self, method: Uniform, field: Field, y: Tensor, block: Block) -> None:
        self.method, self.y, self.block = method, y, block
        self.columns, *self.shape = method.record_shape(y)
        self.weights: tuple[Tensor, ...] = ()
        self.inner = [bool(most) and not exact for most, exact in zip(block.most, block.exact, strict=True)]
        if any(self.inner):
            clock, (which, inside, step) = block.clock, block.window
            dt = block.lengths[step]
            theta = (clock.requested(which) - block.nodes.value[step]) / dt
            if clock.per_sample:
                theta = torch.where(inside, theta, 0.0)
            self.ends = theta == 1.0
            weights = method.reading(field, clock.wide(theta), clock.wide(dt), y)
            each = len(weights) // len(step)
            self.weights = weights.split([each * most for most in block.most])

    def anew(self, field: Field) -> Outputs:
        """Return the same for another field, as one with a graph."""
        return Outputs(self.method, field, self.y, self.block)

    def read(self, rows: Tensor, end: Sequence[Tensor], record: tuple[Tensor, ...]) -> None:
        """Write the outputs to `rows` (n, *row), from the states that steps end with and the joined records."""
        for n, place in self._places():
            if not self.inner[n]:
                rows[place] = self._flat(n, end[n].expand(self.block.most[n], *self.y.shape))
            elif not self.block.clock.per_sample:
                write_rows(rows[place], self.weights[n], self._columns(record[0], n))
            else:
                states = combine_rows(self.weights[n], self._columns(record[0], n)).view(-1, *self.y.shape)
                rows[place] = self._flat(n, torch.where(self._exact(n), end[n], states))

    def weights_bar(self, rows_bar: Tensor, record: Tensor, wanted: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the cotangents of what the weights were made from."""
        pairs = []
        for n, place in self._places():
            if self.inner[n]:
                states = combine_rows(self.weights[n], self._columns(record, n)).view(-1, *self.y.shape)
                pairs.append((states, self._split(n, rows_bar[place])[1]))
        pairs = [(states, bar) for states, bar in pairs if states.requires_grad]
        if not pairs:
            return [None] * len(wanted)
        given, bars = zip(*pairs, strict=True)
        return list(torch.autograd.grad(given, wanted, bars, allow_unused=True, retain_graph=True))

    def spread(self, rows_bar: Tensor, size: int, record: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the cotangents of the ends of steps, and of their records if they have any, for `size` steps."""
        ends = rows_bar.new_empty(size, *self.y.shape)
        ends[: len(self.block)] = 0.0
        records: tuple[Tensor, ...] = (rows_bar.new_empty(size * self.columns, *self.shape),) if record else ()
        for blank in records:
            blank[: len(self.block) * self.columns] = 0.0
        for n, place in self._places():
            at_end, inner = self._split(n, rows_bar[place])
            if at_end is not None:
                torch.sum(at_end, 0, out=ends[n])
            if inner is not None:
                inner = inner.reshape(len(self.weights[n]), *self.shape)
                write_spread(self._columns(records[0], n), self.weights[n], inner)
        return ends, records

    def _places(self) -> Iterator[tuple[int, slice]]:
        """Yield the steps that have outputs, and where among those of the block these are."""
        row = 0
        for n, count in enumerate(self.block.counts):
            if count:
                yield n, slice(row, row + count)
            row += count

    def _columns(self, record: Tensor, n: int) -> Tensor:
        return record[n * self.columns : (n + 1) * self.columns]

    def _part(self, x: Tensor, n: int) -> Tensor:
        """Return the part of step n of what the window holds."""
        first = sum(self.block.most[:n])
        return x[first : first + self.block.most[n]]

    def _exact(self, n: int) -> Tensor:
        """Return which of the states (m, *y) of step n are the one that it ends with, in their shape."""
        exact = self.block.clock.wide(self._part(self.ends, n))
        return exact.view(len(exact), *[1] * (self.y.ndim + 1 - exact.ndim), *exact.shape[1:])

    def _flat(self, n: int, states: Tensor) -> Tensor:
        """Return the rows (count, *row) that states (m, *y) of step n are."""
        clock = self.block.clock
        if isinstance(clock, Clock):
            return states
        return batch_first(states, clock.ndim, lead=1)[self._part(self.block.window.inside, n)]

    def _split(self, n: int, rows_bar: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the cotangents (m, *y) of states at the end of step n, and of those inside it."""
        clock = self.block.clock
        if not isinstance(clock, Clock):
            inside = self._part(self.block.window.inside, n)
            bar = rows_bar.new_zeros(*inside.shape, *rows_bar.shape[1:])
            bar[inside] = rows_bar
            rows_bar = bar.movedim(1, bar.ndim - clock.ndim)
            if self.inner[n]:
                exact = self._exact(n)
                return torch.where(exact, rows_bar, 0.0), torch.where(exact, 0.0, rows_bar)
        return (None, rows_bar) if self.inner[n] else (rows_bar, None)
