"""The outputs of a block, read off the states that its steps end with and off their records, and the transpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..field import Field
from ..linear import combine_rows, write_rows, write_spread
from ..method import Uniform
from .block import Block
from .sample_step import batch_first


class Read(NamedTuple):
    """Outputs that are states: their places among those of a block, the step, and the sample if samples differ."""

    place: Tensor
    step: Tensor
    sample: Tensor | None


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
            clock, (which, inside, step, fresh) = block.clock, block.lines
            most = [block.most[n] - (block.made[n] > 0) for n in self.inner]
            between = ~torch.tensor(block.exact, dtype=torch.bool, device=step.device)[step] & ~fresh
            which, inside, step = which[between], inside[between], step[between]
            t, dt = block.nodes.value[step], block.lengths[step]
            theta = (clock.requested(which) - t) / dt
            if clock.per_sample:
                theta = torch.where(inside, theta, 0.0)
                self.ends = dict(zip(self.inner, clock.wide(theta == 1.0).split(most), strict=True))
            weights = method.reading(field, clock.wide(t), clock.wide(dt), clock.wide(theta), y)
            each = len(weights) // len(step)
            self.weights = dict(zip(self.inner, weights.split([each * n for n in most]), strict=True))

    def anew(self, field: Field) -> Outputs:
        """Return the same for another field, as one with a graph."""
        return Outputs(self.method, field, self.y, self.block)

    def read(self, rows: Tensor, end: Tensor, fresh: tuple[Tensor, ...], record: tuple[Tensor, ...]) -> None:
        """Write the outputs to `rows` (n, *row).

        From the states that steps end with, (K, *y), those after updates, and the joined records.
        """
        for states, (places, steps, samples) in zip((end, *fresh), self._states, strict=False):
            if samples is None:
                rows.index_copy_(0, places, states.index_select(0, steps))
            else:
                rows.index_copy_(0, places, self._batch_first(states)[steps, samples])
        for n, place, inside in self._between():
            if inside is None:
                write_rows(rows[place], self.weights[n], self._columns(record[0], n))
            else:
                states = self._combined(record[0], n)
                rows[place] = self._batch_first(torch.where(self._exact(n), end[n], states))[inside]

    def weights_bar(self, rows_bar: Tensor, record: Tensor, wanted: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the cotangents of what the weights were made from."""
        pairs = []
        for n, place, inside in self._between():
            states = self._combined(record, n)
            if states.requires_grad:
                pairs.append((states, self._split(n, rows_bar[place], inside)[1]))
        if not pairs:
            return [None] * len(wanted)
        given, bars = zip(*pairs, strict=True)
        return list(torch.autograd.grad(given, wanted, bars, allow_unused=True, retain_graph=True))

    def spread(
        self, rows_bar: Tensor, size: int, record: bool
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the cotangents of what the outputs are read from, for `size` steps.

        Of the ends of steps, of the states after updates, and of records; the last two if there are any.
        """
        ends = rows_bar.new_zeros(size, *self.y.shape)
        fresh = () if self.block.which is None else (torch.zeros_like(ends),)
        records: tuple[Tensor, ...] = (rows_bar.new_empty(size * self.columns, *self.shape),) if record else ()
        for blank in records:
            blank[: len(self.block) * self.columns] = 0.0
        for bar, (places, steps, samples) in zip((ends, *fresh), self._states, strict=False):
            own = rows_bar.index_select(0, places)
            if samples is None:
                bar.index_add_(0, steps, own)
            else:
                self._batch_first(bar).index_put_((steps, samples), own, accumulate=True)
        for n, place, inside in self._between():
            at_end, inner = self._split(n, rows_bar[place], inside)
            if at_end is not None:
                ends[n] += at_end.sum(0)
            inner = inner.reshape(len(self.weights[n]), *self.shape)
            write_spread(self._columns(records[0], n), self.weights[n], inner)
        return ends, fresh, records

    @cached_property
    def _states(self) -> tuple[Read, Read]:
        """The outputs that are states as they stand: at the ends of steps that have no others, and after updates."""
        block, device = self.block, self.y.device
        if not block.clock.per_sample:
            ends, fresh, place = [], [], 0
            for n, (count, made) in enumerate(zip(block.counts, block.made, strict=True)):
                fresh += [(place, n)] * made
                ends += [(place + i, n) for i in range(made, count)] if block.exact[n] else []
                place += count
            pairs = (torch.tensor(x, dtype=torch.long, device=device).view(-1, 2).unbind(1) for x in (ends, fresh))
            at_ends, after = (Read(place, step, None) for place, step in pairs)
            return at_ends, after
        _, inside, step, updated = block.lines
        exact = torch.tensor(block.exact, dtype=torch.bool, device=device)[step]
        kinds = (inside & kind.unsqueeze(1) for kind in (exact & ~updated, updated))
        at_ends, after = (_read(kind, inside, step) for kind in kinds)
        return at_ends, after

    def _between(self) -> Iterator[tuple[int, slice, Tensor | None]]:
        """Yield the other steps, where their outputs are among those of the block, and who has which."""
        block = self.block
        for n in self.inner:
            row, line = sum(block.counts[:n]) + block.made[n], sum(block.most[:n]) + (block.made[n] > 0)
            last = sum(block.most[: n + 1])
            inside = block.lines.inside[line:last] if block.clock.per_sample else None
            yield n, slice(row, sum(block.counts[: n + 1])), inside

    def _columns(self, record: Tensor, n: int) -> Tensor:
        return record[n * self.columns : (n + 1) * self.columns]

    def _combined(self, record: Tensor, n: int) -> Tensor:
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


def _read(kind: Tensor, inside: Tensor, step: Tensor) -> Read:
    """Return which of the outputs (S, B) are of a kind."""
    line, sample = kind.nonzero().unbind(1)
    return Read(kind[inside].nonzero().squeeze(1), step[line], sample)
