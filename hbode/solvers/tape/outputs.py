"""The outputs of a block, read off the states that its steps end with and off their records, and the transpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from ..field import Field
from ..linear import combine_rows, write_rows, write_spread
from ..method import Uniform
from .block import Block
from .sample_step import batch_first


class Outputs:
    """How the outputs in a block are read: as the states that steps end with, or as combinations of their records.

    Attributes
    ----------
    inner
        Which steps have outputs that are read off their records.
    weights
        Those of the columns of the record, for each of these steps.
    """

    def __init__(self, method: Uniform, field: Field, y: Tensor, block: Block) -> None:
        self.method, self.y, self.block = method, y, block
        self.columns, *self.shape = method.record_shape(y)
        self.axes = block.clock.ndim
        self.inner = [n for n, exact in enumerate(block.exact) if not exact]
        self.weights: dict[int, Tensor] = {}
        self.ends: dict[int, Tensor] = {}
        if self.inner:
            clock, (which, inside, step) = block.clock, block.lines
            count, most = clock.times.shape[-1], [block.most[n] for n in self.inner]
            if len(self.inner) < len(block):
                between = torch.isin(step, torch.tensor(self.inner, device=step.device))
                which, inside, step = which[between], inside[between], step[between]
            dt = block.lengths[step]
            theta = (clock.requested(which.clamp(max=count - 1)) - block.nodes.value[step]) / dt
            if clock.per_sample:
                theta = torch.where(inside, theta, 0.0).where(which < count, 1.0)
                self.ends = dict(zip(self.inner, clock.wide(theta == 1.0).split(most), strict=True))
            weights = method.reading(field, clock.wide(theta), clock.wide(dt), y)
            each = len(weights) // len(step)
            self.weights = dict(zip(self.inner, weights.split([each * n for n in most]), strict=True))

    def anew(self, field: Field) -> Outputs:
        """Return the same for another field, as one with a graph."""
        return Outputs(self.method, field, self.y, self.block)

    def read(self, rows: Tensor, end: Tensor, record: tuple[Tensor, ...]) -> None:
        """Write the outputs to `rows` (n, *row), from the states that steps end with, (K, *y), and joined records."""
        if not self.block.rows:
            return
        places, steps, samples = self._at_ends
        if samples is None:
            rows.index_copy_(0, places, end.index_select(0, steps))
        else:
            rows.index_copy_(0, places, self._batch_first(end)[steps, samples])
        for n, place, inside in self._between():
            if inside is None:
                write_rows(rows[place], self.weights[n], self._columns(record[0], n))
            else:
                states = self._states(record[0], n)
                rows[place] = self._batch_first(torch.where(self._exact(n), end[n], states))[inside]

    def weights_bar(self, rows_bar: Tensor, record: Tensor, wanted: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the cotangents of what the weights were made from."""
        pairs = []
        for n, place, inside in self._between():
            states = self._states(record, n)
            if states.requires_grad:
                pairs.append((states, self._split(n, rows_bar[place], inside)[1]))
        if not pairs:
            return [None] * len(wanted)
        given, bars = zip(*pairs, strict=True)
        return list(torch.autograd.grad(given, wanted, bars, allow_unused=True, retain_graph=True))

    def spread(self, rows_bar: Tensor, size: int, record: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the cotangents of the ends of steps, and of their records if they have any, for `size` steps."""
        ends = rows_bar.new_zeros(size, *self.y.shape)
        records: tuple[Tensor, ...] = (rows_bar.new_empty(size * self.columns, *self.shape),) if record else ()
        for blank in records:
            blank[: len(self.block) * self.columns] = 0.0
        if not self.block.rows:
            return ends, records
        places, steps, samples = self._at_ends
        if samples is None:
            ends.index_add_(0, steps, rows_bar.index_select(0, places))
        else:
            self._batch_first(ends).index_put_((steps, samples), rows_bar.index_select(0, places), accumulate=True)
        for n, place, inside in self._between():
            at_end, inner = self._split(n, rows_bar[place], inside)
            if at_end is not None:
                ends[n] += at_end.sum(0)
            inner = inner.reshape(len(self.weights[n]), *self.shape)
            write_spread(self._columns(records[0], n), self.weights[n], inner)
        return ends, records

    @cached_property
    def _at_ends(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """The outputs of steps that have none but the state that they end with: place, step, and sample if told."""
        block, device = self.block, self.y.device
        if not block.clock.per_sample:
            steps = [n for n, count in enumerate(block.counts) for _ in range(count)]
            pairs = [(place, n) for place, n in enumerate(steps) if block.exact[n]]
            places, at = torch.tensor(pairs, dtype=torch.long, device=device).view(-1, 2).unbind(1)
            return places, at, None
        _, inside, step = block.lines
        at_end = inside & torch.tensor(block.exact, device=device)[step].unsqueeze(1)
        line, sample = at_end.nonzero().unbind(1)
        return at_end[inside].nonzero().squeeze(1), step[line], sample

    def _between(self) -> Iterator[tuple[int, slice, Tensor | None]]:
        """Yield the other steps, where their outputs are among those of the block, and who has which."""
        block = self.block
        for n in self.inner:
            row, line = sum(block.counts[:n]), sum(block.most[:n])
            inside = block.lines.inside[line : line + block.most[n]] if block.clock.per_sample else None
            yield n, slice(row, row + block.counts[n]), inside

    def _columns(self, record: Tensor, n: int) -> Tensor:
        return record[n * self.columns : (n + 1) * self.columns]

    def _states(self, record: Tensor, n: int) -> Tensor:
        """Return the states (m, *y) that the record of step n gives at its outputs."""
        return combine_rows(self.weights[n], self._columns(record, n)).view(-1, *self.y.shape)

    def _exact(self, n: int) -> Tensor:
        """Return which of the states (m, *y) of step n are the one that it ends with, in their shape."""
        exact = self.ends[n]
        return exact.view(len(exact), *[1] * (self.y.ndim + 1 - exact.ndim), *exact.shape[1:])

    def _batch_first(self, states: Tensor) -> Tensor:
        return batch_first(states, self.axes, lead=1)

    def _split(self, n: int, rows_bar: Tensor, inside: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Return the cotangents (m, *y) of states at the end of step n, and of those inside it."""
        if inside is None:
            return None, rows_bar
        bar = rows_bar.new_zeros(*inside.shape, *rows_bar.shape[1:])
        bar[inside] = rows_bar
        bar, exact = bar.movedim(1, bar.ndim - self.axes), self._exact(n)
        return torch.where(exact, bar, 0.0), torch.where(exact, 0.0, bar)
