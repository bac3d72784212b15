"""A system with its arguments, as the field that a solver steps by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .piecewise import Pieces
from .solvers import Autocast, Damping, Field, real_dtype
from .solvers.field import checked
from .systems import System


def bound_field(
    system: System,
    damped: bool,
    h0: Tensor,
    gamma: Tensor | None,
    xi: Tensor | None,
    args: Sequence[Any],
    precision: Autocast,
    knots: Tensor | None = None,
) -> Field:
    """Return what a solver steps by, in the damped form or as y' = f(t, y).

    With the knots of an input, the first of the arguments are its coefficients, in whose place f gets its value.
    """
    given = _constant(args) if knots is None else _driven(Pieces(knots, args[0]), args[1:])
    real = real_dtype(h0)
    damping = Damping.of(gamma, xi, h0)
    if damped:
        f = system.f
        force = precision.around(lambda t, h: checked(f(t, h, *given(t)), h))
        return Field(force, real, damping, system.activation)
    g, x = (None if c is None else c.to(h0.dtype) for c in (gamma, xi))
    return Field(precision.around(lambda t, y: system.rhs(t, y, g, x, *given(t))), real, damping)


def _constant(args: Sequence[Any]) -> Callable[[Tensor], Sequence[Any]]:
    return lambda t: args


def _driven(u: Pieces, args: Sequence[Any]) -> Callable[[Tensor], Sequence[Any]]:
    """Return the arguments of f as a function of the time, which has shape (), or (B, 1, …, 1) for samples."""
    return lambda t: (u(t) if t.ndim == 0 else u.of_samples(t.reshape(-1)), *args)
