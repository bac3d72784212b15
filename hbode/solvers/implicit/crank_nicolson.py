"""The proximal Crank-Nicolson scheme, with an error estimate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..field import Field
from ..method import Carry
from ..methods.hermite import Hermite
from .stage import slope, solve_stage
from .step import Implicit, ImplicitStages


@dataclass(frozen=True)
class CrankNicolson(Implicit):
    """z = y + (s/2) (f(t, y) + f(t + s, z)); local error -(s³/12) y''', from the last three slopes.

    In the first step, where there are two, (s/2)(k1 - k) stands for it: an estimate of first order, too large.
    The carry is (y, slope at y, slope before it, its time), the last two equal to those of y where there are none.
    """

    order = 2
    error_order = 2

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        k = slope(field, t, y, self.settings.reduced)
        return y, k, k, t

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, ImplicitStages]:
        y, k, before, since = carry
        size = dt.to(y.real.dtype)
        known = torch.addcmul(y, size, k, value=0.5)
        z, k1, converged = solve_stage(field, t + dt, known, 0.5 * size, k, self.settings)
        past = t - since
        first = past == 0
        ratio = (dt / torch.where(first, 1.0, past)).to(size.dtype)
        curved = (k1 - k - ratio * (k - before)) * (dt / (dt + past)).nan_to_num().to(size.dtype)
        error = torch.where(first, 0.5 * size * (k1 - k), -size / 6 * curved)
        return (z, k1, k, t), ImplicitStages(Hermite(y, k, z, k1, size), error, converged)
