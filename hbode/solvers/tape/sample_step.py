"""One step of samples that step by themselves, and the events inside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..clock import Nodes, SampleClock
from ..field import Field
from ..linear import lift
from ..method import Carry, Invertible, Method
from ..methods.wrappers.moving_start import stopped
from ..noise import Noise, restore_noise
from .crossings import Stretch, Zeros
from .shared_step import moving_zero
from .tape import Crossing, Replayed


@dataclass(slots=True)
class SampleStep:
    """One step of the batch in which at least one sample was accepted; the others took a step of length zero."""

    carry: Carry
    start: Nodes
    end: Nodes
    moved: Tensor
    index: Tensor
    inside: Tensor
    found: tuple[Zeros, ...] = ()
    sides: tuple[float, float] | None = None
    noise: Noise | None = None
    cut: tuple[tuple[Crossing, Zeros], ...] = ()
    """The events that samples stop at, on the way to their ends."""

    @property
    def one_way(self) -> bool:
        return bool(self.cut)

    @property
    def reach(self) -> Tensor:
        """Where samples stop, as fractions of their steps, (B,): 1 at the end."""
        theta = torch.ones_like(self.start.value)
        for _, zeros in self.cut:
            theta = torch.where(zeros.met, zeros.theta, theta)
        return theta

    @property
    def rows(self) -> int:
        return int(self.inside.sum())

    @property
    def events(self) -> int:
        return sum(int(zeros.met.sum()) for zeros in self.found)

    def run(self, method: Method, field: Field, clock: SampleClock) -> tuple[Carry, Any]:
        """Take the step; samples that do not move keep their carry."""
        if self.noise is not None:
            restore_noise(self.noise, clock.times.device)
        start, dt = self._span(clock)
        carry, stages = method.step(field, clock.wide(start), clock.wide(dt), self.carry)
        return self.stopped(method, clock, self.hold(clock, carry, self.carry), stages), stages

    def stopped(self, method: Method, clock: SampleClock, carry: Carry, stages: Any) -> Carry:
        """Return the carry with which the step ends, for samples that stop on the way that of where they do."""
        for crossing, zeros in self.cut:
            t, y = self._locate(method, clock, crossing, zeros, stages)
            carry = hold(clock, zeros.met, stopped(carry, clock.wide(t), y), carry)
        return carry

    @torch.no_grad()
    def before(self, method: Method, clock: SampleClock, stages: Any) -> tuple[Tensor, Tensor]:
        """Return times and states just before the events at which samples stop; of others, those of their ends."""
        theta = torch.ones_like(self.start.value)
        for _, zeros in self.cut:
            theta = torch.where(zeros.met, zeros.before, theta)
        t = self.start.value + theta * (self.end.value - self.start.value)
        return t, method.interpolate(stages, clock.wide(theta.unsqueeze(0)))[0]

    def stretch(self, method: Method, clock: SampleClock, stages: Any) -> tuple[Stretch, Tensor | None]:
        """Return the step as event functions see it, and the fractions (n, B) of the requested times in it."""
        start = self.start.value
        span = torch.where(self.moved, self.end.value - start, 1.0)
        theta = (clock.times.detach().T - start) / span  # (T, B)
        inside = self.moved & (theta > 0) & (theta < 1)
        most = int(inside.sum(0).max())
        rows = torch.where(inside, theta, 1.0).sort(dim=0).values[:most] if most else None
        stretch = Stretch(
            start,
            start + span,
            torch.finfo(self.carry[0].dtype).eps,
            lambda theta: method.interpolate(stages, clock.wide(theta)),
            lambda crossing, t, y: crossing.fn(t, y).double(),
        )
        return stretch, rows

    def undo(self, method: Invertible, field: Field, clock: SampleClock, carry: Carry) -> Carry:
        start, dt = self._span(clock)
        return self.hold(clock, method.undo(field, clock.wide(start), clock.wide(dt), carry), carry)

    def hold(self, clock: SampleClock, carry: Carry, held: Carry) -> Carry:
        """Return `carry` for the samples that move in the step and `held` for the others."""
        return hold(clock, self.moved, carry, held)

    def _span(self, clock: SampleClock, waiting: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return starts and lengths of the steps, (B,); that of samples that wait is `waiting`."""
        start = clock.at(self.start)
        return start, torch.where(self.moved, clock.at(self.end) - start, waiting)

    def read(
        self, method: Method, clock: SampleClock, crossings: Sequence[Crossing], carry: Carry, stages: Any
    ) -> Replayed:
        """Return what the step gives out: rows (K, *row) in the order of `inside`, events likewise."""
        rows, axis = None, clock.ndim
        if self.inside.any():
            start, span = self._span(clock, 1.0)
            at = clock.times.gather(1, self.index.T).T  # (n, B)
            theta = torch.where(self.inside, (at - start) / span, torch.zeros_like(at))
            states = method.interpolate(stages, clock.wide(theta))
            exact = (theta == 1.0) & ((self.index == self.end.anchor) | (clock.constant))
            states = torch.where(lift(clock.wide(exact), states.ndim - 1, keep=1), carry[0], states)
            rows = batch_first(states, axis, lead=1)[self.inside]
        if not self.found:
            return Replayed(carry, rows, None, None)
        event_t, event_y = [], []
        for zeros in self.found:
            t, y = self._locate(method, clock, crossings[zeros.which], zeros, stages)
            event_t.append(t[zeros.met])
            event_y.append(batch_first(y, axis)[zeros.met])
        return Replayed(carry, rows, torch.cat(event_t), torch.cat(event_y))

    def replay(self, method: Method, field: Field, clock: SampleClock, crossings: tuple[Crossing, ...]) -> Replayed:
        return self.read(method, clock, crossings, *self.run(method, field, clock))

    def _locate(
        self, method: Method, clock: SampleClock, crossing: Crossing, zeros: Zeros, stages: Any
    ) -> tuple[Tensor, Tensor]:
        """Return times (B,) and states of an event, with the derivatives of the implicit function."""
        start, span = self._span(clock, 1.0)

        def there(theta: Tensor) -> tuple[Tensor, Tensor]:
            return start + theta * span, method.interpolate(stages, clock.wide(theta.unsqueeze(0)))[0]

        return there(moving_zero(lambda theta: crossing.fn(*there(theta)), zeros.theta, zeros.before))


def hold(clock: SampleClock, moved: Tensor, carry: Carry, held: Carry) -> Carry:
    """Return `carry` for the samples that have moved, (B,), and `held` for the others."""
    if moved.all():
        return carry
    mask = clock.wide(moved)
    return tuple(
        torch.where(mask, new, old) if new.shape == old.shape else new for new, old in zip(carry, held, strict=True)
    )


def batch_first(x: Tensor, ndim: int, lead: int = 0) -> Tensor:
    """Move the batch axis of states, which has `ndim` axes of h at the end, next to the `lead` leading axes."""
    return x.movedim(x.ndim - ndim, lead)
