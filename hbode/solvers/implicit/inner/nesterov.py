"""Nesterov's accelerated gradient method with adaptive restart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..equation import Answer, Equation, dot
from .progress import Progress


@dataclass(frozen=True)
class Nesterov:
    """Accelerated descent that restarts where its momentum points uphill (O'Donoghue, Candès, FoCM 15, 2015).

    The step length is one over the largest stretch of a residual by ∂g/∂z seen so far.

    Parameters
    ----------
    iterations
        The most steps; each costs an evaluation and a product.

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> from hbode.solvers.implicit.inner import Nesterov
    >>> options = {"inner": Nesterov()}
    >>> sol = hbodeint(lambda t, h: -100 * h, torch.ones(2), [0.0, 1.0], method="prox_bdf2", options=options)
    >>> sol.stats.success
    True
    """

    iterations: int = 1000

    def __call__(self, equation: Equation, z: Tensor, scale: Tensor, limit: float) -> Answer:
        ahead, before = z, z
        at = equation.linearised(z)
        progress = Progress(equation, scale, limit, z, at.value)
        stretch = torch.ones_like(z[:, :1])
        count = torch.zeros_like(stretch)
        for _ in range(self.iterations):
            open_rows = progress.open(at.value)
            if open_rows is None:
                break
            g = at.value
            image = at.product(g)
            length = torch.linalg.vector_norm(g, dim=1, keepdim=True).clamp(min=torch.finfo(g.dtype).tiny)
            stretch = torch.maximum(stretch, torch.linalg.vector_norm(image, dim=1, keepdim=True) / length)
            z = torch.where(open_rows, ahead - g / stretch, z)
            uphill = dot(g, z - before) > 0
            count = torch.where(uphill, 0.0, count + 1)
            ahead = torch.where(open_rows, z + count / (count + 3) * (z - before), ahead)
            before = z
            at = equation.linearised(ahead)
            progress.add(ahead, at.value)
        return progress.answer()
