"""What a gradient needs to know: a solve as a function of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..solvers import KEEP_ALL, Carry, Clock, Crossing, Field, Keep, Method, Plan, SampleClock, Tape, integrate
from ..solvers.noise import Noise, noise_state, restore_noise


class Explicit(NamedTuple):
    """The tensors that enter a field by name: its coefficients γ and ξ, if it has them, and those of its arguments.

    Examples
    --------
    >>> import torch
    >>> from hbode.gradients import Explicit
    >>> len(Explicit(gamma=torch.tensor(0.1)).present)
    1
    """

    gamma: Tensor | None = None
    xi: Tensor | None = None
    args: tuple[Tensor, ...] = ()

    @property
    def present(self) -> list[Tensor]:
        """Those that there are, in order."""
        return [x for x in (self.gamma, self.xi, *self.args) if x is not None]

    def filled(self, tensors: Iterable[Tensor]) -> Explicit:
        """Return the same with others in the place of those that there are."""
        given = iter(tensors)
        gamma, xi = (None if x is None else next(given) for x in (self.gamma, self.xi))
        return Explicit(gamma, xi, tuple(next(given) for _ in self.args))

    def detach(self) -> Explicit:
        """Return the same without a graph."""
        return self.filled([x.detach() for x in self.present])


class Bind(Protocol):
    """A field and its events, for given values of the tensors that enter explicitly."""

    def __call__(self, given: Explicit, damped: bool | None = None) -> tuple[Field, tuple[Crossing, ...]]:
        """Return them; `damped` asks for the form of the field that damped methods, or that others, integrate."""
        ...


class Compilation(NamedTuple):
    """A request to compile.

    For the field of `subject`, a module or the code of a function; `used` are the ids of the captured tensors that it
    used at the first time, and `modules` what its owners reach.
    """

    subject: object
    used: frozenset[int] = frozenset()
    modules: tuple[nn.Module, ...] = ()


@dataclass(frozen=True)
class Problem:
    """A solve that waits for its tensors.

    `bind(given)` returns the field, and the events, for given values of the tensors that enter explicitly, in the form
    that the method integrates; `damped` says whether there is a damped form. `owners` are
    the objects that the field belongs to: what they hold is differentiated as well. Where `leaves` are given, exactly
    these are differentiated besides, and nothing is searched for.
    `on_replay(step, y, y_bar)` is called by the discrete adjoint for each step that it runs again, with the state
    at the end of the step and its cotangent.
    With `compilation` the solve runs compiled where it can. Where the field draws random numbers, `noise` is the state
    of the generators before the first time; `changing` are the buffers that it changes.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from hbode import hbodeint
    >>> from hbode.gradients import DiscreteAdjoint, Problem
    >>> import torch
    >>> class Detached(DiscreteAdjoint):  # the first state counts as a constant
    ...     def solve(self, problem: Problem, on_backward):
    ...         return super().solve(replace(problem, y0=problem.y0.detach()), on_backward)
    >>> hbodeint(lambda t, h: -h, torch.ones(2, requires_grad=True), [0.0, 1.0], gradient=Detached()).h.requires_grad
    False
    """

    method: Method
    bind: Bind
    y0: Tensor
    clock: Clock | SampleClock
    explicit: Explicit
    plan: Plan
    damped: bool = False
    owners: tuple[Any, ...] = ()
    tied: bool = False
    leaves: tuple[Tensor, ...] | None = None
    on_replay: Callable[[Any, Tensor, Tensor | None], None] | None = None
    compilation: Compilation | None = None
    noise: Noise | None = None
    changing: tuple[Tensor, ...] = ()

    def keeping(self, keep: Keep | None) -> Problem:
        """Return the problem with its steps kept in a given way."""
        if keep is self.plan.keep:
            return self
        return replace(self, plan=replace(self.plan, keep=keep))

    def without_gradient(self) -> Problem:
        """Return the problem for a solve whose steps no gradient walks: they are kept for dense output only."""
        return self.keeping(KEEP_ALL if self.plan.keep_interpolants else None)

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
        field = field.at(t)
        return self.method.slope(field, self.method.start(field, t, y))

    def seen_before(self, field: Field, t: Tensor, sign: float) -> Field:
        """Return the field as it is seen on the way to t, which rounding may have put behind a discontinuity there."""
        at = float(t.detach())
        return field.within(self.plan.sides(at - sign * 8 * math.ulp(at), -sign))

    def divided(self, inputs: Sequence[Tensor]) -> tuple[Explicit, list[Tensor]]:
        """Divide tensors into those to bind and the rest, which are captured."""
        rest = iter(inputs)
        return self.explicit.filled(rest), list(rest)

    def solve(self, field: Field, start: Carry | None = None) -> Tape:
        """Run the loop that fits."""
        # how outputs are read depends on a damping, if the method has it exact; one of the time holds what is captured
        read = not self.damped or any(x.requires_grad for x in self.explicit.present)
        records = self.method.damped and self.plan.keep is not None and read
        given = self.method, field, self.y0, self.clock, self.plan, start
        return integrate(
            *given, tied=self.tied, subject=self.compilation and self.compilation.subject, keep_records=records
        )


class Solved(NamedTuple):
    """A tape and what it gave out: rows (K, *row), event times (E,) and event states (E, *row).

    Where the plan keeps interpolants and gradients are wanted, `carry(n)` is what step n started from, with its
    gradient.

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> from hbode.gradients import DiscreteAdjoint, Solved
    >>> class Told(DiscreteAdjoint):
    ...     def solve(self, problem, on_backward) -> Solved:
    ...         solved = super().solve(problem, on_backward)
    ...         print(solved.rows.shape)
    ...         return solved
    >>> sol = hbodeint(lambda t, h: -h, torch.ones(2), [0.0, 0.5, 1.0], gradient=Told())
    torch.Size([3, 2, 2])
    """

    tape: Tape
    rows: Tensor
    event_t: Tensor
    event_y: Tensor
    carry: Callable[[int], Carry] | None = None


class Gradient(Protocol):
    """A gradient mode.

    Examples
    --------
    >>> from hbode.gradients import DiscreteAdjoint, Gradient
    >>> mode: Gradient = DiscreteAdjoint()
    """

    def adapt(self, method: Method) -> Method:
        """Return the method in the form that the mode needs."""
        ...

    def solve(self, problem: Problem, on_backward: Callable[[int], None]) -> Solved:
        """Solve; `on_backward` is to receive the number of evaluations that each backward pass made."""
        ...
