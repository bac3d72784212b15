"""Anderson's acceleration of the fixed-point iteration (J. ACM 12, 1965)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..equation import Answer, Equation
from .progress import Progress

PATIENCE = 50
"""After how many steps without a residual smaller by a tenth a row is given up."""
TRIAL = 3
"""The same with the differences of another stage, which on a nonlinear field may be of another Jacobian."""
NEAR = 100.0
"""From within how many limits a search begins once more."""


@dataclass(frozen=True)
class Anderson:
    """The combination of the last residuals that is least, and a step along it from where it leads.

    The default: a nonlinear form of GMRES (Walker, Ni, SIAM J. Numer. Anal. 49, 2011). It minimises a residual, and so
    asks nothing of the field, not even a derivative. Descent methods take the residual for a gradient, which it is for
    f = -∇F only; a learned field is no gradient field, and its eigenvalues are complex. Evaluations and products of
    prox_bdf3 (`benchmarks/stiff.py`): on the heat equation with 128 unknowns, at an error of 1e-4, 406; newton_krylov
    523, lbfgs 793, fletcher_reeves 802, barzilai_borwein 808, nesterov 1,599, gradient_descent 3,660. On a tanh network
    with rates from 1 to 1e4, at a tolerance of 1e-4, 2,835; newton_krylov 3,650, barzilai_borwein 4,989, nesterov
    11,094, lbfgs 43,248, and more for the others.

    A plain step, z ← r(z), blows up what is stiff; the length of the step is one over the largest stretch of a move by
    ∂g/∂z seen so far.

    Parameters
    ----------
    iterations
        The most steps, an evaluation each.
    kept
        How many differences are kept, each twice the size of a state.

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> from hbode.solvers.implicit.inner import Anderson
    >>> options = {"inner": Anderson()}
    >>> sol = hbodeint(lambda t, h: -100 * h, torch.ones(2), [0.0, 1.0], method="prox_bdf2", options=options)
    >>> sol.stats.success
    True
    """

    iterations: int = 400
    kept: int = 20

    def __call__(self, equation: Equation, z: Tensor, scale: Tensor, limit: float) -> Answer:
        trial = equation.secants.pairs is not None
        answer = Answer(z, torch.zeros(len(z), dtype=torch.bool, device=z.device))
        for patience in (*[TRIAL] * trial, PATIENCE, PATIENCE):
            found, near = self._searched(equation, answer.z, scale, limit, patience)
            kept = torch.where(answer.converged.unsqueeze(1), answer.z, found.z)
            answer = Answer(kept, answer.converged | found.converged)
            if bool(answer.converged.all()) or not (near or patience == TRIAL):
                break
            equation.secants.pairs = None  # those of another Jacobian, or of mere rounding near the root, lead nowhere
        return answer

    def _searched(
        self, equation: Equation, z: Tensor, scale: Tensor, limit: float, patience: int
    ) -> tuple[Answer, bool]:
        """Return what was found, and whether all that did not converge came near."""
        g = equation.residual(z)
        progress = Progress(equation, scale, limit, z, g, patience)
        kept = min(self.kept, z.shape[1])
        none = z.new_empty(*z.shape, 0)
        m, a = equation.secants.pairs or (none, none)
        stretch = _stretch(m, a).amax(1, keepdim=True) if m.shape[-1] else torch.ones_like(z[:, :1])
        for _ in range(self.iterations):
            open_rows = progress.open(g, stretch.squeeze(1))
            if open_rows is None:
                break
            move = -g / stretch
            if m.shape[-1]:
                size = torch.linalg.vector_norm(a, dim=1, keepdim=True).clamp(min=torch.finfo(g.dtype).tiny)
                q, r = torch.linalg.qr(a / size)
                eps = 10 * torch.finfo(g.dtype).eps
                r = r + torch.diag_embed((r.diagonal(dim1=1, dim2=2).abs() < eps).to(r.dtype))
                weights = torch.linalg.solve_triangular(r, q.mT @ g.unsqueeze(-1), upper=True) / size.mT
                move = move - ((m - a / stretch.unsqueeze(-1)) @ weights).squeeze(-1)
            move = open_rows * move
            after = equation.residual(z + move)
            m, a = (_with(new, old, open_rows)[..., :kept] for new, old in ((move, m), (after - g, a)))
            stretch = torch.maximum(stretch, _stretch(move.unsqueeze(-1), (after - g).unsqueeze(-1)))
            z, g = z + move, after
            progress.add(z, g)
        equation.secants.pairs = m, a
        answer = progress.answer()
        return answer, bool((answer.converged | (progress.best < NEAR * limit)).all())


def _with(new: Tensor, old: Tensor, open_rows: Tensor) -> Tensor:
    """Return columns (B, n, k + 1) with a new one first; of rows that do not move, the old ones and nothing."""
    column = new.unsqueeze(-1)
    if bool(open_rows.all()):
        return torch.cat((column, old), -1)
    return torch.where(
        open_rows.unsqueeze(-1), torch.cat((column, old), -1), torch.cat((old, torch.zeros_like(column)), -1)
    )


def _stretch(moves: Tensor, changes: Tensor) -> Tensor:
    """Return by how much moves (B, n, k) are stretched, at least one, (B, k)."""
    length, image = (torch.linalg.vector_norm(x, dim=1) for x in (moves, changes))
    stretch: Tensor = image / length
    return stretch.nan_to_num(0.0, 0.0, 0.0).clamp(min=1.0)
