"""Nonlinear conjugate gradients (Fletcher, Reeves, Computer J. 7, 1964)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..equation import Answer, Equation, dot, exact_length
from .progress import Progress


@dataclass(frozen=True)
class FletcherReeves:
    """Conjugate directions with the exact step along each; they start afresh where one does not descend.

    Parameters
    ----------
    iterations
        The most steps; each costs an evaluation and a product.

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> from hbode.solvers.implicit.inner import FletcherReeves
    >>> options = {"inner": FletcherReeves()}
    >>> sol = hbodeint(lambda t, h: -100 * h, torch.ones(2), [0.0, 1.0], method="prox_bdf2", options=options)
    >>> sol.stats.success
    True
    """

    iterations: int = 1000

    def __call__(self, equation: Equation, z: Tensor, scale: Tensor, limit: float) -> Answer:
        at = equation.linearised(z)
        progress = Progress(equation, scale, limit, z, at.value)
        direction, square = -at.value, dot(at.value, at.value)
        for _ in range(self.iterations):
            open_rows = progress.open(at.value)
            if open_rows is None:
                break
            length = exact_length(-at.value, direction, at.product(direction))
            z = z + open_rows * length * direction
            at = equation.linearised(z)
            progress.add(z, at.value)
            after = dot(at.value, at.value)
            share = after / square.clamp(min=torch.finfo(z.dtype).tiny)
            following = share * direction - at.value
            fails = ~(dot(following, at.value) < 0) | (share > 4)
            direction, square = torch.where(fails, -at.value, following), after
        return progress.answer()
