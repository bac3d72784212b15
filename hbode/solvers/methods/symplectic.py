"""Structure-preserving steps for h' = σ(m), m' = -γ m + f(t, h) - ξ h."""

from __future__ import annotations

import torch
from torch import Tensor

from ..field import Field, damped_slope
from ..linear import lift
from ..method import Carry, Invertible, Uniform
from .hermite import Hermite, hermite_weights


class Leapfrog(Uniform, Invertible):
    """Damped leapfrog, or a symmetric composition of it.

    Half a step of exact damping, half a kick, a drift, half a kick, half a step of damping. The scheme is
    reversible, and for σ = id and f = -∇V conformally symplectic: Φᵀ Ω Φ = e^(-γs) Ω, step by step. The Jacobian
    determinant over N positions is e^(-γNs) for any f. `substeps` are the lengths, in steps, of the leapfrogs
    that are composed: (1,) is order 2, Yoshida's triple jump is order 4 (Yoshida, Phys. Lett. A 150, 1990).
    Of a damping that depends on the time, a leapfrog takes the value in its middle, and keeps its order and symmetry;
    of one that depends on the position, that of the kick beside it.

    The carry is (y, f(t, h)) with y = (h, m) stacked, and f and the damping stacked where that depends on the position.
    """

    damped = True
    damped_by_position = True

    def __init__(self, order: int, substeps: tuple[float, ...]) -> None:
        self.order = order
        self.substeps = substeps
        self.evaluations = len(substeps)

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        return y, field(t, y[0])

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, Hermite]:
        y, force = carry
        h, m = y.unbind()
        start = field.damping_at(t)
        xi = start.xi_h
        slope = damped_slope(field, carry, start)
        for fraction in self.substeps:
            middle = field.damping_at(t, dt, 0.5 * fraction)
            t = t + fraction * dt
            s = (fraction * dt).to(h.dtype)
            push, gamma = force.unbind() if field.damped_by_position else (force, middle.gamma_h)
            decay = torch.exp(-0.5 * s * gamma)
            m = m * decay + 0.5 * s * (push if xi is None else push - xi * h)
            h = h + s * (m if field.sigma is None else field.sigma(m))
            push = force = field(t, h)
            if field.damped_by_position:
                push, gamma = force.unbind()
                decay = torch.exp(-0.5 * s * gamma)
            m = (m + 0.5 * s * (push if xi is None else push - xi * h)) * decay
        carry1 = torch.stack((h, m)), force
        slope1 = damped_slope(field, carry1, field.damping_at(t))
        return carry1, Hermite(y, slope, carry1[0], slope1, dt.to(h.dtype))

    def undo(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> Carry:
        return self.step(field, t + dt, -dt, carry)[0]

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return damped_slope(field, carry)

    def interpolate(self, stages: Hermite, theta: Tensor) -> Tensor:
        return stages(theta)

    def record_shape(self, y: Tensor) -> tuple[int, ...]:
        return 4, *y.shape

    def record(self, stages: Hermite) -> Tensor:
        return stages.columns()

    def reading(self, field: Field, t: Tensor, dt: Tensor, theta: Tensor, y: Tensor) -> Tensor:
        return lift(hermite_weights(theta.to(y.dtype)), y.ndim, keep=2)


_W1 = 1 / (2 - 2 ** (1 / 3))
LEAPFROG = Leapfrog(2, (1.0,))
YOSHIDA4 = Leapfrog(4, (_W1, 1 - 2 * _W1, _W1))
