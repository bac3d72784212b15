"""What a gradient needs to know: a solve as a function of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..solvers import Carry, Clock, Crossing, Field, Keep, Method, Plan, SampleClock, Tape, integrate
from ..solvers.noise import Noise, noise_state, restore_noise
from ..solvers.tape import no_events


class Bind(Protocol):
    """A field and its events, for given values of the tensors that enter explicitly."""

    def __call__(
        self, tensors: Sequence[Tensor | None], damped: bool | None = None
    ) -> tuple[Field, tuple[Crossing, ...]]:
        """Return them; `damped` asks for the form of the field that damped methods, or that others, integrate."""
        ...


@dataclass(frozen=True)
class Problem:
    """A solve that waits for its tensors.

    `bind(tensors)` returns the field, and the events, for given values of the tensors that enter explicitly
    (γ, ξ, args), in the form that the method integrates; `damped` says whether there is a damped form. `owners` are
    the objects that the field belongs to: what they hold is differentiated as well. Where `leaves` are given, exactly
    these are differentiated besides, and nothing is searched for.
    `on_replay(step, y, y_bar)` is called by the discrete adjoint for each step that it runs again, with the state
    at the end of the step and its cotangent.
    With `compile_for`, a module or the code of a function, the solve runs compiled where it can, for that field;
    `used` are the ids of the captured tensors that the field used at the first time, and `modules` what the owners
    reach. Where the field draws random numbers, `noise` is the state of the generators before the first time;
    `changing` are the buffers that it changes.
    """

    method: Method
    bind: Bind
    y0: Tensor
    clock: Clock | SampleClock
    tensors: tuple[Tensor | None, ...]
    plan: Plan
    damped: bool = False
    owners: tuple[Any, ...] = ()
    tied: bool = False
    leaves: tuple[Tensor, ...] | None = None
    on_replay: Callable[[Any, Tensor, Tensor | None], None] | None = None
    compile_for: object = None
    used: frozenset[int] = frozenset()
    modules: tuple[nn.Module, ...] = ()
    noise: Noise | None = None
    changing: tuple[Tensor, ...] = ()

    def keeping(self, keep: Keep | None) -> Problem:
        """Return the problem with its steps kept in a given way."""
        if keep is self.plan.keep:
            return self
        return replace(self, plan=replace(self.plan, keep=keep))

    def without_gradient(self) -> Problem:
        """Return the problem for a solve whose steps no gradient walks: they are kept for dense output only."""
        return self.keeping(list.append if self.plan.keep_interpolants else None)

    @contextmanager
    def as_it_was(self) -> Iterator[None]:
        """Run the field again without a trace: afterwards generators and buffers are in the state of now."""
        now = None if self.noise is None else noise_state(self.y0.device)
        kept = [x.clone() for x in self.changing]
        try:
            yield
        finally:
            if now is not None:
                restore_noise(now, self.y0.device)
            with torch.no_grad():
                for x, value in zip(self.changing, kept, strict=True):
                    x.copy_(value)

    def start(self, field: Field, clock: Clock | SampleClock, y: Tensor, sides: tuple[float, float] | None) -> Carry:
        """Return the first carry again, from within an interval without discontinuities."""
        if self.noise is not None:
            restore_noise(self.noise, y.device)
        return self.method.start(field.within(sides), clock.start(), y)

    @torch.no_grad()
    def slope(self, field: Field, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt at a time and state, shape of y, without a graph."""
        t, y = t.detach(), y.detach()
        return self.method.slope(field, self.method.start(field, t, y))

    def seen_before(self, field: Field, t: Tensor, sign: float) -> Field:
        """Return the field as it is seen on the way to t, which rounding may have put behind a discontinuity there."""
        at = float(t.detach())
        return field.within(self.plan.sides(at - sign * 8 * math.ulp(at), -sign))

    def divided(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor | None], list[Tensor]]:
        """Divide tensors into those to bind, in the places of `tensors`, and the rest, which are captured."""
        rest = iter(inputs)
        return [None if x is None else next(rest) for x in self.tensors], list(rest)

    def solve(self, field: Field, start: Carry | None = None) -> Tape:
        """Run the loop that fits."""
        # how outputs are read depends on a damping, if the method has it exact
        records = self.method.damped and any(x is not None and x.requires_grad for x in self.tensors)
        given = self.method, field, self.y0, self.clock, self.plan, start
        return integrate(*given, tied=self.tied, subject=self.compile_for, keep_records=records)


class Solved(NamedTuple):
    """A tape and what it gave out: rows (K, *row), and event times (E,) and states (E, *row) if there are any.

    Where the plan keeps interpolants and gradients are wanted, `carry(n)` is what step n started from, with its
    gradient.
    """

    tape: Tape
    rows: Tensor
    events: tuple[Tensor, Tensor] | None = None
    carry: Callable[[int], Carry] | None = None

    @property
    def event_t(self) -> Tensor:
        """Event times, (E,)."""
        return (self.events or no_events(self.rows))[0]

    @property
    def event_y(self) -> Tensor:
        """Event states, (E, *row)."""
        return (self.events or no_events(self.rows))[1]


class Gradient(Protocol):
    """A gradient mode."""

    def adapt(self, method: Method) -> Method:
        """Return the method in the form that the mode needs."""
        ...

    def solve(self, problem: Problem, on_backward: Callable[[int], None]) -> Solved:
        """Solve; `on_backward` is to receive the number of evaluations that each backward pass made."""
        ...
