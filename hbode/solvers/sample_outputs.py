"""The outputs of steps of samples that step by themselves, read off records, and the transpose of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .clock import SampleClock
from .field import Field
from .linear import combine_rows, write_spread
from .method import Uniform
from .sample_step import SampleStep, batch_first


class Reading(NamedTuple):
    """How the outputs in step n are read: K rows in the order of `inside`, weights of the columns of its record.

    `exact`, in the shape in which it meets the states (m, *y), says which are the state that the step ends with.
    """

    n: int
    rows: slice
    inside: Tensor
    exact: Tensor
    weights: Tensor


class SampleOutputs:
    """Which outputs fall into which of consecutive steps, and how they are read, as in `Outputs`.

    `counts` says how many rows each step has.
    """

    def __init__(
        self,
        method: Uniform,
        field: Field,
        y: Tensor,
        clock: SampleClock,
        steps: Sequence[SampleStep],
        counts: Sequence[int],
    ) -> None:
        self.method, self.y, self.clock, self.steps, self.counts = method, y, clock, steps, counts
        self.axes = clock.ndim
        self.columns, *self.shape = method.record_shape(y)
        self.count = sum(counts)
        self.readings = self.inside = list[Reading]()
        row = 0
        for n, (step, count) in enumerate(zip(steps, counts, strict=True)):
            if not count:
                continue
            start, end = step.start.value, step.end.value
            at = clock.times.detach().gather(1, step.index.T).T  # (m, B)
            dt = torch.where(step.moved, end - start, torch.zeros_like(start))
            theta = torch.where(step.inside, (at - start) / torch.where(step.moved, dt, 1.0), 0.0)
            weights = method.reading(field, clock.wide(theta), clock.wide(dt.expand_as(theta)), y)
            exact = clock.wide(theta == 1.0)
            exact = exact.view(len(exact), *[1] * (y.ndim - self.axes), *exact.shape[1:])
            self.readings.append(Reading(n, slice(row, row + count), step.inside, exact, weights))
            row += count

    def anew(self, field: Field) -> SampleOutputs:
        """Return the same for another field, as one with a graph."""
        return SampleOutputs(self.method, field, self.y, self.clock, self.steps, self.counts)

    def read(self, end: Callable[[int], Tensor], record: Tensor) -> Tensor:
        """Return the outputs (K, *row), from the states end(n) that steps end with and the joined records."""
        blocks = [self.y.new_empty((0, *batch_first(self.y, self.axes).shape[1:]))]
        for reading, states in self._states(record):
            states = torch.where(reading.exact, end(reading.n), states)
            blocks.append(batch_first(states, self.axes, lead=1)[reading.inside])
        return torch.cat(blocks)

    def weights_bar(self, rows_bar: Tensor, record: Tensor, wanted: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the cotangents of what the weights were made from."""
        pairs = [
            (states, torch.where(reading.exact, 0.0, self._bar(reading, rows_bar)))
            for reading, states in self._states(record)
            if states.requires_grad
        ]
        if not pairs:
            return [None] * len(wanted)
        states, bars = zip(*pairs, strict=True)
        return list(torch.autograd.grad(states, wanted, bars, allow_unused=True, retain_graph=True))

    def spread(self, rows_bar: Tensor, size: int, record: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the cotangents of the ends of steps, and of their records if they have any, for `size` steps."""
        ends = rows_bar.new_zeros(size, *self.y.shape)
        records = rows_bar.new_zeros(size * self.columns, *self.shape)
        for reading in self.readings:
            bar = self._bar(reading, rows_bar)
            ends[reading.n] = torch.where(reading.exact, bar, 0.0).sum(0)
            inner = torch.where(reading.exact, 0.0, bar).reshape(len(reading.weights), *self.shape)
            write_spread(self._columns(records, reading.n), reading.weights, inner)
        return ends, (records,)

    def _states(self, record: Tensor) -> Iterator[tuple[Reading, Tensor]]:
        for reading in self.readings:
            states = combine_rows(reading.weights, self._columns(record, reading.n))
            yield reading, states.view(len(reading.exact), *self.y.shape)

    def _columns(self, record: Tensor, n: int) -> Tensor:
        return record[n * self.columns : (n + 1) * self.columns]

    def _bar(self, reading: Reading, rows_bar: Tensor) -> Tensor:
        """Return the cotangents of the states (m, *y) that the rows of a step were taken from."""
        bar = rows_bar.new_zeros(*reading.inside.shape, *rows_bar.shape[1:])
        bar[reading.inside] = rows_bar[reading.rows]
        return bar.movedim(1, bar.ndim - self.axes)
