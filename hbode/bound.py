"""A system with its arguments, as the field that a solver steps by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

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
) -> Field:
    """Return what a solver steps by, in the damped form or as y' = f(t, y)."""
    real = real_dtype(h0)
    damping = Damping.of(gamma, xi, h0)
    if damped:
        f = system.f
        force = precision.around(lambda t, h: checked(f(t, h, *args), h))
        return Field(force, real, damping, system.activation)
    g, x = (None if c is None else c.to(h0.dtype) for c in (gamma, xi))
    return Field(precision.around(lambda t, y: system.rhs(t, y, g, x, *args)), real, damping)
