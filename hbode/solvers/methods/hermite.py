"""Cubic Hermite interpolation of a step, for methods without an interpolant of their own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..linear import combine_rows, lift


class Hermite(NamedTuple):
    """States and derivatives at both ends of a step of length dt; error O(dt⁴)."""

    y0: Tensor
    f0: Tensor
    y1: Tensor
    f1: Tensor
    dt: Tensor | float

    def columns(self) -> Tensor:
        """Return what the interpolant is a linear combination of, shape (4, *y)."""
        return torch.stack((self.y0, self.dt * self.f0, self.y1, self.dt * self.f1))

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the states at θ, shape (n, *y), for θ of shape (n,) or (n, B, 1, …, 1)."""
        return combine_rows(lift(hermite_weights(theta.to(self.y0.dtype)), self.y0.ndim, keep=2), self.columns())


def hermite_weights(theta: Tensor) -> Tensor:
    """Return the weights of the columns at θ (n, ...), shape (n, 4, ...)."""
    rest = 1 - theta
    return torch.stack(((1 + 2 * theta) * rest**2, theta * rest**2, (3 - 2 * theta) * theta**2, -rest * theta**2), 1)
