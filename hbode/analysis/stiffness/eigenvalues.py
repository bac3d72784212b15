"""Eigenvalues of many Jacobians at once, and what they say about stiffness."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from ..linearised import asymmetry
from .jacobian import Blocks

WORTH_A_THREAD = 64
"""Matrices from which on several threads share them."""


class Eigenvalues(NamedTuple):
    """Of S Jacobians of the first-order form, P each; NaN where the Jacobian is not finite.

    Attributes
    ----------
    values
        Complex, (S, P), in no particular order.
    floor
        Below which a real part is rounding, (S,).
    log_norm
        The logarithmic norm, the largest eigenvalue of (A + Aᵀ) / 2, (S,).
    """

    values: Tensor
    floor: Tensor
    log_norm: Tensor


def eigenvalues_of(blocks: Blocks, closed_form: bool = True) -> Eigenvalues:
    """Return the eigenvalues of the Jacobians of the first-order form.

    Parameters
    ----------
    blocks
        The Jacobians.
    closed_form
        Whether those of a damped system with one γ may come from λ² + γ λ = μ, with the eigenvalues μ of
        (∂f/∂h - ξ) diag σ'(m), half the size; else from the matrix A of the first-order form.
        From det(λ - A) = det(λ (λ + γ) - (∂f/∂h - ξ) diag σ'(m)).
    """
    if closed_form and blocks.gamma is not None and blocks.gamma.ndim == 0:
        return _of_heavy_ball(blocks.force, blocks.slope, blocks.gamma)
    a = blocks.first_order()
    finite = a.isfinite().flatten(1).all(1)
    a = a.where(finite[:, None, None], 0.0)
    size, eps = a.shape[-1], torch.finfo(a.dtype).eps
    symmetric = is_symmetric(a)
    values = _parallel(torch.linalg.eigvalsh, a) + 0j if symmetric else _parallel(torch.linalg.eigvals, a)
    log_norm = values.real.amax(1) if symmetric else _parallel(torch.linalg.eigvalsh, 0.5 * (a + a.mT)).amax(1)
    return _masked(values, size * eps * values.abs().amax(1), log_norm, finite)


def _of_heavy_ball(force: Tensor, slope: Tensor | None, gamma: Tensor) -> Eigenvalues:
    finite = force.isfinite().flatten(1).all(1) & (torch.isfinite(gamma) if slope is None else slope.isfinite().all(1))
    k = force.where(finite[:, None, None], 0.0)
    d = None if slope is None else slope.where(finite[:, None], 0.0)
    n, eps = k.shape[-1], torch.finfo(k.dtype).eps
    if is_symmetric(k) and (d is None or bool((d >= 0).all())):
        # K D has the eigenvalues of the symmetric D^½ K D^½.
        root = None if d is None else d.sqrt()
        mu = _parallel(torch.linalg.eigvalsh, k if root is None else root.unsqueeze(2) * k * root.unsqueeze(1)) + 0j
    else:
        mu = _parallel(torch.linalg.eigvals, k if d is None else k * d.unsqueeze(1))
    rounding = n * eps * mu.abs().amax(1)
    mu = mu.where(mu.abs() > rounding.unsqueeze(1), 0.0)
    values = quadratic_roots(mu, gamma).flatten(1)
    # The sum of the roots and, for real μ, their product are exact, so that little of the error of μ is left in them.
    exact = bool((mu.imag == 0).all())
    floor = (8 if exact else 2 * n) * eps * values.abs().amax(1)
    # The symmetric part is [[0, M], [Mᵀ, -γ]] with 2 M = D + Kᵀ, and has the eigenvalues λ² + γ λ = s² for singular
    # values s of M.
    twice = k + (torch.eye(n, dtype=k.dtype, device=k.device) if d is None else torch.diag_embed(d))
    squares = _parallel(torch.linalg.eigvalsh, 0.25 * (twice.mT @ twice)).amax(1).clamp(min=0.0)
    log_norm = quadratic_roots(squares + 0j, gamma).real.amax(-1)
    return _masked(values, floor, log_norm, finite)


def quadratic_roots(mu: Tensor, gamma: Tensor) -> Tensor:
    """Return both roots of λ² + γ λ - μ = 0 on a new last axis, for complex μ (...) and γ of shape ().

    Neither loses digits: the one of larger modulus is a sum without cancellation, the other the product -μ over it,
    unless they are far enough from each other in real part or from zero.
    """
    half = 0.5 * gamma
    root = torch.sqrt(half * half + mu)
    root = torch.where(half < 0, -root, root)
    far, near = -(half + root), root - half
    cancels = near.abs() < 0.5 * far.abs()
    return torch.stack((far, torch.where(cancels, -mu / torch.where(cancels, far, 1.0), near)), -1)


def is_symmetric(matrices: Tensor) -> bool:
    """Return whether all matrices (S, N, N) are symmetric to rounding."""
    return asymmetry(matrices.flatten(1), matrices.mT.flatten(1)) <= 100 * torch.finfo(matrices.dtype).eps


def _masked(values: Tensor, floor: Tensor, log_norm: Tensor, finite: Tensor) -> Eigenvalues:
    nan = torch.nan
    return Eigenvalues(
        values.where(finite.unsqueeze(1), complex(nan, nan)), floor.where(finite, nan), log_norm.where(finite, nan)
    )


def _parallel(solve: Callable[[Tensor], Tensor], matrices: Tensor) -> Tensor:
    """Apply a solver of torch.linalg to (S, N, N), on the CPU by several threads: it goes matrix by matrix itself."""
    threads = torch.get_num_threads()
    if matrices.device.type != "cpu" or threads < 2 or len(matrices) < WORTH_A_THREAD:
        return solve(matrices)
    with ThreadPoolExecutor(threads) as pool:
        return torch.cat(list(pool.map(solve, matrices.chunk(4 * threads))))
