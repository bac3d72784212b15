"""One step of a batch that steps as one, and the events inside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..clock import Clock, Node
from ..field import Field
from ..method import Advance, Carry, Invertible, Method
from ..methods.wrappers.moving_start import stopped
from ..noise import Noise, restore_noise
from .crossings import Stretch, Zeros
from .tape import Crossing, Replayed


class Found(NamedTuple):
    """A zero of the event function `which` at the fraction `theta` of a step, and the closest one before it."""

    which: int
    theta: float
    before: float

    @classmethod
    def of(cls, zeros: Zeros) -> Found:
        """Return the zero of a batch that steps as one."""
        return cls(zeros.which, zeros.theta.item(), zeros.before.item())


@dataclass(slots=True)
class SharedStep:
    """One accepted step of the whole batch, with what is needed to run it again."""

    carry: Carry
    start: Node
    end: Node
    first: int
    last: int
    found: tuple[Found, ...] = ()
    restart: bool = False
    sides: tuple[float, float] | None = None
    noise: Noise | None = None
    last_of_all: bool = False
    """Whether no step follows, and nobody but `read` asks for its interpolant."""
    cut: tuple[Crossing, Found] | None = None
    """The event that it stops at, on the way to its end."""

    @property
    def one_way(self) -> bool:
        return self.restart or self.cut is not None

    @property
    def rows(self) -> int:
        return self.last - self.first

    @property
    def events(self) -> int:
        return len(self.found)

    def at_end(self, clock: Clock) -> bool:
        """Return whether the only output in the step is the state that it ends with."""
        if self.last != self.first + 1 or clock.values[self.first] != self.end.value:
            return False
        return self.end.anchor == self.first or clock.constant

    def run(self, method: Method, field: Field, clock: Clock) -> tuple[Carry, Any]:
        """Take the step."""
        if self.noise is not None:
            restore_noise(self.noise, clock.times.device)
        carry, field = self.carry, field.within(self.sides)
        if self.restart:
            carry = method.resume(field, clock.at(self.start), carry)
        advance: Advance = method.last_step if self.last_of_all else method.step
        if method.numbers and clock.constant:
            return advance(field, self.start.value, self.end.value - self.start.value, carry)
        carry, stages = advance(field, clock.at(self.start), clock.span(self.start, self.end), carry)
        return self.stopped(method, clock, carry, stages), stages

    def stopped(self, method: Method, clock: Clock, carry: Carry, stages: Any) -> Carry:
        """Return the carry with which the step ends, or stops, from that of its end."""
        if self.cut is None:
            return carry
        t, y = self._locate(method, clock, *self.cut, stages)
        return stopped(carry, t, y)

    @torch.no_grad()
    def before(self, method: Method, clock: Clock, stages: Any) -> tuple[Tensor, Tensor]:
        """Return time and state just before the event at which the step stops."""
        theta = torch.full((1,), 1.0 if self.cut is None else self.cut[1].before, dtype=torch.float64).to(clock.times)
        return self.start.value + theta[0] * (self.end.value - self.start.value), method.interpolate(stages, theta)[0]

    def stretch(self, method: Method, clock: Clock, stages: Any) -> tuple[Stretch, Tensor | None]:
        """Return the step as event functions see it, and the fractions (n, 1) of the requested times in it."""
        t0, t1, times = self.start.value, self.end.value, clock.values
        last, rows = self.first, None
        while last < len(times) and (t1 - times[last]) * (t1 - t0) > 0:
            last += 1
        if last > self.first:
            rows = ((clock.times.detach()[self.first : last] - t0) / (t1 - t0)).unsqueeze(1)
        start, end = torch.tensor([[t0], [t1]], dtype=torch.float64, device=clock.times.device).unbind()
        eps = torch.finfo(self.carry[0].dtype).eps
        return Stretch(start, end, eps, lambda theta: method.interpolate(stages, theta.squeeze(1)), _value), rows

    def undo(self, method: Invertible, field: Field, clock: Clock, carry: Carry) -> Carry:
        return method.undo(field.within(self.sides), clock.at(self.start), clock.span(self.start, self.end), carry)

    def read(self, method: Method, clock: Clock, crossings: Sequence[Crossing], carry: Carry, stages: Any) -> Replayed:
        """Return what the step gives out, from its stages and the carry it ends with."""
        rows = None
        if self.last > self.first:
            if self.at_end(clock):
                rows = carry[0].unsqueeze(0)
            else:
                rows = method.interpolate(stages, clock.fractions(self.start, self.end, self.first, self.last))
        if not self.found:
            return Replayed(carry, rows, None, None)
        events = [self._locate(method, clock, crossings[f.which], f, stages) for f in self.found]
        return Replayed(carry, rows, torch.stack([t for t, _ in events]), torch.stack([y for _, y in events]))

    def replay(self, method: Method, field: Field, clock: Clock, crossings: tuple[Crossing, ...]) -> Replayed:
        return self.read(method, clock, crossings, *self.run(method, field, clock))

    def _locate(
        self, method: Method, clock: Clock, crossing: Crossing, found: Found, stages: Any
    ) -> tuple[Tensor, Tensor]:
        """Return time and state of an event, with the derivatives of the implicit function."""
        start, span = clock.at(self.start), clock.span(self.start, self.end)
        theta, before = (torch.tensor([x], dtype=torch.float64, device=start.device) for x in found[1:])

        def there(theta: Tensor) -> tuple[Tensor, Tensor]:
            return start + theta[0] * span, method.interpolate(stages, theta)[0]

        return there(moving_zero(lambda theta: crossing.fn(*there(theta)).reshape(1), theta, before))


def moving_zero(value: Callable[[Tensor], Tensor], theta: Tensor, before: Tensor) -> Tensor:
    """Return the fractions θ with the derivatives of the implicit function value(θ) = 0, entry by entry.

    Two Newton steps, which do not move it, carry those of the event time up to the third. They are taken just before
    the zero, since a function that stays zero is flat after it. Where its slope is zero there too, as that of a
    function that steps, the event has no derivative through it.
    """
    where = before
    for _ in range(2):
        g = value(where).to(where.dtype)
        if not g.requires_grad:
            return theta
        slope = differentiable_slope(value, where, g)
        steep = slope != 0
        where = where - torch.where(steep, g - g.detach(), 0.0) / torch.where(steep, slope, 1.0)
    return where + (theta - before)


def differentiable_slope(value: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    """Return dg/dx of g = value(x), entry by entry, with a graph.

    What is differentiated by is zero times g: a tensor in the graph that is no new leaf.
    """
    shift = 0.0 * g
    (slope,) = torch.autograd.grad(value(x + shift).sum(), shift, create_graph=True)
    return slope


def _value(crossing: Crossing, t: Tensor, y: Tensor) -> Tensor:
    """Return an event function at a time (1,), shape (1,)."""
    return crossing.fn(t.reshape(()), y).double().reshape(1)
