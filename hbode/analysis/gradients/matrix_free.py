"""Singular values and determinants of a propagator from products with vectors, for states too large for matrices."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..krylov import lanczos
from ..linearised import Linearised
from .propagator import Propagator, PropagatorError
from .spectrum import Spectrum, scaled, symplectic

MAX_TERMS = 200
"""Terms after which the series of a logarithm counts as divergent."""
MAX_VECTORS = 100
"""Lanczos vectors after which a singular value counts as not converged."""

Product = Callable[[int, Tensor], Tensor]


def matrix_free_spectrum(
    propagator: Propagator,
    gradient: Tensor | None,
    gamma: float | None,
    nodes: Sequence[int],
    probes: int,
) -> Spectrum:
    """Estimate what `dense_spectrum` computes, from Jacobian products alone.

    Determinants and root mean squares are averages over random probes, with standard errors; singular values come
    from Lanczos' method, and at the given nodes only. What cannot be found stays NaN, with a note that says why.

    Parameters
    ----------
    propagator, gradient, gamma
        As for `dense_spectrum`.
    nodes
        Indices of nodes, increasing.
    probes
        Pairs of random vectors. They are drawn from a generator with a fixed seed.
    """
    rng = torch.Generator().manual_seed(0)
    out = Spectrum(propagator)
    _averages(propagator, gradient, gamma, _probes(propagator, probes, rng), out)
    starts = [n for n in nodes if n < propagator.count]
    shape = len(starts), propagator.samples, propagator.size
    first = torch.randn(shape, generator=rng, dtype=torch.float64)
    tol = max(1e-8, 100 * torch.finfo(propagator.dtype).eps)

    def there_and_back(there: Product, back: Product, v: Tensor) -> tuple[Tensor, Tensor]:
        v, a = _sweep(propagator, v, starts, there)
        v, b = _sweep(propagator, v, starts, back, back=True)
        return v, a + b

    gram = partial(there_and_back, lambda n, x: propagator.step(n).push(x), lambda n, x: propagator.step(n).pull(x))
    inverse_gram = partial(there_and_back, partial(propagator.solve, transposed=True), propagator.solve)
    largest, converged = largest_eigenvalue(gram, first, tol)  # of Φᵀ Φ, for every start; below, of Φ⁻¹ Φ⁻ᵀ
    out.log_largest[starts] = 0.5 * largest
    out.log_largest[-1] = out.log_smallest[-1] = 0.0
    if not converged:
        out.notes.append(f"largest singular values: a lower bound, {MAX_VECTORS} Lanczos vectors did not suffice")
    if propagator.second_order:
        try:
            smallest, converged = largest_eigenvalue(inverse_gram, first, tol)
            out.log_smallest[starts] = -0.5 * smallest
            if not converged:
                out.notes.append(f"smallest singular values: an upper bound after {MAX_VECTORS} Lanczos vectors")
        except PropagatorError as error:
            out.notes.append(f"smallest singular values: {error}")
    if gamma is not None:
        totals = gamma * (propagator.times[-1] - torch.tensor(propagator.times, dtype=torch.float64))
        out.pair_sums[:] = (out.log_largest + out.log_smallest + totals.unsqueeze(1)).abs()
    return out


def _probes(propagator: Propagator, count: int, rng: torch.Generator) -> Tensor:
    """Return 2 `count` vectors of random signs, shape (2 count, B, P), the same for every sample.

    For a second-order system they are pairs (v_h, v_m), (v_h, -v_m): a quadratic form averages over a pair to that
    of the two diagonal blocks alone, without the noise of the blocks that join h and m, which are the large ones.
    """
    signs = torch.randint(0, 2, (2 * count, 1, propagator.size), generator=rng).double() * 2 - 1
    if propagator.second_order:
        h, m = signs[:count].chunk(2, -1)
        signs = torch.cat((torch.cat((h, m), -1), torch.cat((h, -m), -1)))
    return signs.expand(-1, propagator.samples, -1)


def _averages(
    propagator: Propagator, gradient: Tensor | None, gamma: float | None, probes: Tensor, out: Spectrum
) -> None:
    """Fill in what one sweep back from T over cotangents tells: log|det|, rms, gradient and symplectic form."""
    pairs, size = len(probes) // 2, propagator.size
    stop = 10 * torch.finfo(propagator.dtype).eps
    rows, log = scaled(probes if gradient is None else torch.cat((probes, gradient)))
    trace: Tensor | None = torch.zeros(pairs, propagator.samples, dtype=torch.float64)
    conformal = torch.zeros(propagator.samples, dtype=torch.float64)
    for n in range(propagator.count, -1, -1):
        if n < propagator.count:
            step = propagator.step(n)
            rows, grown = scaled(step.pull(rows))
            log = log + grown
            if gamma is not None:
                dt = propagator.times[n + 1] - propagator.times[n]
                conformal = conformal + _twist(step, probes, math.exp(-gamma * dt))
            change = None if trace is None else trace_of_log(step, probes, stop)
            if trace is not None and change is None:
                out.notes.append(
                    f"determinant: the series of log J diverges at t = {propagator.times[n]:.6g}, where the step is "
                    "too long for it; take shorter steps, or raise dense_limit"
                )
            trace = None if trace is None or change is None else trace + change.view(2, pairs, -1).mean(0)
        if trace is not None:
            out.log_det[n] = trace.mean(0)
            out.log_det_error[n] = _standard_error(trace)
        if gradient is not None:
            out.log_gradient[n] = log[-1]
        squares = 2 * log[: len(probes)]
        highest = squares.amax(0)
        relative = torch.exp(squares - highest).view(2, pairs, -1).mean(0)
        mean = relative.mean(0)
        out.log_rms[n] = 0.5 * (mean.log() + highest - math.log(size))
        out.log_rms_error[n] = 0.5 * _standard_error(relative) / mean
        if gamma is not None:
            out.conformal[n] = conformal


def _twist(step: Linearised, probes: Tensor, decay: float) -> Tensor:
    """Return the largest |uᵀ (J Ω Jᵀ - decay Ω) v| / (‖Jᵀ u‖ ‖Jᵀ v‖) over pairs of probes, shape (B,).

    J Ω Jᵀ = decay Ω says the same as Jᵀ Ω J = decay Ω, and concerns cotangents.
    """
    before, after = probes.transpose(0, 1), step.pull(probes).transpose(0, 1)
    length = torch.linalg.vector_norm(after, dim=-1)
    missed = after @ symplectic(after).mT - decay * (before @ symplectic(before).mT)
    share: Tensor = missed.abs() / (length.unsqueeze(1) * length.unsqueeze(2))
    return share.amax((1, 2))


def _standard_error(x: Tensor) -> Tensor:
    """Return that of the mean over the first axis; infinite for a single entry."""
    return x.std(0) / math.sqrt(len(x)) if len(x) > 1 else torch.full_like(x[0], math.inf)


def trace_of_log(step: Linearised, probes: Tensor, stop: float) -> Tensor | None:
    """Return vᵀ log(J) v for probes v (k, B, P), shape (k, B): with signs for v, estimates of log|det J|.

    log J = Σ_k (-1)^(k+1) (J - I)^k / k, until a power times v is `stop` times shorter than v; None if the series
    does not get there. (Hutchinson, Commun. Stat. Simul. 19, 1990.)
    """
    length = torch.linalg.vector_norm(probes, dim=-1)
    total, power, sign = torch.zeros_like(length), probes, 1.0
    for k in range(1, MAX_TERMS + 1):
        power = step.pull(power) - power
        total = total + sign / k * (power * probes).sum(-1)
        sign = -sign
        size = float((torch.linalg.vector_norm(power, dim=-1) / length).max())
        if size <= stop:
            return total
        if size > 1e6:
            break
    return None


def _sweep(
    propagator: Propagator, vectors: Tensor, starts: Sequence[int], product: Product, back: bool = False
) -> tuple[Tensor, Tensor]:
    """Apply the steps from each start to the end, or back, to the vectors of that start, shape (q, B, P).

    One pass serves all starts: a vector takes part from the step of its start on. Returns unit vectors and the
    logarithms of their norms.
    """
    vectors, log = scaled(vectors)
    steps = range(starts[0], propagator.count)
    for n in reversed(steps) if back else steps:
        active = bisect_right(starts, n)
        vectors[:active], grown = scaled(product(n, vectors[:active]))
        log[:active] += grown
    return vectors, log


def largest_eigenvalue(
    gram: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, tol: float
) -> tuple[Tensor, bool]:
    """Return the logarithms of the largest eigenvalues of positive operators, and whether all converged.

    `gram` maps vectors, shape (..., P) of `start`, to their images, as unit vectors and the logarithms of the norms.
    """
    shift: Tensor | None = None

    def product(v: Tensor) -> Tensor:
        nonlocal shift
        image, log = gram(v.view_as(start))
        # Eigenvalues are found relative to a scale of their own, as they may leave the range of floats.
        shift = log if shift is None else shift
        return (image * torch.exp(log - shift).unsqueeze(-1)).view_as(v)

    found = lanczos(product, start.flatten(0, -2), tol, MAX_VECTORS, largest_only=True)
    if shift is None:
        raise ValueError(f"start must have entries, got shape {tuple(start.shape)}")
    values = found.values[:, 1].real.log().view_as(shift) + shift
    return values, bool(found.converged[:, 1].all())
