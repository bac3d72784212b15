"""Steepest descent, the residual in the place of the gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..equation import Answer, Equation, exact_length
from .progress import Progress


@dataclass(frozen=True)
class GradientDescent:
    """z ← z - α g(z), with the α that is exact where g is linear.

    Parameters
    ----------
    iterations
        The most steps; each costs an evaluation and a product.

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> from hbode.solvers.implicit.inner import GradientDescent
    >>> options = {"inner": GradientDescent()}
    >>> sol = hbodeint(lambda t, h: -100 * h, torch.ones(2), [0.0, 1.0], method="prox_bdf2", options=options)
    >>> sol.stats.success
    True
    """

    iterations: int = 1000

    def __call__(self, equation: Equation, z: Tensor, scale: Tensor, limit: float) -> Answer:
        at = equation.linearised(z)
        progress = Progress(equation, scale, limit, z, at.value)
        for _ in range(self.iterations):
            open_rows = progress.open(at.value)
            if open_rows is None:
                break
            z = z - open_rows * exact_length(at.value, at.value, at.product(at.value)) * at.value
            at = equation.linearised(z)
            progress.add(z, at.value)
        return progress.answer()
