"""Newton's method with a Krylov solver for the corrections."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..equation import Answer, Equation, rms
from ..krylov import solve_rows


@dataclass(frozen=True)
class NewtonKrylov:
    """Inexact Newton: each correction is solved for until the linear residual is a share of the present one.

    The share follows Eisenstat and Walker's second choice (SIAM J. Sci. Comput. 17, 1996), but asks for no more than
    the limit. A row whose residual grows takes half of the correction, and half of that.

    Parameters
    ----------
    iterations
        The most corrections.
    products
        The most products for one of them.
    kept
        How many directions the Krylov solver keeps, each twice the size of a state.
    """

    iterations: int = 12
    products: int = 400
    kept: int = 40

    def __call__(self, equation: Equation, z: Tensor, scale: Tensor, limit: float) -> Answer:
        at = equation.linearised(z)
        size = rms(at.value, scale)
        share = torch.full_like(size, 0.1)
        for _ in range(self.iterations):
            if bool((~(size > limit)).all()):
                break
            goal = torch.maximum(share * size, torch.full_like(size, 0.3 * limit))
            change, _ = solve_rows(at.product, -at.value, lambda x: rms(x, scale), goal, self.kept, self.products)
            change = torch.where((size > limit).unsqueeze(1), change, 0.0)
            for _ in range(4):
                ahead = equation.linearised(z + change)
                after = rms(ahead.value, scale)
                worse = ~(after < size) & (size > limit)
                if not bool(worse.any()):
                    break
                change = torch.where(worse.unsqueeze(1), 0.5 * change, change)
            share = (0.9 * (after / size) ** 2).clamp(1e-4, 0.1).where(after.isfinite(), 0.1)
            z, at, size = z + change, ahead, after
        return Answer(z, size <= limit)
