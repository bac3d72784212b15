"""Newton's method with a Krylov solver for the corrections."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..equation import Answer, Equation, enough, rms
from ..krylov import solve_rows

HALVINGS = 4


@dataclass(frozen=True)
class NewtonKrylov:
    """Inexact Newton: each correction is solved for until the linear residual is a share of the present one.

    For large states and stiff equations beyond dt |λ| of some thousand: a product costs less than a step of Anderson's,
    whose least squares grow with the square of what it keeps, and 40 directions are kept.

    The share follows Eisenstat and Walker's second choice (SIAM J. Sci. Comput. 17, 1996), but asks for no more than
    the limit. A row whose residual grows takes half of the correction, and half of that. A row has converged as well
    when a correction that solves the linear equation to the limit is itself below it: of a very stiff equation,
    rounding alone may leave a residual above the limit, many times the error of z. A row that four halvings do not
    help is given up.

    Parameters
    ----------
    iterations
        The most corrections.
    products
        The most products for one of them.
    kept
        How many directions the Krylov solver keeps, each twice the size of a state.

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> from hbode.solvers.implicit.inner import NewtonKrylov
    >>> options = {"inner": NewtonKrylov()}
    >>> sol = hbodeint(lambda t, h: -100 * h, torch.ones(2), [0.0, 1.0], method="prox_bdf2", options=options)
    >>> sol.stats.success
    True
    """

    iterations: int = 6
    products: int = 400
    kept: int = 40

    def __call__(self, equation: Equation, z: Tensor, scale: Tensor, limit: float) -> Answer:
        at = equation.linearised(z)
        least = enough(z, at.value, scale, limit)
        size = rms(at.value, scale)
        share = torch.full_like(size, 0.01)
        settled = torch.zeros_like(size, dtype=torch.bool)
        lost = ~size.isfinite()
        for _ in range(self.iterations):
            going = (size > least) & ~settled & ~lost
            if not bool(going.any()):
                break
            goal = (share * size).clamp(min=0.3 * least).where(going, math.inf)
            change, solved = solve_rows(at.product, -at.value, lambda x: rms(x, scale), goal, self.kept, self.products)
            change = torch.where(going.unsqueeze(1), change, 0.0)
            settled = settled | (going & solved & (goal <= least) & (rms(change, scale) <= least))
            for _ in range(HALVINGS):
                ahead = equation.linearised(z + change)
                after = rms(ahead.value, scale)
                worse = ~(after < size) & going & ~settled
                if not bool(worse.any()):
                    break
                change = torch.where(worse.unsqueeze(1), 0.5 * change, change)
            lost = lost | (worse & ~(after < size))
            share = (0.9 * (after / size) ** 2).clamp(1e-4, 0.1).where(after < 0.5 * size, 0.3 * least / size)
            z, at, size = z + change, ahead, after
        return Answer(z, (size <= least) | settled)
