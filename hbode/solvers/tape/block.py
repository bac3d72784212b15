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
    and `step` (S,) in which step it is.
    """

    which: Tensor
    inside: Tensor
    step: Tensor


@dataclass(frozen=True)
class Block:
    """K consecutive steps, and updates, which are steps of no length.

    Attributes
    ----------
    clock, nodes
        The ends of the steps, shape (K + 1,) or (K + 1, B).
    row
        How many requested times each node has behind it, like the nodes.
    most, counts, exact
        Of each step: how many outputs a sample has in it at most, how many all samples have together, and whether all
        of these are the states that it ends with.
    carry, record
        What the steps start from, and their joined records, if these were kept: those of step n are ``carry[i][n]``.
    updates, which
        The updates of the solve, and which of them is made in each step, (K,) or (K, B); -1: none.
    """

    clock: Clock | SampleClock
    nodes: Nodes
    row: Tensor
    most: list[int]
    counts: list[int]
    exact: list[bool]
    carry: tuple[Tensor, ...]
    record: tuple[Tensor, ...] = ()
    updates: Updates | None = None
    which: Tensor | None = None

    @classmethod
    def of(
        cls,
        clock: Clock | SampleClock,
        nodes: Nodes,
        carry: tuple[Tensor, ...] = (),
        record: tuple[Tensor, ...] = (),
        updates: Updates | None = None,
        which: Tensor | None = None,
    ) -> Block:
        """Return the block with these nodes."""
        row, most, counts, exact = clock.passed(nodes.value)
        if which is not None:
            made = (which >= 0).view(len(which), -1).sum(1).tolist()
            most = [n + (k > 0) for n, k in zip(most, made, strict=True)]
            counts = [n + k for n, k in zip(counts, made, strict=True)]
        return cls(clock, nodes, row, most, counts, exact, carry, record, updates, which)

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
        which = self.row[step] + number.view(-1, *[1] * (self.row.ndim - 1))
        inside = which < self.row[step + 1]
        which = which.clamp(max=self.clock.times.shape[-1] - 1)
        if self.which is not None:
            made = self.which[step]
            last = torch.cat((step.diff() > 0, step.new_ones(1, dtype=torch.bool))).view(-1, *[1] * (which.ndim - 1))
            made = made.where(last, -1)
            which = torch.where(made >= 0, self.clock.times.shape[-1] + made, which)
            inside = inside | (made >= 0)
        return Lines(which, inside, step)

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
        which, inside, _ = self.lines
        if not self.clock.per_sample:
            return [which]
        samples = torch.arange(which.shape[-1], device=which.device).expand_as(which)
        return [torch.stack((which, samples), -1)[inside]]

    @cached_property
    def moving(self) -> Tensor:
        """In which of the steps somebody moves, (K,)."""
        return (self.lengths != 0).view(len(self), -1).any(1)

    def steps(self, end: Carry) -> list[Any]:
        """Return the steps one by one, the last of which ended with a carry."""
        carries = [*(tuple(buffer[n] for buffer in self.carry) for n in range(len(self))), end]
        return self._shared_steps(carries) if isinstance(self.clock, Clock) else self._sample_steps(carries)

    def _shared_steps(self, carries: list[Carry]) -> list[Any]:
        ends = [Node(t, a if a >= 0 else None) for t, a in zip(*(x.tolist() for x in self.nodes), strict=True)]
        rows = self.row.tolist()
        steps = [SharedStep(*x) for x in zip(carries, ends, ends[1:], rows, rows[1:], strict=False)]
        if self.updates is None or self.which is None:
            return steps
        made = zip(steps, carries, ends, self.which, strict=False)
        return [x if k < 0 else self.updates.jump(carry, node, k) for x, carry, node, k in made]

    def _sample_steps(self, carries: list[Carry]) -> list[Any]:
        nodes = [Nodes(t, a) for t, a in zip(*self.nodes, strict=True)]
        which, inside = (x.split(self.most) for x in self.lines[:2])
        steps: list[Any] = []
        for n, moving in enumerate(self.moving.tolist()):
            carry, moved = carries[n], self.lengths[n] != 0
            made = None if self.which is None or not (self.which[n] >= 0).any() else self.which[n]
            if moving:
                lines = (x[n][: len(x[n]) - (made is not None)] for x in (which, inside))
                steps.append(SampleStep(carry, nodes[n], nodes[n + 1], moved, *lines))
                carry = tuple(
                    torch.where(self.clock.wide(moved), b, a) for a, b in zip(carry, carries[n + 1], strict=True)
                )
            if made is not None and self.updates is not None:
                steps.append(self.updates.jump(carry, nodes[n], made))
        return steps
