"""One step of a batch that steps as one, and the events inside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor

from .clock import Clock, Node
from .field import Field
from .method import Advance, Carry, Invertible, Method, last_step, takes_numbers
from .tape import Crossing, Replayed


class Found(NamedTuple):
    """A zero of the event function `which` at the fraction `theta` of a step."""

    which: int
    theta: float


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
    last_of_all: bool = False
    """Whether no step follows, and nobody but `read` asks for its interpolant."""

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
        return self.end.anchor == self.first or not clock.times.requires_grad

    def run(self, method: Method, field: Field, clock: Clock) -> tuple[Carry, Any]:
        """Take the step."""
        carry, field = self.carry, field.within(self.sides)
        if self.restart:
            carry = method.resume(field, clock.at(self.start), carry)
        advance: Advance = last_step(method) if self.last_of_all else method.step
        if takes_numbers(method) and clock.constant:
            return advance(field, self.start.value, self.end.value - self.start.value, carry)
        return advance(field, clock.at(self.start), clock.span(self.start, self.end), carry)

    def undo(self, method: Invertible, field: Field, clock: Clock, carry: Carry) -> Carry:
        return method.undo(field.within(self.sides), clock.at(self.start), clock.span(self.start, self.end), carry)

    def read(
        self, method: Method, clock: Clock, crossings: Sequence[Crossing], carry: Carry, stages: Any
    ) -> Replayed:
        """Return what the step gives out, from its stages and the carry it ends with."""
        rows = None
        if self.last > self.first:
            if self.at_end(clock):
                rows = carry[0].unsqueeze(0)
            else:
                rows = method.interpolate(stages, clock.fractions(self.start, self.end, self.first, self.last))
        if not self.found:
            return Replayed(carry, rows, None, None)
        events = [self._locate(method, clock, crossings[f.which], f.theta, stages) for f in self.found]
        return Replayed(carry, rows, torch.stack([t for t, _ in events]), torch.cat([y for _, y in events]))

    def replay(self, method: Method, field: Field, clock: Clock, crossings: tuple[Crossing, ...]) -> Replayed:
        return self.read(method, clock, crossings, *self.run(method, field, clock))

    def _locate(
        self, method: Method, clock: Clock, crossing: Crossing, theta: float, stages: Any
    ) -> tuple[Tensor, Tensor]:
        """Return time and state of an event, with the derivatives of the implicit function.

        Two Newton steps from the zero, which do not move it, carry those of the event time up to the third.
        """
        start, span = clock.at(self.start), clock.span(self.start, self.end)
        where = torch.tensor([theta], dtype=torch.float64, device=start.device)

        def value(at: Tensor) -> Tensor:
            g = crossing.fn(start + at[0] * span, method.interpolate(stages, at)[0])
            return g.reshape(1).to(where.dtype)

        for _ in range(2):
            g = value(where)
            if g.requires_grad:
                where = where - (g - g.detach()) / differentiable_slope(value, where, g)
        return start + where[0] * span, method.interpolate(stages, where)


def differentiable_slope(value: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    """Return dg/dx of g = value(x), entry by entry, with a graph.

    What is differentiated by is zero times g: a tensor in the graph that is no new leaf.
    """
    shift = 0.0 * g.to(x.dtype)
    (slope,) = torch.autograd.grad(value(x + shift).sum(), shift, create_graph=True)
    return slope


@torch.no_grad()
def crossing_value(crossing: Crossing, clock: Clock, t: float, y: Tensor) -> float:
    """Return the event function at a time and state."""
    return float(crossing.fn(torch.tensor(t, dtype=torch.float64, device=clock.times.device), y))


@torch.no_grad()
def find_crossings(
    method: Method,
    clock: Clock,
    crossings: Sequence[Crossing],
    values: list[float],
    step: SharedStep,
    carry: Carry,
    stages: Any,
) -> tuple[tuple[Found, ...], list[float]]:
    """Return the zeros inside a step up to the first terminal one, in order, and the values at its end."""
    if not crossings:
        return (), values
    ends = [crossing_value(c, clock, step.end.value, carry[0]) for c in crossings]
    found = []
    for index, (crossing, g0, g1) in enumerate(zip(crossings, values, ends, strict=True)):
        up, down = g0 < 0 <= g1, g0 > 0 >= g1
        if not ((up and crossing.direction >= 0) or (down and crossing.direction <= 0)):
            continue

        def value(theta: float, crossing: Crossing = crossing, g0: float = g0, g1: float = g1) -> float:
            if theta in (0.0, 1.0):
                return g0 if theta == 0.0 else g1
            at = torch.tensor([theta], dtype=torch.float64, device=clock.times.device)
            t = step.start.value + theta * (step.end.value - step.start.value)
            return crossing_value(crossing, clock, t, method.interpolate(stages, at)[0])

        found.append(Found(index, float(brentq(value, 0.0, 1.0, xtol=1e-15))))
    found.sort(key=lambda f: f.theta)
    first = next((i for i, f in enumerate(found) if crossings[f.which].terminal), len(found) - 1)
    return tuple(found[: first + 1]), ends
