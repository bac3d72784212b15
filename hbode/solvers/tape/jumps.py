"""Jumps of the state, at known times and at events: a jump is a step of the tape, of no length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from ..clock import Clock, Node, Nodes, SampleClock
from ..field import Field
from ..method import Carry, Invertible, Method
from ..methods.wrappers.moving_start import start_time
from ..noise import Noise, restore_noise
from .sample_step import hold
from .tape import Crossing, Replayed

Restart = Callable[[Method, Field, Tensor, Carry], Carry]
"""``restart(method, field, t, carry)``: the carry that a method goes on from, and that it came with to a jump at t."""


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
        """Return the carry that the method goes on from after updates, from the one that it came with."""
        y = self.apply(which, t.reshape(which.shape), carry[0])
        if which.ndim:
            y = torch.where((which >= 0).view(t.shape), y, carry[0])
        return method.start(field, t, y)

    def jump(self, carry: Carry, node: Any, which: Tensor, sides: tuple[float, float] | None = None) -> Jump:
        """Return an update at a node: its number, shape (), or those of samples, (B,), -1 for who has none."""
        moved = (which >= 0).view(-1)
        return Jump(carry, node, partial(self.restart, which), moved, moved.unsqueeze(0), sides=sides)


class Fired(NamedTuple):
    """The event `which`, and the samples (N,) in which it is met at the time of a jump."""

    which: int
    met: Tensor


@dataclass(frozen=True)
class Resets:
    """The change of the state by events that are met at one time: one reset after the other."""

    clock: Clock | SampleClock
    crossings: Sequence[Crossing]
    fired: Sequence[Fired]

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        for which, met in self.fired:
            reset = self.crossings[which].reset
            if reset is not None:
                after = reset(t, y)
                y = after if met.all() else torch.where(self.clock.wide(met), after, y)
        return y

    def restart(self, method: Method, field: Field, t: Tensor, carry: Carry) -> Carry:
        """Return the carry that the method goes on from, from the one that it came with."""
        return method.start(field, t, self(t.reshape(self.clock.times.shape[:-1]), carry[0]))


class Reset(NamedTuple):
    """A change of the state of a batch that steps as one, at a time t that is a zero of an event function, `crossing`.

    The step that was cut short there is of a full `length`. So many rows and events (`row`, `event`) came before.
    """

    t: float
    length: float
    crossing: Crossing
    change: Resets
    row: int
    event: int


@dataclass(slots=True)
class Jump:
    """A change of the state, of the samples that have `moved`, (N,); one sample where the batch steps as one.

    Attributes
    ----------
    shown
        The output rows that show the state after it, (n, N).
    fired
        The events that it belongs to: it gives out the states before and after, for each.
    """

    carry: Carry
    start: Any
    restart: Restart
    moved: Tensor
    shown: Tensor
    fired: tuple[Fired, ...] = ()
    sides: tuple[float, float] | None = None
    noise: Noise | None = None
    one_way: bool = True
    reach: float = 1.0

    @property
    def end(self) -> Node | Nodes:
        node: Node | Nodes = self.start
        return node

    @property
    def rows(self) -> int:
        return int(self.shown.sum())

    @property
    def events(self) -> int:
        return 2 * sum(int(met.sum()) for _, met in self.fired)

    def named(self, count: int) -> Iterator[tuple[int, int]]:
        """Yield function and sample of the events given out: of `count` functions, those after the jump come last."""
        for offset in (0, count):
            for which, met in self.fired:
                yield from ((offset + which, sample) for sample in met.nonzero().flatten().tolist())

    def run(self, method: Method, field: Field, clock: Any) -> tuple[Carry, None]:
        """Change the state, and start the method from it."""
        if self.noise is not None:
            restore_noise(self.noise, clock.times.device)
        carry = self.restart(method, field.within(self.sides), self._time(method, clock), self.carry)
        return hold(clock, self.moved, carry, self.carry), None

    def replay(self, method: Method, field: Field, clock: Any, crossings: tuple[Crossing, ...]) -> Replayed:
        """Run it again; it gives out the states after it, and those of events on both sides."""
        carry, _ = self.run(method, field, clock)
        before, after = clock.samples(self.carry[0]), clock.samples(carry[0])
        rows = after.expand(len(self.shown), *after.shape)[self.shown] if self.rows else None
        if not self.fired:
            return Replayed(carry, rows, None, None)
        t = self._time(method, clock).reshape(-1)
        times = [t[met] for _, met in self.fired]
        states = [side[met] for side in (before, after) for _, met in self.fired]
        return Replayed(carry, rows, torch.cat([*times, *times]), torch.cat(states))

    def undo(self, method: Invertible, field: Field, clock: Any, carry: Carry) -> NoReturn:
        """Never asked for: the carry before a jump is kept."""
        raise NotImplementedError("a jump cannot be taken back")

    def _time(self, method: Method, clock: Any) -> Tensor:
        """Return its time, in the shape in which it meets the state."""
        t: Tensor = start_time(method, clock.wide(clock.at(self.start)), self.carry)
        return t
