"""The outputs of a block of steps, read off its records, and the transpose of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .clock import Clock
from .field import Field
from .linear import combine_rows, write_rows, write_spread
from .method import Uniform
from .sample_outputs import SampleOutputs
from .shared_step import SharedStep


class Outputs:
    """Which outputs fall into which of consecutive steps, and how they are read.

    A step whose only output is the state that it ends with gives out that state; others have their outputs as linear
    combinations of the columns of their records.
    """

    def __init__(self, method: Uniform, field: Field, y: Tensor, clock: Clock, steps: Sequence[SharedStep]) -> None:
        self.method, self.y, self.clock, self.steps = method, y, clock, steps
        self.shape = method.record_shape(y)
        self.first = steps[0].first if steps else 0
        self.count = sum(step.rows for step in steps)
        self.ends = [n for n, step in enumerate(steps) if step.at_end(clock)]
        self.inside = [n for n, step in enumerate(steps) if step.rows and not step.at_end(clock)]
        theta, spans = [], []
        for n in self.inside:
            start, span = steps[n].start.value, steps[n].end.value - steps[n].start.value
            times = clock.values[steps[n].first : steps[n].last]
            theta += [(t - start) / span for t in times]
            spans += [span] * len(times)
        self.weights: tuple[Tensor, ...] = ()
        if theta:
            at, dt = (torch.tensor(x, dtype=torch.float64, device=y.device) for x in (theta, spans))
            weights = method.reading(field, at, dt, y)
            each = len(weights) // len(theta)
            self.weights = weights.split([each * steps[n].rows for n in self.inside])

    def anew(self, field: Field) -> Outputs:
        """Return the same for another field, as one with a graph."""
        return Outputs(self.method, field, self.y, self.clock, self.steps)

    def read(self, rows: Tensor, end: Callable[[int], Tensor], record: Tensor | None) -> None:
        """Write the outputs to `rows` (n, *y), from the states end(n) that steps end with and the joined records."""
        for n in self.ends:
            rows[self._place(n)].copy_(end(n).unsqueeze(0))
        for n, weights, columns in self._inside(record) if record is not None else ():
            write_rows(rows[self._place(n)], weights, columns)

    def weights_bar(self, rows_bar: Tensor, record: Tensor, wanted: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the cotangents of what the weights were made from."""
        read = [(n, combine_rows(weights, columns)) for n, weights, columns in self._inside(record)]
        pairs = [(x, rows_bar[self._place(n)].reshape(x.shape)) for n, x in read if x.requires_grad]
        if not pairs:
            return [None] * len(wanted)
        states, bars = zip(*pairs, strict=True)
        return list(torch.autograd.grad(states, wanted, bars, allow_unused=True, retain_graph=True))

    def spread(self, rows_bar: Tensor, size: int, record: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the cotangents of the ends of steps, and of their records if they have any, for `size` steps."""
        ends = rows_bar.new_empty(size, *rows_bar.shape[1:])
        ends[: len(self.steps)] = 0.0
        for n in self.ends:
            ends[n] = rows_bar[self._place(n)][0]
        if not record:
            return ends, ()
        count, *shape = self.shape
        records = rows_bar.new_empty(size * count, *shape)
        records[: len(self.steps) * count] = 0.0
        for n, weights, columns in self._inside(records):
            write_spread(columns, weights, rows_bar[self._place(n)].reshape(len(weights), *shape))
        return ends, (records,)

    def _inside(self, record: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield steps whose outputs are read off their records: which, the weights, and the columns of the record."""
        count = self.shape[0]
        for n, weights in zip(self.inside, self.weights, strict=True):
            yield n, weights, record[n * count : (n + 1) * count]

    def _place(self, n: int) -> slice:
        return slice(self.steps[n].first - self.first, self.steps[n].last - self.first)


class Block(NamedTuple):
    """The carries of consecutive steps, joined: those of step n are ``carry[i][n]``, for n below `filled`.

    `outputs` says how the outputs in them are read; `record` has the records that they are read off, joined too, where
    these were to be kept.
    """

    carry: tuple[Tensor, ...]
    filled: int
    outputs: Outputs | SampleOutputs
    record: tuple[Tensor, ...] = ()
