"""Updates of the state at known times: an update is a step of the tape, of no length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..clock import Clock, Node, Nodes, SampleClock
from ..field import Field
from ..method import Carry, Invertible, Method
from ..noise import Noise, restore_noise
from .sample_step import batch_first, hold
from .tape import Crossing, Replayed

Apply = Callable[[Any, Tensor, Tensor], Tensor]


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

    def restart(self, which: int, method: Method, field: Field, t: Tensor, carry: Carry) -> Carry:
        """Return the carry that the method goes on from after update `which`, from the one that it came with."""
        return method.start(field, t, self.apply(which, t, carry[0]))


@dataclass(slots=True)
class SharedUpdate:
    """Update `which` of a batch that steps as one."""

    carry: Carry
    start: Node
    updates: Updates
    which: int
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
