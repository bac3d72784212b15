"""Updates of the state at known times: an update is a step of the tape, of no length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from ..clock import Clock, Node, Nodes, SampleClock
from ..field import Field
from ..method import Carry, Invertible, Method
from ..noise import Noise, restore_noise
from .sample_step import batch_first, hold
from .tape import Crossing, Replayed


@dataclass(frozen=True)
class Updates:
    """Where the state is replaced, and by what.

    Attributes
    ----------
    anchors
        The place of each update among the requested times, which its time is one of: (K,), or (B, K) in the order of
        time for samples with times of their own, -2 after the last.
    fn
        ``fn(t, y, data_k)`` returns the state after an update at t, shape (), or (B,) for every sample.
    data
        ``data(which)`` returns what belongs to updates, (N, ...) for N numbers, or (N, B, ...) for (N, B) of them.
    """

    anchors: Tensor
    fn: Callable[[Tensor, Tensor, tuple[Tensor, ...]], Tensor]
    data: Callable[[Tensor], tuple[Tensor, ...]]

    @property
    def count(self) -> int:
        """How many there are, of a sample at most."""
        return self.anchors.shape[-1]

    def apply(self, which: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return the state after an update, () or (B,)."""
        return self.fn(t, y, tuple(x.squeeze(0) for x in self.data(which.clamp(min=0).unsqueeze(0))))

    def stops(self, nodes: Nodes, last: Tensor) -> tuple[Nodes, Tensor, Tensor]:
        """Return the stops with one more for each update, after that of the same time, and which update it is.

        Nodes have shape (N,) or (N, B), and so have the numbers of the updates, -1 for a stop that is none. `last` is
        the number of the last stop, before and after.
        """
        value, anchor = (x.view(len(x), -1) for x in nodes)
        anchors = self.anchors.view(-1, self.count).T  # (K, B)
        size = int(torch.cat((anchor, anchors)).max()) + 1 if anchor.numel() else 1
        number = torch.arange(self.count, device=anchor.device).unsqueeze(1).expand_as(anchors)
        table = torch.full((size + 1, anchor.shape[1]), -1, device=anchor.device)
        table.scatter_(0, torch.where(anchors < 0, size, anchors), number)
        table[size] = -1
        places = torch.arange(len(anchor), device=anchor.device).unsqueeze(1)
        which = table.gather(0, torch.where(anchor < 0, size, anchor)).where(places <= last.view(1, -1), -1)
        has = (which >= 0).long()
        at = places + has.cumsum(0) - has

        def spread(x: Tensor, fill: Tensor, twin: Tensor) -> Tensor:
            full = fill.expand(len(x) + self.count, -1).clone()
            return full.scatter(0, at + has, twin).scatter(0, at, x).view(-1, *nodes.value.shape[1:])

        none = torch.full_like(which, -1)
        stops = Nodes(spread(value, value[-1:], value), spread(anchor, anchor[-1:], anchor))
        return stops, spread(none, none[-1:], which), last + has.sum(0).view(last.shape)

    def restart(self, which: Tensor, method: Method, field: Field, t: Tensor, carry: Carry) -> Carry:
        """Return the carry that the method goes on from after update `which`, from the one that it came with."""
        return method.start(field, t, self.apply(which, t, carry[0]))


@dataclass(slots=True)
class SharedUpdate:
    """Update `which` of a batch that steps as one."""

    carry: Carry
    start: Node
    updates: Updates
    which: Tensor
    sides: tuple[float, float] | None = None
    noise: Noise | None = None
    restart: bool = True
    rows: int = 1
    events: int = 0

    @property
    def end(self) -> Node:
        return self.start

    def run(self, method: Method, field: Field, clock: Clock) -> tuple[Carry, None]:
        """Replace the state, and start the method from it."""
        if self.noise is not None:
            restore_noise(self.noise, clock.times.device)
        t, field = clock.at(self.start), field.within(self.sides)
        return self.updates.restart(self.which, method, field, t, self.carry), None

    def replay(self, method: Method, field: Field, clock: Clock, crossings: tuple[Crossing, ...]) -> Replayed:
        """Run it again; it gives out the state after it, one row."""
        carry, _ = self.run(method, field, clock)
        return Replayed(carry, carry[0].unsqueeze(0), None, None)

    def undo(self, method: Invertible, field: Field, clock: Clock, carry: Carry) -> NoReturn:
        """Never asked for: the carry before an update is kept."""
        raise NotImplementedError("an update cannot be taken back")


@dataclass(slots=True)
class SampleUpdate:
    """Updates `which` (B,) of the samples that have `moved`; the others stay as they are."""

    carry: Carry
    start: Nodes
    updates: Updates
    which: Tensor
    moved: Tensor
    sides: tuple[float, float] | None = None
    noise: Noise | None = None
    restart: bool = True
    events: int = 0

    @property
    def end(self) -> Nodes:
        return self.start

    @property
    def rows(self) -> int:
        return int(self.moved.sum())

    def run(self, method: Method, field: Field, clock: SampleClock) -> tuple[Carry, None]:
        """Replace the states, and start the method from them."""
        if self.noise is not None:
            restore_noise(self.noise, clock.times.device)
        t, mask = clock.at(self.start), clock.wide(self.moved)
        y = torch.where(mask, self.updates.apply(self.which, t, self.carry[0]), self.carry[0])
        return hold(clock, self.moved, method.start(field, clock.wide(t), y), self.carry), None

    def replay(self, method: Method, field: Field, clock: SampleClock, crossings: tuple[Crossing, ...]) -> Replayed:
        """Run it again; it gives out the states after it, a row for each sample that has moved."""
        carry, _ = self.run(method, field, clock)
        return Replayed(carry, batch_first(carry[0], clock.ndim)[self.moved], None, None)

    def undo(self, method: Invertible, field: Field, clock: SampleClock, carry: Carry) -> NoReturn:
        """Never asked for: the carry before an update is kept."""
        raise NotImplementedError("an update cannot be taken back")
