"""The exact law of an Ornstein-Uhlenbeck step, from the increment of a Brownian path and its Lévy area."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SERIES = tuple(2 * n / math.factorial(2 * n + 1) for n in range(1, 9))
"""Of (cosh y - sinh y / y) / y² in powers of y²; the next term is below rounding for |y| ≤ 1/2."""


class OrnsteinUhlenbeck(NamedTuple):
    """m(L) = decay m(0) + σ (w of_increment + n of_area) for dm = -γ m dt + σ dW, and standard normals w and n."""

    decay: Tensor
    of_increment: Tensor
    of_area: Tensor

    @classmethod
    def over(cls, gamma: Tensor, dt: Tensor | float, dtype: torch.dtype) -> OrnsteinUhlenbeck:
        """Return the weights over a step, in a dtype, from γ in float64: shape of γ dt.

        With w and n as in `BrownianPath`, the increment √L w has its exact joint law with the integral
        I = ∫ exp(-γ (L - s)) dW_s: of the variance of I, w explains all that a constant can, and n is given the rest,
        of which it explains all but O((γ L)²), a difference of O(γ² L^(5/2)) along the path. γ may be zero or negative.
        """
        x = gamma * dt
        small = x.abs() < 1.0
        near, far = torch.where(small, x, 0.5), torch.where(small, 1.0, x)
        mean = torch.where(small, _exprel(near), -torch.expm1(-far) / far)
        y = 0.5 * near
        square = y * y
        series = torch.full_like(square, SERIES[-1])
        for coefficient in SERIES[-2::-1]:
            series = torch.addcmul(torch.full_like(square, coefficient), series, square)
        # the variance of I / √L less mean², e^(-2y) y² (sinh y / y) (cosh y - sinh y / y) / y², by its root
        close = -y * torch.sqrt(torch.exp(-y) * _exprel(near) * series)
        rest = mean * (0.5 * (1.0 + torch.exp(-far)) - mean)
        away = -torch.copysign(torch.sqrt(torch.where(small, 1.0, rest)), far)
        root = torch.sqrt(dt) if isinstance(dt, Tensor) else math.sqrt(dt)
        weights = torch.exp(-x), root * mean, root * torch.where(small, close, away)
        return cls(*(weight.to(dtype) for weight in weights))


def _exprel(x: Tensor) -> Tensor:
    """Return (1 - exp(-x)) / x, one at zero, with its derivatives there to the accuracy of the fourth."""
    tiny = x.abs() < 1e-3
    safe = torch.where(tiny, 1.0, x)
    return torch.where(tiny, 1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5))), -torch.expm1(-safe) / safe)
