"""The cubic interpolant of a step with a fourth power, from the slopes of its stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..linear import lift
from ..methods.hermite import Hermite


class Quartic(NamedTuple):
    """Hermite's cubic plus θ² (1 - θ)² times a bulge, dt⁴ y⁗/24 in the shape of the state; error O(dt⁵)."""

    cubic: Hermite
    bulge: Tensor

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the states at θ, shape (n, *y), for θ of shape (n,) or (n, B, 1, …, 1)."""
        window = (theta * (1 - theta)).square().to(self.bulge.dtype)
        if window.ndim == 1:
            window = window.view(-1, *[1] * self.bulge.ndim)
        return self.cubic(theta) + lift(window, self.bulge.ndim, keep=1) * self.bulge


def fourth_power(a: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return weights e of the slopes of stages with the matrix a, such that dt Σ e_j k_j = dt⁴ y⁗/24 + O(dt⁵).

    The least ones that satisfy the conditions of y' = t³ and y' = J y for stages of order two: e cⁿ = 0 for n < 3,
    e c³ = 1/4, e a c² = 1/12.
    """
    size = len(a)
    matrix = np.array([[*row, *[0.0] * (size - len(row))] for row in a])
    c = matrix.sum(1)
    conditions = np.stack((c**0, c, c**2, c**3, matrix @ c**2))
    return tuple(np.linalg.lstsq(conditions, np.array([0, 0, 0, 1 / 4, 1 / 12]), rcond=None)[0].tolist())
