"""The outputs of a block of steps, read off its records, and the transpose of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .clock import Clock
from .field import Field
from .linear import combine_rows, spread_rows
from .method import Uniform
from .shared_step import SharedStep


class Outputs:
    """Which outputs fall into which of consecutive steps, and how they are read.

    A step whose only output is the state that it ends with gives out that state; others have their outputs as linear
    combinations of the columns of their records.
    """

    def __init__(self, method: Uniform, field: Field, y: Tensor, clock: Clock, steps: Sequence[SharedStep]) -> None:
        self.steps, self.shape = steps, method.record_shape(y)
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

    def read(self, rows: Tensor, end: Callable[[int], Tensor], record: Tensor | None) -> None:
        """Write the outputs to `rows` (n, *y), from the states end(n) that steps end with and the joined records."""
        for n in self.ends:
            rows[self._place(n)].copy_(end(n).unsqueeze(0))
        for n, states in self.read_inside(record) if record is not None else ():
            place = rows[self._place(n)]
            place.copy_(states.view(place.shape))

    def read_inside(self, record: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield steps with outputs read off their records, and these outputs, one part of a state after the other."""
        columns = self.shape[0]
        for n, weights in zip(self.inside, self.weights, strict=True):
            yield n, combine_rows(weights, record[n * columns : (n + 1) * columns])

    def weights_bar(self, rows_bar: Tensor, record: Tensor, wanted: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the cotangents of what the weights were made from."""
        pairs = [
            (states, rows_bar[self._place(n)].reshape(states.shape))
            for n, states in self.read_inside(record)
            if states.requires_grad
        ]
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
        columns, *shape = self.shape
        records = rows_bar.new_empty(size * columns, *shape)
        records[: len(self.steps) * columns] = 0.0
        for n, weights in zip(self.inside, self.weights, strict=True):
            bar = rows_bar[self._place(n)].reshape(len(weights), *shape)
            records[n * columns : (n + 1) * columns] = spread_rows(weights, bar)
        return ends, (records,)

    def _place(self, n: int) -> slice:
        return slice(self.steps[n].first - self.first, self.steps[n].last - self.first)
