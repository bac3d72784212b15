"""Cubic Hermite interpolation of a step, for methods without an interpolant of their own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .linear import combine_rows, lift


class Hermite(NamedTuple):
    """States and derivatives at both ends of a step of length dt; error O(dt⁴)."""

    y0: Tensor
    f0: Tensor
    y1: Tensor
    f1: Tensor
    dt: Tensor

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the states at θ, shape (n, *y), for θ of shape (n,) or (n, B, 1, …, 1)."""
        x = theta.to(self.y0.dtype)
        rest = 1 - x
        weights = torch.stack(((1 + 2 * x) * rest**2, x * rest**2, (3 - 2 * x) * x**2, -rest * x**2), 1)
        columns = torch.stack((self.y0, self.dt * self.f0, self.y1, self.dt * self.f1))
        return combine_rows(lift(weights, self.y0.ndim, keep=2), columns)
