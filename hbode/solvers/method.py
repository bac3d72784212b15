"""What a method is: a pure step, its error estimate and its interpolant."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from .field import Field

Carry = tuple[Tensor, ...]
"""What one step hands to the next: the state first, then what the method reuses."""
Advance = Callable[[Field, Any, Any, Carry], tuple[Carry, Any]]
"""A step of a method; time and length are tensors, or numbers where the method takes them."""


class Method(Protocol):
    """A step and what can be read off it.

    The state `y` is one tensor: h of shape (...) for a first-order system, (h, m) stacked on a new first axis,
    shape (2, ...), for a second-order one. `t` and `dt` are float64 tensors of shape (), or of shape
    (B, 1, …, 1) with as many axes as h where every sample steps by itself; `dt` is negative in decreasing time.

    ``step`` also returns a `stages` record, private to the method, from which ``error`` and ``interpolate``
    are computed when, and only when, somebody asks for them.
    """

    @property
    def damped(self) -> bool:
        """True: integrates h'' + γ h' + ξ h = field(t, h), with `field.damping_at`. False: y' = field(t, y)."""
        ...

    @property
    def identity_only(self) -> bool:
        """Of the damped methods: whether h' = m is needed, rather than any h' = σ(m)."""
        ...

    @property
    def order(self) -> int:
        """Order of the steps: local errors are O(dt^(order + 1))."""
        ...

    @property
    def error_order(self) -> int | None:
        """Order of the error estimates, which are O(dt^(error_order + 1)); None where there are none."""
        ...

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        """Return the first carry at (t, y)."""
        ...

    def resume(self, field: Field, t: Tensor, carry: Carry) -> Carry:
        """Return the carry after a discontinuity of the field at t, from the one before it."""
        ...

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, Any]:
        """Advance by `dt`: a pure function of its tensors, differentiable, without hidden state."""
        ...

    def slope(self, field: Field, carry: Carry) -> Tensor:
        """Return dy/dt at the carry, from what it already holds."""
        ...

    def error(self, stages: Any) -> Tensor:
        """Return the local error estimate of a step, in the shape of the state."""
        ...

    def interpolate(self, stages: Any, theta: Tensor) -> Tensor:
        """Return the states at t + θ dt, shape (n, *state), for θ of shape (n,) or (n, B, 1, …, 1)."""
        ...


MEMBERS = (
    "damped",
    "identity_only",
    "order",
    "error_order",
    "start",
    "resume",
    "step",
    "slope",
    "error",
    "interpolate",
)
"""What a `Method` has."""


class Uniform(Method, Protocol):
    """A method whose steps are all alike and can be recorded as one tensor each, so that a loop of them compiles."""

    @property
    def evaluations(self) -> int:
        """How often a step evaluates the field."""
        ...

    def lay_out(self, device: torch.device) -> None:
        """Make the constants of the method on a device, once; what follows finds them there."""
        ...

    def prepare(self, field: Field, axes: int) -> None:
        """Make what a step makes once for a field, and keep it there, for a dt of so many axes."""
        ...

    def record_shape(self, y: Tensor) -> tuple[int, ...]:
        """Return the shape of a record."""
        ...

    def record(self, stages: Any) -> Tensor:
        """Return the columns, shape (k, ...), of which dense output is a linear combination."""
        ...

    def reading(self, field: Field, t: Tensor, dt: Tensor, theta: Tensor, y: Tensor) -> Tensor:
        """Return the weights of the columns, one row after the other, for fractions θ of steps dt from t.

        All have shape (n,), or (n, B, 1, …, 1); the weights are (n r, k), or (n r, k, ...) to be multiplied with
        columns (k, ...), for the r parts of a state that are read apart.
        """
        ...


def convergence(method: Method) -> Callable[[Any], Tensor | None] | None:
    """Return what tells, from the stages of an implicit step, for which samples it was solved, (B,) or (1,).

    None, or a function that returns it, for explicit steps, which always are.
    """
    return getattr(method, "converged", None)


def last_step(method: Method) -> Advance:
    """Return the step of a method after which no other follows.

    A method that hands a slope at the end of its steps on to the next may have a ``last_step`` that leaves it out. Its
    interpolant, where it needs that slope, evaluates the field when it is asked, and each time.
    """
    made: Advance = getattr(method, "last_step", method.step)
    return made


def takes_numbers(method: Method) -> bool:
    """Return whether steps, and `start`, take `t` and `dt` as numbers too: where they are constants, that is faster."""
    return getattr(method, "numbers", False)


def stiffness(method: Method) -> Callable[[Any], Tensor] | None:
    """Return what a method makes of the stages of a step: how near it came to the boundary of stability, () or (B,).

    One is on the boundary. None for methods that are not explicit, or have no error estimate to choose steps by.
    """
    return None if method.error_order is None else getattr(method, "stiffness", None)


def max_growth(method: Method) -> float:
    """Return how many times as long as the one before it a step may be: not any for multistep methods."""
    growth: float = getattr(method, "max_growth", math.inf)
    return growth


def is_uniform(method: Method) -> TypeGuard[Uniform]:
    """Return whether all steps of a method are alike."""
    return hasattr(method, "evaluations")  # isinstance takes 50 times as long


@runtime_checkable
class Invertible(Method, Protocol):
    """A method whose steps can be taken back algebraically, to rounding."""

    def undo(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> Carry:
        """Return the carry at t, from the one that the step from t to t + dt ended with."""
        ...
