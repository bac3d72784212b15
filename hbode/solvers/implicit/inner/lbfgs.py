"""Limited-memory BFGS for rows (Nocedal, Math. Comp. 35, 1980)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..equation import Answer, Equation, dot, exact_length
from .progress import Progress


@dataclass(frozen=True)
class LBFGS:
    """Quasi-Newton directions from the last moves, with the exact step along each.

    Parameters
    ----------
    iterations
        The most steps; each costs an evaluation and a product.
    kept
        How many moves are kept, each twice the size of a state.

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> from hbode.solvers.implicit.inner import LBFGS
    >>> options = {"inner": LBFGS()}
    >>> sol = hbodeint(lambda t, h: -100 * h, torch.ones(2), [0.0, 1.0], method="prox_bdf2", options=options)
    >>> sol.stats.success
    True
    """

    iterations: int = 500
    kept: int = 10

    def __call__(self, equation: Equation, z: Tensor, scale: Tensor, limit: float) -> Answer:
        at = equation.linearised(z)
        progress = Progress(equation, scale, limit, z, at.value)
        moves: list[tuple[Tensor, Tensor, Tensor]] = []
        for _ in range(self.iterations):
            open_rows = progress.open(at.value)
            if open_rows is None:
                break
            direction = -_inverse(moves, at.value)
            direction = torch.where(dot(direction, at.value) < 0, direction, -at.value)
            move = open_rows * exact_length(-at.value, direction, at.product(direction)) * direction
            ahead = equation.linearised(z + move)
            change = ahead.value - at.value
            curvature = dot(move, change)
            weight = torch.where(curvature > 1e-12 * dot(change, change), 1 / curvature, 0.0)
            moves = [*moves[-self.kept + 1 :], (move, change, weight)]
            z, at = z + move, ahead
            progress.add(z, at.value)
        return progress.answer()


def _inverse(moves: list[tuple[Tensor, Tensor, Tensor]], g: Tensor) -> Tensor:
    """Return the approximate inverse Hessian times g: the two loops."""
    shares = []
    for move, change, weight in reversed(moves):
        share = weight * dot(move, g)
        shares.append(share)
        g = g - share * change
    if moves:
        move, change, weight = moves[-1]
        size = dot(change, change)
        g = torch.where(weight > 0, g * dot(move, change) / size.clamp(min=torch.finfo(g.dtype).tiny), g)
    for (move, change, weight), share in zip(moves, reversed(shares), strict=True):
        g = g + (share - weight * dot(change, g)) * move
    return g
