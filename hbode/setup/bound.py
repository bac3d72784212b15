"""A system with its arguments, as the field that a solver steps by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..piecewise import Pieces
from ..solvers import Autocast, Damping, Field, VaryingDamping, real_dtype
from ..solvers.field import Split, checked
from ..systems import Lienard, System, VectorField
from ..systems.coefficients import OfTime
from ..systems.split_field import SplitField
from .arguments import as_coefficient


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

    γ and ξ are those that are constant. With the knots of an input, the first of the arguments are its coefficients, in
    whose place f gets its value. A field in two parts is divided: what the system adds to it goes with the stiff one.
    """
    given = _constant(args) if knots is None else _driven(Pieces(knots, args[0]), args[1:])
    whole = _field(system, damped, h0, gamma, xi, given, precision)
    if isinstance(system.f, SplitField):
        parts = (_field(system.around(f), damped, h0, gamma, xi, given, precision).fn for f in _parts(system, system.f))
        stiff, nonstiff, rest = parts
        whole.split = Split(stiff, lambda t, y: nonstiff(t, y) - rest(t, y))
    return whole


def _parts(system: System, f: SplitField) -> tuple[VectorField, ...]:
    """Return both parts, and the field that leaves of a system what is not f."""

    def none(t: Tensor, h: Tensor, *args: Any) -> Any:
        zero = torch.zeros_like(h)
        return (zero, zero) if system.damped_by_position else zero

    return f.stiff, f.nonstiff, none


def _field(
    system: System,
    damped: bool,
    h0: Tensor,
    gamma: Tensor | None,
    xi: Tensor | None,
    given: Callable[[Tensor], Sequence[Any]],
    precision: Autocast,
) -> Field:
    if system.varying != (None, None):
        return _varying_field(system, damped, h0, gamma, xi, given, precision)
    real = real_dtype(h0)
    damping = Damping.of(gamma, xi, h0)
    if damped and isinstance(system, Lienard):
        forces = system.forces
        pair = precision.around(lambda t, h: torch.stack(forces(t, h, *given(t))))
        return Field(pair, real, damping, system.activation, damped_by_position=True)
    if damped:
        f = system.f
        force = precision.around(lambda t, h: checked(f(t, h, *given(t)), h))
        return Field(force, real, damping, system.activation, diffusion=system.diffusion)
    g, x = (None if c is None else c.to(h0.dtype) for c in (gamma, xi))
    return Field(precision.around(lambda t, y: system.rhs(t, y, g, x, *given(t))), real, damping)


def _varying_field(
    system: System,
    damped: bool,
    h0: Tensor,
    gamma: Tensor | None,
    xi: Tensor | None,
    given: Callable[[Tensor], Sequence[Any]],
    precision: Autocast,
) -> Field:
    """Return the field where γ or ξ depend on the time; in the damped form, -ξ h is a part of the force."""
    real = real_dtype(h0)
    of_gamma, of_xi = (None if function is None else _of_time(function, h0) for function in system.varying)
    linear = Damping.of(gamma, None, h0) if of_gamma is None else VaryingDamping(of_gamma, h0.new_zeros(()))
    if damped:
        f = system.f
        own = precision.around(lambda t, h: checked(f(t, h, *given(t)), h))

        def force(t: Tensor, h: Tensor) -> Tensor:
            x = xi if of_xi is None else of_xi(t)
            return own(t, h) if x is None else torch.addcmul(own(t, h), x.to(h.dtype), h, value=-1)

        return Field(force, real, linear, system.activation, diffusion=system.diffusion)
    rhs = precision.around(lambda t, y, g, x: system.rhs(t, y, g, x, *given(t)))

    def slope(t: Tensor, y: Tensor) -> Tensor:
        g, x = gamma if of_gamma is None else of_gamma(t), xi if of_xi is None else of_xi(t)
        return rhs(t, y, *(None if c is None else c.to(h0.dtype) for c in (g, x)))

    return Field(slope, real, linear)


def _of_time(function: OfTime, h0: Tensor) -> OfTime:
    return lambda t: as_coefficient(function(t), h0)


def _constant(args: Sequence[Any]) -> Callable[[Tensor], Sequence[Any]]:
    return lambda t: args


def _driven(u: Pieces, args: Sequence[Any]) -> Callable[[Tensor], Sequence[Any]]:
    """Return the arguments of f as a function of the time, which has shape (), or (B, 1, …, 1) for samples."""
    return lambda t: (u(t) if t.ndim == 0 else u.of_samples(t.reshape(-1)), *args)
