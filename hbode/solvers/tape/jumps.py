"""Jumps of the state, at known times and at events: a jump is a step of the tape, of no length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from ..clock import Clock, Node, Nodes, SampleClock
from ..field import Field
from ..method import Carry, Invertible, Method
from ..methods.moving_start import start_time
from ..noise import Noise, restore_noise
from .sample_step import hold
from .tape import Crossing, Replayed

Apply = Callable[[Any, Tensor, Tensor], Tensor]
Change = Callable[[Tensor, Tensor], Tensor]
"""``change(t, y)`` returns the state after a jump: t of shape () or (B,), and every sample of y."""


@dataclass(frozen=True)
class Updates:
    """Where the state is replaced, and by what.

    Attributes
    ----------
    anchors
        The place of each update among the requested times, which its time is one of: (K,), or (B, K) in the order of
        time for samples with times of their own, -2 after the last.
    apply
        ``apply(k, t, y)`` returns the state after update k at t: a number and shape (), or (B,) each, of every sample.
    """

    anchors: Tensor
    apply: Apply

    @property
    def count(self) -> int:
        """How many there are, of a sample at most."""
        return self.anchors.shape[-1]


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
    change: Change
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
        t = self._time(method, clock)
        y = self.change(t.reshape(clock.times.shape[:-1]), self.carry[0])
        if not self.moved.all():
            y = torch.where(clock.wide(self.moved), y, self.carry[0])
        return hold(clock, self.moved, method.start(field.within(self.sides), t, y), self.carry), None

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
