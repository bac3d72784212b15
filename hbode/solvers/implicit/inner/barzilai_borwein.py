"""Descent with two-point step lengths (Barzilai, Borwein, IMA J. Numer. Anal. 8, 1988)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..equation import Answer, Equation, dot, exact_length
from .progress import Progress


@dataclass(frozen=True)
class BarzilaiBorwein:
    """z ← z - α g(z) with the α of the last step's secant, if that is positive; the first is exact. One product.

    Parameters
    ----------
    iterations
        The most steps, an evaluation each.

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> from hbode.solvers.implicit.inner import BarzilaiBorwein
    >>> options = {"inner": BarzilaiBorwein()}
    >>> sol = hbodeint(lambda t, h: -100 * h, torch.ones(2), [0.0, 1.0], method="prox_bdf2", options=options)
    >>> sol.stats.success
    True
    """

    iterations: int = 2000

    def __call__(self, equation: Equation, z: Tensor, scale: Tensor, limit: float) -> Answer:
        at = equation.linearised(z)
        progress = Progress(equation, scale, limit, z, at.value)
        g = at.value
        length = exact_length(g, g, at.product(g))
        for _ in range(self.iterations):
            open_rows = progress.open(g)
            if open_rows is None:
                break
            move = torch.where(open_rows, -length * g, 0.0)
            after = equation.residual(z + move)
            change = after - g
            secant = dot(move, move) / dot(move, change)
            length = torch.where(torch.isfinite(secant) & (secant > 0), secant, length)
            z, g = z + move, after
            progress.add(z, g)
        return progress.answer()
