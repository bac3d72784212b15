"""A block of accepted steps as it was written down, and which outputs fall into each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..clock import Clock, Node, Nodes, SampleClock
from ..method import Carry
from .jumps import Updates
from .sample_step import SampleStep
from .shared_step import SharedStep


class Lines(NamedTuple):
    """The outputs in a block, a line for each that some sample has in a step: which it is, (S,) or (S, B).

    Behind the requested times come the updates, which give out the states after them. `inside` says who has the output,
    `step` (S,) in which step it is, and `fresh` (S,) whether it is that of an update.
    """

    which: Tensor
    inside: Tensor
    step: Tensor
    fresh: Tensor


@dataclass(eq=False)
class Block:
    """K consecutive steps, each after the updates at its start; one after the last update of all has no length.

    Attributes
    ----------
    clock, nodes
        The ends of the steps, shape (K + 1,) or (K + 1, B).
    carry, fresh, record
        What the steps start from, that after the updates there, and their joined records, as far as these were kept:
        those of step n are ``carry[i][n]``.
    updates, which
        The updates of the solve, and which of them is made at the start of each step, (K,) or (K, B); -1: none.
    row
        How many requested times each node has behind it, like the nodes.
    most, counts, exact
        Of each step: how many outputs a sample has in it at most, how many all samples have together, and whether all
        but those of updates are the states that it ends with.
    made
        How many samples make an update at the start of each step.
    """

    clock: Clock | SampleClock
    nodes: Nodes
    carry: tuple[Tensor, ...] = ()
    fresh: tuple[Tensor, ...] = ()
    record: tuple[Tensor, ...] = ()
    updates: Updates | None = None
    which: Tensor | None = None

    def __post_init__(self) -> None:
        self.row, self.most, self.counts, self.exact = self.clock.passed(self.nodes.value)
        self.made = [0] * len(self.most)
        if self.which is not None:
            self.made = (self.which >= 0).view(len(self.which), -1).sum(1).tolist()
            self.most = [n + (k > 0) for n, k in zip(self.most, self.made, strict=True)]
            self.counts = [n + k for n, k in zip(self.counts, self.made, strict=True)]

    def __len__(self) -> int:
        return len(self.most)

    @cached_property
    def lengths(self) -> Tensor:
        """The lengths of the steps, (K,) or (K, B), zero where a sample waits."""
        return self.nodes.value.diff(dim=0)

    def spans(self, size: int) -> tuple[Tensor, Tensor]:
        """Return starts and lengths of `size` steps in the shape in which they meet the states; who waits has zero."""
        start, dt = self.nodes.value[:-1], self.lengths
        missing = start.new_zeros(size - len(self), *start.shape[1:])
        return self.clock.wide(torch.cat((start, missing))), self.clock.wide(torch.cat((dt, missing)))

    @cached_property
    def lines(self) -> Lines:
        """The outputs in the steps."""
        numbers = [(n, i) for n, most in enumerate(self.most) for i in range(most)]
        step, number = torch.tensor(numbers, dtype=torch.long, device=self.row.device).view(-1, 2).unbind(1)
        updated = torch.tensor([k > 0 for k in self.made], dtype=torch.bool, device=step.device)[step]
        fresh, number, count = updated & (number == 0), number - updated.long(), self.clock.times.shape[-1]
        wide = (-1, *[1] * (self.row.ndim - 1))
        which = self.row[step] + number.view(wide)
        inside = (which < self.row[step + 1]) & ~fresh.view(wide)
        which = which.clamp(max=count - 1)
        if self.which is not None:
            made = self.which[step].where(fresh.view(wide), -1)
            which, inside = torch.where(made >= 0, count + made, which), inside | (made >= 0)
        return Lines(which, inside, step, fresh)

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
        """Return what belongs to steps, without those in which nobody moves: updates."""
        if self.clock.per_sample:
            x = torch.where(self.lengths != 0, x, math.nan)
        x = x if self.which is None else x[self.moving]
        return [*x] if self.clock.per_sample else x.tolist()

    @property
    def places(self) -> list[Tensor]:
        """Where the outputs belong, in order: which of a sample's, (n, 2), or, with updates, which of all, (n,)."""
        if not self.rows or not (self.clock.per_sample or self.updates is not None):
            return []
        which, inside = self.lines[:2]
        if not self.clock.per_sample:
            return [which]
        samples = torch.arange(which.shape[-1], device=which.device).expand_as(which)
        return [torch.stack((which, samples), -1)[inside]]

    @cached_property
    def moving(self) -> Tensor:
        """In which of the steps somebody moves, (K,)."""
        return (self.lengths != 0).view(len(self), -1).any(1)

    @cached_property
    def steps(self) -> list[Any]:
        """The steps, and updates, one by one."""
        return self.first(len(self))

    def first(self, count: int) -> list[Any]:
        """Return the first steps, and updates, one by one."""
        carries = [tuple(buffer[n] for buffer in self.carry) for n in range(count)]
        return self._shared_steps(carries) if isinstance(self.clock, Clock) else self._sample_steps(carries)

    def _shared_steps(self, carries: list[Carry]) -> list[Any]:
        ends = [Node(t, a if a >= 0 else None) for t, a in zip(*(x.tolist() for x in self.nodes), strict=True)]
        steps: list[Any] = []
        rows = self.row.tolist()
        for n, (carry, start, end) in enumerate(zip(carries, ends, ends[1:], strict=False)):
            if self.made[n] and self.updates is not None and self.which is not None:
                steps.append(self.updates.jump(carry, start, self.which[n]))
                carry = tuple(buffer[n] for buffer in self.fresh)
            if start.value != end.value:
                steps.append(SharedStep(carry, start, end, rows[n], rows[n + 1]))
        return steps

    def _sample_steps(self, carries: list[Carry]) -> list[Any]:
        nodes = [Nodes(t, a) for t, a in zip(*self.nodes, strict=True)]
        which, inside = (x.split(self.most) for x in self.lines[:2])
        steps: list[Any] = []
        for n, (carry, moving) in enumerate(zip(carries, self.moving.tolist(), strict=False)):
            first = 0
            if self.made[n] and self.updates is not None and self.which is not None:
                steps.append(self.updates.jump(carry, nodes[n], self.which[n]))
                carry, first = tuple(buffer[n] for buffer in self.fresh), 1
            if moving:
                lines = which[n][first:], inside[n][first:]
                steps.append(SampleStep(carry, nodes[n], nodes[n + 1], self.lengths[n] != 0, *lines))
        return steps
