"""What the search of an inner solver has come to, row by row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..equation import ROUNDINGS, Answer, Equation, enough, rms

SOON = 4
"""After how many steps without a residual smaller by a tenth it is asked whether rounding leaves one as large."""


class Progress:
    """The best point of each row so far, and whether the search for a better one goes on.

    A search has converged as well where rounding alone explains the residual at its best point: near there, differences
    of residuals say nothing, and steps lead away again.

    Parameters
    ----------
    equation, scale, limit
        As an inner solver gets them.
    z, g
        The first point and its residual.
    patience
        After how many steps without a residual smaller by a tenth a row is given up.

    Examples
    --------
    >>> import torch
    >>> from hbode.solvers.implicit.inner import Equation, Progress
    >>> equation = Equation(lambda z: 1 - z, torch.zeros(2, 1), 0, lambda products: None)
    >>> z = torch.zeros(2, 1)
    >>> progress = Progress(equation, torch.ones(2, 1), 1e-6, z, equation.residual(z))
    >>> z = torch.full_like(z, 0.5)
    >>> progress.add(z, equation.residual(z))
    >>> progress.answer()
    Answer(z=tensor([[0.5000],
            [0.5000]]), converged=tensor([True, True]))
    """

    def __init__(
        self, equation: Equation, scale: Tensor, limit: float, z: Tensor, g: Tensor, patience: float = math.inf
    ) -> None:
        self.equation, self.scale, self.limit, self.patience = equation, scale, limit, patience
        rounding = equation.rounding
        self.last_bit = rms((rounding.amax(1, keepdim=True) if rounding.numel() else rounding) / scale)
        self.found, self.best = z, rms(g, self.scale)
        self.least = enough(z, g, self.scale, self.limit)
        self.since = torch.zeros_like(self.best)
        self.settled = self.best <= self.least

    def add(self, z: Tensor, g: Tensor) -> None:
        """Take another point and its residual."""
        size = rms(g, self.scale)
        self.since = torch.where(size < 0.9 * self.best, 0, self.since + 1)
        self.found = torch.where((size < self.best).unsqueeze(1), z, self.found)
        self.best = torch.fmin(self.best, size)
        self.settled = self.settled | (self.best <= self.least)

    def open(self, g: Tensor, stretch: Tensor | float = math.inf) -> Tensor | None:
        """Return which rows are to go on from a residual, (B, 1), or None: those neither done nor given up.

        `stretch` is a bound of the length of the Jacobian, (B,), if one is known: so large may rounding come back.
        """
        stuck = ~self.settled & (self.since == SOON) & (self.best < ROUNDINGS * stretch * self.last_bit)
        if bool(stuck.any()):
            self.settled = self.settled | (stuck & self.equation.rounded(self.found, self.scale, self.least))
        going = ~self.settled & (self.since < self.patience) & g.isfinite().all(1)
        return going.unsqueeze(1) if bool(going.any()) else None

    def answer(self) -> Answer:
        """Return the best points."""
        return Answer(self.found, self.settled)
