"""Inner solvers that the proximal paper names and that measurement found to serve nobody (see `inner_solvers.py`).

Baker, Xia, Wang, Cherkaev, Narayan, Chen, Xin, Bertozzi, Osher, Wang (2022) solve implicit steps by gradient descent,
Nesterov's method with restart, Fletcher-Reeves, Barzilai-Borwein and L-BFGS. The last three are in the package; these
two are passed as objects: options={"inner": Nesterov()}.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hbode.solvers.implicit.equation import dot, exact_length
from hbode.solvers.implicit.inner import Answer, Equation, Inner, Progress


@dataclass(frozen=True)
class GradientDescent:
    """z ← z - α g(z), with the α that is exact where g is linear.

    Parameters
    ----------
    iterations
        The most steps; each costs an evaluation and a product.
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


@dataclass(frozen=True)
class Nesterov:
    """Accelerated descent that restarts where its momentum points uphill (O'Donoghue, Candès, FoCM 15, 2015).

    The step length is one over the largest stretch of a residual by ∂g/∂z seen so far.

    Parameters
    ----------
    iterations
        The most steps; each costs an evaluation and a product.
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


OTHERS: dict[str, Inner] = {"nesterov": Nesterov(), "gradient_descent": GradientDescent()}
