"""A pair of states that makes any one-step method reversible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .field import Field
from .method import Carry, Method


@dataclass(frozen=True)
class Coupled:
    """The reversible scheme of McCallum and Foster (arXiv 2410.11648, 2024) over a one-step method Ψ.

    With Ψ_s the increment of a step of length s, the states y and z go on as

        y⁺ = λ y + (1 - λ) z + Ψ_s(t, z),    z⁺ = z - Ψ_-s(t + s, y⁺),

    which is solved for (y, z) without iteration, at any s. Both are solutions of the order of the base method; y is
    the one given out. The error estimate is that of the base method's step from z. The carry is (y, z, what the
    base method reuses at z); a step costs two of the base method, and shares nothing between them.

    Parameters
    ----------
    base
        A one-step method: its carry is the state and what follows from it.
    coupling
        λ in (0, 1]. What rounding leaves of y - z grows by 1 / λ in a step taken back; what stability there is
        forwards comes from λ < 1.
    """

    base: Method
    coupling: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.coupling <= 1:
            raise ValueError(f"options['coupling'] must be in (0, 1], got {self.coupling:g}")

    @property
    def damped(self) -> bool:
        return self.base.damped

    @property
    def identity_only(self) -> bool:
        return self.base.identity_only

    @property
    def order(self) -> int:
        return self.base.order

    @property
    def error_order(self) -> int | None:
        return self.base.error_order

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        return y, *self.base.start(field, t, y)

    def resume(self, field: Field, t: Tensor, carry: Carry) -> Carry:
        return carry[0], *self.base.resume(field, t, carry[1:])

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, tuple[Any, Tensor]]:
        y, *at_z = carry
        gap = y - at_z[0]
        moved, stages = self.base.step(field, t, dt, tuple(at_z))
        y1 = torch.add(moved[0], gap, alpha=self.coupling)
        z1 = at_z[0] - self._increment(field, t + dt, -dt, y1)
        return (y1, *self.base.start(field, t + dt, z1)), (stages, gap)

    def undo(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> Carry:
        y1, z1, *_ = carry
        z = z1 + self._increment(field, t + dt, -dt, y1)
        at_z = self.base.start(field, t, z)
        moved, _ = self.base.step(field, t, dt, at_z)
        return z + (y1 - moved[0]) / self.coupling, *at_z

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return self.base.slope(field, carry[1:])

    def error(self, stages: tuple[Any, Tensor]) -> Tensor:
        return self.base.error(stages[0])

    def interpolate(self, stages: tuple[Any, Tensor], theta: Tensor) -> Tensor:
        base, gap = stages
        share = 1 - (1 - self.coupling) * theta
        share = share.reshape(len(theta), *[1] * (gap.ndim + 1 - theta.ndim), *theta.shape[1:])
        return torch.addcmul(self.base.interpolate(base, theta), share.to(gap.dtype), gap)

    def _increment(self, field: Field, t: Tensor, dt: Tensor, y: Tensor) -> Tensor:
        """Return Ψ_dt(t, y)."""
        return self.base.step(field, t, dt, self.base.start(field, t, y))[0][0] - y
