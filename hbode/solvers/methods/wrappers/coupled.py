"""A pair of states that makes any one-step method reversible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...field import Field
from ...method import Carry, Invertible, Wrapped


@dataclass(frozen=True)
class Coupled(Wrapped, Invertible):
    """The reversible scheme of McCallum and Foster (arXiv 2410.11648, 2024) over a one-step method, for damped systems.

    With Ψ_s(t, y) the state that the base method reaches in a step of length s, y and z go on as

        y⁺ = λ d (y - z) + Ψ_s(t, z),    z⁺ = y⁺ + d (z - Ψ_-s(t + s, y⁺)),    d = exp(-γs/2),

    which is solved for (y, z) without iteration, at any s. With d = 1 it is the published scheme, in which y - z is
    multiplied by λ exp(-sA) in a step on y' = A y, and grows where the system decays. This is the same scheme
    for exp(γt/2) y: the factor is λ exp(-s(A + γ)), whose eigenvalues for a heavy ball are λ times those of exp(sA).

    Both are solutions of the order of the base method; y is the one given out. The error estimate is that of the
    base method's step from z. The carry is (y, z, what the base method reuses at z); a step costs two of the base
    method, and shares nothing between them.

    Parameters
    ----------
    base
        A one-step method: its carry is the state and what follows from it.
    coupling
        λ in (0, 1]: close to 1, since a step taken back multiplies what rounding leaves of y - z by 1 / λ.

    Examples
    --------
    >>> from hbode.solvers import Coupled, as_method
    >>> Coupled(as_method("rk4")).coupling
    0.999
    """

    coupling: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.coupling <= 1:
            raise ValueError(f"options['coupling'] must be in (0, 1], got {self.coupling:g}")

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        return y, *self.base.start(field, t, y)

    def resume(self, field: Field, t: Tensor, carry: Carry) -> Carry:
        return carry[0], *self.base.resume(field, t, carry[1:])

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, tuple[Any, Tensor, Tensor]]:
        y, *at_z = carry
        gap, decay = y - at_z[0], self._decay(field, t, dt, y)
        moved, stages = self.base.step(field, t, dt, tuple(at_z))
        left = self.coupling * decay
        y1 = moved[0] + left * gap
        z1 = y1 + decay * (at_z[0] - self._reached(field, t + dt, -dt, y1))
        return (y1, *self.base.start(field, t + dt, z1)), (stages, gap, left)

    def undo(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> Carry:
        y1, z1, *_ = carry
        decay = self._decay(field, t, dt, y1)
        z = self._reached(field, t + dt, -dt, y1) + (z1 - y1) / decay
        at_z = self.base.start(field, t, z)
        moved, _ = self.base.step(field, t, dt, at_z)
        return z + (y1 - moved[0]) / (self.coupling * decay), *at_z

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return self.base.slope(field, carry[1:])

    def error(self, stages: tuple[Any, Tensor, Tensor]) -> Tensor:
        return self.base.error(stages[0])

    def interpolate(self, stages: tuple[Any, Tensor, Tensor], theta: Tensor) -> Tensor:
        base, gap, left = stages
        share = theta.reshape(len(theta), *[1] * (gap.ndim + 1 - theta.ndim), *theta.shape[1:]).to(left.dtype)
        return torch.addcmul(self.base.interpolate(base, theta), 1 - (1 - left) * share, gap)

    def _decay(self, field: Field, t: Tensor, dt: Tensor, y: Tensor) -> Tensor:
        """Return exp(-γ dt / 2), which meets the state, with the γ of the time t."""
        return torch.exp(-0.5 * field.damping_at(t).gamma * dt).to(y.real.dtype)

    def _reached(self, field: Field, t: Tensor, dt: Tensor, y: Tensor) -> Tensor:
        """Return Ψ_dt(t, y)."""
        return self.base.step(field, t, dt, self.base.start(field, t, y))[0][0]
