"""A damping that depends on the position: Liénard's equation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..solvers.field import checked
from .system import System


class Lienard(System):
    """h' = m, m' = F(t, h) - Γ(t, h) m: h'' + Γ(t, h) h' = F(t, h), damped by where it is (Liénard, 1928).

    A van der Pol oscillator, a damper whose strength depends on its stroke, a pendulum in a medium that changes from
    place to place. Phase space contracts at the rate ΣΓ(t, h), which is known without a derivative of F.

    Parameters
    ----------
    f
        ``f(t, h, *args)``, returning a pair: the force F, shape of h, and the damping Γ in 1/time, of a shape that
        broadcasts to h. Γ may be negative.

    Raises
    ------
    TypeError, ValueError
        In a solve, where f returns anything else.

    Notes
    -----
    leapfrog and yoshida4 hold the position while they damp the momentum, by the exact factor exp(-Γ dt): the
    determinant of a step is the product of these factors, for any f and any step, and a step of -dt undoes it.
    Methods for first-order systems take (m, F - Γ m). Nyström methods need a damping that does not depend on h.

    Examples
    --------
    >>> import torch
    >>> from hbode import Lienard, hbodeint
    >>> van_der_pol = Lienard(lambda t, h: (-h, 0.5 * (h * h - 1)))
    >>> sol = hbodeint(van_der_pol, torch.ones(1), [0.0, 10.0], method="leapfrog", options={"step_size": 0.01})
    """

    damped_by_position = True

    def forces(self, t: Tensor, h: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        """Return F and Γ, both of the shape and dtype of h."""
        out = self.f(t, h, *args)
        if not isinstance(out, tuple) or len(out) != 2:
            raise TypeError(f"func must return a pair, force and damping, got {type(out).__name__}")
        force, gamma = out
        if isinstance(gamma, Tensor) and gamma.shape != h.shape:
            try:
                gamma = gamma.expand_as(h)
            except RuntimeError:
                raise ValueError(
                    f"func must return a damping that broadcasts to h, {tuple(h.shape)}, got {tuple(gamma.shape)}"
                ) from None
        return checked(force, h), checked(gamma, h, name="the damping of func")

    def rhs(self, t: Tensor, y: Tensor, gamma: Tensor | None, xi: Tensor | None, *args: Any) -> Tensor:
        h, m = y.unbind()
        force, damping = self.forces(t, h, *args)
        return torch.stack((m, torch.addcmul(force, damping, m, value=-1)))
