"""The ends of the spectrum of a Jacobian from products with vectors, for states too large for matrices."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..krylov import Key, Product, arnoldi, lanczos
from ..linearised import Linearised, asymmetry
from .eigenvalues import quadratic_roots
from .jacobian import SystemStates

KEPT = 40
"""Vectors that Arnoldi's method keeps."""


@torch.no_grad()
def ends(trajectory: SystemStates, n: int, reduced: bool, tol: float, most: int) -> tuple[Tensor, Tensor, str]:
    """Return the least and the largest Re λ, the largest |λ| and that of (A + Aᵀ) / 2 at state n.

    What did not converge is the best that was found.

    If `reduced`, a damped system with one γ is looked at through (∂f/∂h - ξ) diag σ'(m), of half the size, whose
    eigenvalues μ belong to λ² + γ λ = μ. The sets {max Re λ ≤ c}, {min Re λ ≥ c} and {|λ| ≤ c} of such μ are convex,
    or so is their image on the real axis: the extreme λ come from extreme μ, which are what Krylov methods find.

    Parameters
    ----------
    trajectory, n
        Where.
    reduced
        Whether the system is damped, with one γ, and to be looked at so.
    tol, most
        Relative error asked for, and the most products of each search.

    Returns
    -------
    tuple
        The four (4, B); whether each converged (4, B); whose method found the eigenvalues.
    """
    first_order = trajectory.linearised(n)
    whole = partial(_push, first_order)
    product, symmetric = _reduced(trajectory, n) if reduced else (whole, is_symmetric(first_order))
    start = _start(trajectory, trajectory.size // 2 if reduced else trajectory.size)
    gamma = trajectory.coefficients()[0].double().cpu() if reduced else None
    if symmetric:
        found, by = lanczos(product, start, tol, most), "Lanczos"
        rates = _of(found.values.real + 0j, gamma)
        scores = torch.stack((-rates.real.amin(-1), rates.real.amax(-1), rates.abs().amax(-1)))
        best, end = scores.max(-1)
        values = torch.stack((-best[0], best[1], best[2]))
        converged = found.converged.expand(3, -1, -1).gather(2, end.unsqueeze(2)).squeeze(2)
        if not reduced:
            return torch.cat((values, values[1:2])), torch.cat((converged, converged[1:2])), by
    else:
        keys: list[Key] = [partial(_score, end=end, gamma=gamma) for end in ("left", "right", "size")]
        found, by = arnoldi(product, start, keys, tol, KEPT, most), "Arnoldi"
        rates = _of(found.values, gamma)
        values = torch.stack((rates[:, 0].real.amin(1), rates[:, 1].real.amax(1), rates[:, 2].abs().amax(1)))
        converged = found.converged.T
    norm = lanczos(
        partial(_symmetrised, first_order), _start(trajectory, trajectory.size), tol, most, largest_only=True
    )
    return torch.cat((values, norm.values[:, 1:].real.T)), torch.cat((converged, norm.converged[:, 1:].T)), by


def is_symmetric(linear: Linearised) -> bool:
    """Return whether J v = Jᵀ v to rounding for a random v, which a matrix that is not symmetric has never been seen
    to do."""
    layout = linear.layout
    v = _normal(layout.samples, layout.size, 1).to(linear.y).unsqueeze(0)
    return asymmetry(linear.push(v), linear.pull(v)) <= 100 * torch.finfo(v.dtype).eps


def _reduced(trajectory: SystemStates, n: int) -> tuple[Product, bool]:
    """Return products with (∂f/∂h - ξ) D, or, if symmetric, with D^½ (∂f/∂h - ξ) D^½, and whether they are."""
    linear = trajectory.linearised_force(n)
    xi, d = trajectory.coefficients()[1], trajectory.activation_slope(n)
    symmetric = is_symmetric(linear) and (xi.ndim == 0 or d is None) and (d is None or bool((d >= 0).all()))
    left, right = (None, d) if d is None or not symmetric else (d.sqrt(), d.sqrt())

    def product(v: Tensor) -> Tensor:
        v = v if right is None else right * v
        image = _push(linear, v) - xi * v
        return image if left is None else left * image

    return product, symmetric


def _push(linear: Linearised, v: Tensor) -> Tensor:
    return linear.push(v.unsqueeze(0))[0]


def _symmetrised(linear: Linearised, v: Tensor) -> Tensor:
    return 0.5 * (linear.push(v.unsqueeze(0)) + linear.pull(v.unsqueeze(0)))[0]


def _of(values: Tensor, gamma: Tensor | None) -> Tensor:
    """Return the λ (B, k, …) that belong to what a Krylov method found (B, k)."""
    return values.unsqueeze(-1) if gamma is None else quadratic_roots(values, gamma.to(values.real))


def _score(values: Tensor, end: str, gamma: Tensor | None) -> Tensor:
    rates = _of(values, gamma)
    if end == "size":
        return rates.abs().amax(-1)
    return rates.real.amax(-1) if end == "right" else -rates.real.amin(-1)


def _start(trajectory: SystemStates, size: int) -> Tensor:
    return _normal(trajectory.samples, size, 0).to(trajectory.y)


def _normal(samples: int, size: int, seed: int) -> Tensor:
    return torch.randn(samples, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
