"""Generalised conjugate residuals for rows of linear equations, without preconditioner."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SETTLED = 3.0
"""How large the last step may be, over the limit of the residual."""


@torch.no_grad()
def solve_rows(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    norm: Callable[[Tensor], Tensor],
    limit: Tensor,
    kept: int = 40,
    most: int = 400,
) -> tuple[Tensor, Tensor]:
    """Solve A x = b for each row of b (B, n), from x = 0, minimising the residual over a growing Krylov space.

    The iterates are those of GMRES (Eisenstat, Elman, Schultz, SIAM J. Numer. Anal. 20, 1983). Unlike there, x and
    the residual are at hand after each product, so that any norm can tell when to stop. A new direction is the
    residual, or, where the last step got nowhere along it, the last image; so that no matrix breaks the iteration down
    before the space is exhausted. It ends when the residual is small and the last step was, too: of a matrix far from
    normal, such as that of a heavy ball as a first-order system, a small residual may hide a large error. Rows that are
    done wait for the others. The host looks once a product.

    Parameters
    ----------
    product
        v ↦ A v for rows (B, n).
    b
        Right-hand sides (B, n).
    norm, limit
        Norms (B,) of rows, and how small (B,) that of b - A x is to become.
    kept, most
        How many directions are kept, and the most products. When so many directions are there, they are dropped.

    Returns
    -------
    x, converged
        (B, n) and (B,).
    """
    x, residual = torch.zeros_like(b), b
    kept = min(kept, max(b.shape[1], 1))
    directions, images = b.new_empty(2, kept, *b.shape).unbind()
    eps = torch.finfo(b.dtype).eps
    stuck = torch.zeros(len(b), 1, dtype=torch.bool, device=b.device)
    image = residual
    at = 0
    moved = torch.zeros_like(limit)
    for _ in range(most + 1):
        done = (norm(residual) <= limit) & (moved <= SETTLED * limit)
        if bool(done.all()):
            break
        if at == kept:
            at = 0
        direction = torch.where(stuck, image, residual)
        image = product(direction)
        length = torch.linalg.vector_norm(image, dim=1, keepdim=True)
        for _ in range(2):  # twice is enough
            share = torch.einsum("jbn,bn->jb", images[:at], image)
            image = image - torch.einsum("jbn,jb->bn", images[:at], share)
            direction = direction - torch.einsum("jbn,jb->bn", directions[:at], share)
        rest = torch.linalg.vector_norm(image, dim=1, keepdim=True)
        new = (rest > 10 * eps * length) & ~done.unsqueeze(1)  # else it lies in the space already
        directions[at], images[at] = torch.where(new, direction / rest, 0.0), torch.where(new, image / rest, 0.0)
        image = images[at]
        step = (image * residual).sum(1, keepdim=True)
        stuck = step.abs() <= 1e-3 * torch.linalg.vector_norm(residual, dim=1, keepdim=True)
        moved = torch.where(done, moved, norm(step * directions[at]))
        x, residual = x + step * directions[at], residual - step * image
        at += 1
    return x, norm(residual) <= limit
