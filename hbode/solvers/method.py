"""What a method is: a pure step, its error estimate and its interpolant."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .field import Field

Carry = tuple[Tensor, ...]
"""What one step hands to the next: the state first, then what the method reuses."""
Advance = Callable[[Field, Any, Any, Carry], tuple[Carry, Any]]
"""A step of a method; time and length are tensors, or numbers where the method takes them."""


class Method(ABC):
    """A step and what can be read off it: the base of all methods.

    The state `y` is one tensor: h of shape (...) for a first-order system, (h, m) stacked on a new first axis,
    shape (2, ...), for a second-order one. `t` and `dt` are float64 tensors of shape (), or of shape
    (B, 1, …, 1) with as many axes as h where every sample steps by itself; `dt` is negative in decreasing time.

    ``step`` also returns a `stages` record, private to the method, from which the rest is computed when, and only
    when, somebody asks for it. A method has `order` and the four abstract members; what else it does not have, it
    inherits.

    Examples
    --------
    >>> from hbode.solvers import Method, as_method
    >>> isinstance(as_method("rk4"), Method), as_method("rk4").order
    (True, 4)
    """

    order: int
    """Order of the steps: local errors are O(dt^(order + 1))."""
    error_order: int | None = None
    """Order of the error estimates, which are O(dt^(error_order + 1)); None where there are none."""
    damped: bool = False
    """True: integrates h'' + γ h' + ξ h = field(t, h), with `field.damping_at`. False: y' = field(t, y)."""
    damped_by_position: bool = False
    """Of the damped methods: whether the damping may depend on the position, as `Field.damped_by_position` says."""
    identity_only: bool = False
    """Of the damped methods: whether h' = m is needed, rather than any h' = σ(m)."""
    explicit_one_step: bool = True
    """Whether a step is computed from the state alone, without iteration: it can be coupled, and transposed."""
    max_growth: float = math.inf
    """How many times as long as the one before it a step may be: not any for multistep methods."""
    numbers: bool = False
    """Whether steps, and `start`, take `t` and `dt` as numbers too: where they are constants, that is faster."""

    def _declare(self, **members: Any) -> None:
        """Set members of a method that is being made, also of a frozen one."""
        vars(self).update(members)

    @abstractmethod
    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        """Return the first carry at (t, y)."""

    @abstractmethod
    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, Any]:
        """Advance by `dt`: a pure function of its tensors, differentiable, without hidden state."""

    @abstractmethod
    def slope(self, field: Field, carry: Carry) -> Tensor:
        """Return dy/dt at the carry, from what it already holds."""

    @abstractmethod
    def interpolate(self, stages: Any, theta: Tensor) -> Tensor:
        """Return the states at t + θ dt, shape (n, *state), for θ of shape (n,) or (n, B, 1, …, 1)."""

    def resume(self, field: Field, t: Tensor, carry: Carry) -> Carry:
        """Return the carry after a discontinuity of the field at t, from the one before it."""
        return self.start(field, t, carry[0])

    def last_step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, Any]:
        """Advance by `dt` where no other step follows.

        A method that hands a slope at the end of its steps on to the next may leave it out. Its interpolant, where it
        needs that slope, evaluates the field when it is asked, and each time.
        """
        return self.step(field, t, dt, carry)

    def error(self, stages: Any) -> Tensor:
        """Return the local error estimate of a step, in the shape of the state."""
        raise NotImplementedError(f"{type(self).__name__} has no error estimate; it runs on a fixed grid")

    def converged(self, stages: Any) -> Tensor | None:
        """Return for which samples an implicit step was solved, (B,) or (1,); None for explicit ones: always."""
        return None

    def stiffness(self, stages: Any) -> Tensor | None:
        """Return how near a step came to the boundary of stability, () or (B,): one is on it; None: not known.

        For explicit steps that are chosen by their errors.
        """
        return None


class Uniform(Method):
    """A method whose steps are all alike and can be recorded as one tensor each, so that a loop of them compiles.

    Examples
    --------
    >>> from hbode.solvers import Uniform, as_method
    >>> isinstance(as_method("dopri5"), Uniform)
    True
    """

    evaluations: int
    """How often a step evaluates the field."""

    def lay_out(self, device: torch.device) -> None:
        """Make the constants of the method on a device, once; what follows finds them there."""

    def prepare(self, field: Field, axes: int) -> None:
        """Make what a step makes once for a field, and keep it there, for a dt of so many axes."""

    @abstractmethod
    def record_shape(self, y: Tensor) -> tuple[int, ...]:
        """Return the shape of a record."""

    @abstractmethod
    def record(self, stages: Any) -> Tensor:
        """Return the columns, shape (k, ...), of which dense output is a linear combination."""

    @abstractmethod
    def reading(self, field: Field, t: Tensor, dt: Tensor, theta: Tensor, y: Tensor) -> Tensor:
        """Return the weights of the columns, one row after the other, for fractions θ of steps dt from t.

        All have shape (n,), or (n, B, 1, …, 1); the weights are (n r, k), or (n r, k, ...) to be multiplied with
        columns (k, ...), for the r parts of a state that are read apart.
        """


class Invertible(Method):
    """A method whose steps can be taken back algebraically, to rounding.

    Examples
    --------
    >>> from hbode.solvers import Invertible, as_method
    >>> isinstance(as_method("leapfrog"), Invertible)
    True
    """

    @abstractmethod
    def undo(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> Carry:
        """Return the carry at t, from the one that the step from t to t + dt ended with."""


@dataclass(frozen=True)
class Wrapped(Method):
    """A method that has the form and the orders of its base."""

    base: Method

    def __post_init__(self) -> None:
        base = self.base
        self._declare(damped=base.damped, identity_only=base.identity_only, explicit_one_step=base.explicit_one_step)
        self._declare(order=base.order, error_order=base.error_order)
