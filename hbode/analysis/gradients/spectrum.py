"""Singular values, determinants and eigenvalue pairs of a propagator, from its matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .propagator import Propagator, PropagatorError


class Spectrum:
    """What is known of Φ(T, t_n) at the nodes: shape (N + 1, B), float64 on the CPU, NaN where unknown.

    Attributes
    ----------
    log_det
        log|det Φ|.
    log_rms
        log(‖Φ‖_F / √P).
    log_largest, log_smallest
        Logarithms of the outermost singular values.
    log_gradient
        log ‖Φᵀ g‖ for the gradient g of a loss with respect to the state at T.
    conformal
        Sum over the steps from t_n on of ‖Jᵀ Ω J - e^(-γ dt) Ω‖ relative to ‖J‖², for one damping γ.
    pair_sums
        The largest |log s_i + log s_(P+1-i) + γ (T - t_n)| over the pairs of singular values that rounding spares.
    log_det_error, log_rms_error
        Standard errors of what was estimated from random vectors; zero where nothing was.
    positive
        Whether every det J_n was found to be positive.
    notes
        What could not be found, and why.
    """

    def __init__(self, propagator: Propagator) -> None:
        shape = propagator.count + 1, propagator.samples
        unknown = torch.full((7, *shape), math.nan, dtype=torch.float64).unbind()
        self.log_det, self.log_rms, self.log_largest, self.log_smallest, self.log_gradient = unknown[:5]
        self.conformal, self.pair_sums = unknown[5:]
        self.log_det_error, self.log_rms_error = torch.zeros(2, *shape, dtype=torch.float64).unbind()
        self.positive = True
        self.notes: list[str] = []


def scaled(x: Tensor, dims: int = 1) -> tuple[Tensor, Tensor]:
    """Return `x` with unit norm over its last axes, and the logarithm of its norm; zero stays zero."""
    norm = torch.linalg.vector_norm(x, dim=tuple(range(-dims, 0)), keepdim=True)
    return x / norm.where(norm > 0, 1.0), norm.log()[(..., *[0] * dims)]


def symplectic(x: Tensor) -> Tensor:
    """Return Ω x with Ω = [[0, I], [-I, 0]], for vectors (..., P) of h and m."""
    h, m = x.chunk(2, -1)
    return torch.cat((m, -h), -1)


def dense_spectrum(propagator: Propagator, gradient: Tensor | None, gamma: float | None) -> Spectrum:
    """Measure Φ(T, t_n) at every node, from the matrices of its steps; small singular values of second-order systems.

    Parameters
    ----------
    propagator
        Of the solve.
    gradient
        Of a loss with respect to the state at T, shape (1, B, P).
    gamma
        The damping, where one number is the damping of all channels.

    Raises
    ------
    PropagatorError
        If the Jacobian of a step is not finite, or is singular where small singular values are wanted.
    """
    samples, size, inverse = propagator.samples, propagator.size, propagator.second_order
    out = Spectrum(propagator)
    # Kept with unit norm and the logarithm of their scale: over long horizons the products leave the range of floats.
    eye = torch.eye(size, dtype=torch.float64)
    phi, scale = scaled(eye.expand(samples, -1, -1), 2)
    backwards, scale_back = phi, scale
    log_det, conformal = torch.zeros(2, samples, dtype=torch.float64)
    for n in range(propagator.count, -1, -1):
        if n < propagator.count:
            j = propagator.step(n).matrix()
            # Determinant and symplectic form step by step: J_n is near the identity, whereas in the product the small
            # singular values, and with them the determinant and e^(-Γ) Ω, drown in the rounding of the large ones.
            sign, change = torch.linalg.slogdet(j)
            out.positive &= bool((sign > 0).all())
            log_det = log_det + change
            if gamma is not None:
                decay = math.exp(-gamma * (propagator.times[n + 1] - propagator.times[n]))
                twisted = torch.linalg.matrix_norm(symplectic(j.mT) @ j - decay * symplectic(eye))
                conformal = conformal + twisted * math.sqrt(size) / torch.linalg.matrix_norm(j) ** 2
            phi, grown = scaled(phi @ j, 2)
            scale = scale + grown
            if inverse:
                solved, failed = torch.linalg.solve_ex(j, backwards)
                if bool(failed.any()):
                    raise PropagatorError(f"the Jacobian of the step from t = {propagator.times[n]:.6g} is singular")
                backwards, grown = scaled(solved, 2)
                scale_back = scale_back + grown
        out.log_det[n] = log_det
        out.log_rms[n] = scale - 0.5 * math.log(size)
        values = torch.linalg.svdvals(phi).log() + scale.unsqueeze(1)
        out.log_largest[n] = values[:, 0]
        if gradient is not None:
            out.log_gradient[n] = torch.linalg.vector_norm(gradient[0].unsqueeze(1) @ phi, dim=(1, 2)).log() + scale
        if inverse:
            # The product of the inverses has the small singular values as its large ones, and so to full accuracy.
            small = -(torch.linalg.svdvals(backwards).log() + scale_back.unsqueeze(1)).flip(1)
            out.log_smallest[n] = small[:, -1]
            if gamma is not None:
                total = gamma * (propagator.times[-1] - propagator.times[n])
                out.pair_sums[n] = _pair_sums(values, small, total)
        if gamma is not None:
            out.conformal[n] = conformal
    return out


def _pair_sums(from_product: Tensor, from_inverse: Tensor, total: float) -> Tensor:
    """Return the largest |log s_i + log s_(P+1-i) + total|, shape (B,), from two sets of logarithms, (B, P) each.

    The singular values of a matrix are known to within rounding of its largest one, in the product, and those of
    the product of the inverses to within rounding of the smallest: each is taken where it is better, and not at all
    where neither has six digits.
    """
    spread, spread_back = from_product[:, :1] - from_product, from_inverse - from_inverse[:, -1:]
    values = torch.where(spread <= spread_back, from_product, from_inverse)
    sums = (values + values.flip(1) + total).abs()
    lost = torch.minimum(spread, spread_back) > math.log(1e-6 / torch.finfo(torch.float64).eps)
    return sums.masked_fill(lost | lost.flip(1), 0.0).amax(1)


# Gauss-Legendre quadrature with 3 points on [0, 1], order 6.
_GAUSS = tuple(0.5 + x for x in (-0.5 * math.sqrt(0.6), 0.0, 0.5 * math.sqrt(0.6)))
_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)


def eigenvalue_pairs(propagator: Propagator, gamma: float, nodes: Sequence[int]) -> float:
    """Return the largest `pairing_gap` of M(t) = ∫_t^T A ds at the nodes and samples.

    A(s) is the Jacobian of the first-order form at the solution, taken by differentiating the right-hand side that
    the solve saw.
    """
    total = torch.zeros(propagator.samples, propagator.size, propagator.size, dtype=torch.float64)
    gap = 0.0
    for n in range(propagator.count - 1, -1, -1):
        start, end = propagator.times[n : n + 2]
        for share, y, weight in zip(_GAUSS, propagator.steps.between(n, _GAUSS), _WEIGHTS, strict=True):
            slope = propagator.slope(start + share * (end - start), y, n)
            total = total + weight * (end - start) * slope.matrix()
        if n in nodes:
            gap = max(gap, *(pairing_gap(matrix, gamma * (propagator.times[-1] - start)) for matrix in total))
    return gap


def pairing_gap(matrix: Tensor, total: float) -> float:
    """Return how much the eigenvalues of a matrix miss pairs with the sum -`total`, relative to the largest or to one.

    The misses |λ_i + λ_j + total| of the best matching are divided by the condition of the eigenvalues, the inverse
    cosine between the left and the right eigenvector: by how much, that is, the matrix would have to change for the
    pairs to be exact, to first order. So the result is of the size of rounding for exact pairs, even of a nearly
    defective matrix, whose computed eigenvalues are off by the square root of rounding.
    """
    values, right = torch.linalg.eig(matrix)
    # The rows of the inverse are the left eigenvectors, scaled to a product of one with the right ones of unit norm.
    cosine = 1 / torch.linalg.vector_norm(torch.linalg.inv_ex(right)[0], dim=1).nan_to_num(nan=math.inf)
    miss = (values.unsqueeze(1) + values + total).abs() * torch.minimum(cosine.unsqueeze(1), cosine)
    rows, columns = linear_sum_assignment(miss.numpy())
    return float(miss[rows, columns].max() / values.abs().max().clamp(min=1.0))
