"""Extreme eigenvalues of matrices that are known by their products with vectors, for many samples at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eig, eigh_tridiagonal, schur
from scipy.linalg.lapack import dtrsen
from torch import Tensor

FIRST_CHECK, GROWTH = 8, 1.4
"""Products before the first look at convergence, and the ratio of the counts at which others follow."""
ROUNDING = 32.0
"""Multiples of ε ‖A‖ that count as rounding."""
COPIES = 4.0
"""Multiples of ε ‖A‖ by which copies of one eigenvalue may differ."""

Product = Callable[[Tensor], Tensor]
"""Maps real vectors (B, P) to their images, each by the matrix of its sample."""
Key = Callable[[Tensor], Tensor]
"""Maps complex numbers (...) to the real scores (...) by which they are compared; complex128, on the CPU."""

Array = NDArray[Any]


class Extremes(NamedTuple):
    """Eigenvalues at the ends of spectra.

    Attributes
    ----------
    values
        Shape (B, K), complex, in the precision and on the device of the start. Of Lanczos' method the smallest and the
        largest eigenvalue, K = 2; of Arnoldi's that with the largest score, for each key. NaN where a product was not
        finite.
    converged
        Shape (B, K), bool: whether a value is an eigenvalue to the tolerance. That none lies beyond it is as likely as
        the vectors make it, never certain. Values that did not converge are the best approximations so far.
    products
        How many times the product was called.
    """

    values: Tensor
    converged: Tensor
    products: int


class _Found:
    """What is known of each sample; a sample that is done is looked at no more."""

    def __init__(self, start: Tensor, count: int, tol: float, first: int = 0) -> None:
        self.start, self.tol, self.eps, self.first = start, tol, torch.finfo(start.dtype).eps, first
        self.values: Array = np.full((len(start), count), complex(math.nan, math.nan))
        self.converged: Array = np.zeros((len(start), count), dtype=bool)
        self.done: Array = np.zeros(len(start), dtype=bool)

    def note(self, sample: int, values: Array | complex, converged: Array | bool, final: bool) -> None:
        """Record the values of a sample, which is done once all that are asked for converged."""
        self.values[sample], self.converged[sample] = values, converged
        self.done[sample] = final or bool(self.converged[sample, self.first :].all())

    def result(self, products: int) -> Extremes:
        values = torch.from_numpy(self.values).to(self.start.device, self.start.dtype.to_complex())
        return Extremes(values, torch.from_numpy(self.converged).to(self.start.device), products)


def lanczos(product: Product, start: Tensor, tol: float, most: int, largest_only: bool = False) -> Extremes:
    """Return the smallest and the largest eigenvalue of symmetric matrices.

    Lanczos' method without reorthogonalisation, in the order of operations of Paige (J. Inst. Maths. Applics. 10,
    1972): three vectors are kept, whatever the number of products. Rounding makes the tridiagonal matrix repeat
    eigenvalues that converged, but a small residual still means an eigenvalue of A, and the outermost ones do not
    suffer (Paige, Linear Algebra Appl. 34, 1980, section 3; Cullum and Willoughby, Lanczos Algorithms for Large
    Symmetric Eigenvalue Computations I, 1985, chapter 4).

    Parameters
    ----------
    product
        Multiplies by the matrices.
    start
        Where to start, shape (B, P), float32 or float64, not zero. Only eigenvectors with a share in it are found:
        take random numbers.
    tol
        Error of an eigenvalue, relative to itself, apart from rounding, which is some ε ‖A‖. It is estimated by the
        residual of the Ritz vector, or its square over the distance to the next eigenvalue (Parlett, The Symmetric
        Eigenvalue Problem, 1998, theorem 11.7.1).
    most
        The largest number of products.
    largest_only
        Whether only the largest eigenvalue must converge.

    Returns
    -------
    Extremes
        The imaginary parts are zero. The values lie within the spectrum, up to rounding, converged or not.
    """
    start = start.detach()
    found = _Found(start, 2, tol, first=1 if largest_only else 0)
    before, v = torch.zeros_like(start), start / torch.linalg.vector_norm(start, dim=-1, keepdim=True)
    beta = start.new_zeros(len(start), 1)
    tridiagonal: Array = np.zeros((2, len(start), 0))
    fresh: list[Tensor] = []
    count, check = 0, min(FIRST_CHECK, start.shape[1])
    while count < most and not found.done.all():
        w = torch.addcmul(product(v).detach(), beta, before, value=-1)
        alpha = torch.linalg.vecdot(w, v).unsqueeze(-1)
        w.addcmul_(alpha, v, value=-1)
        before, beta = v, torch.linalg.vector_norm(w, dim=-1, keepdim=True)
        # After a breakdown, or a product that is not finite, zeros follow: they disturb neither sample nor product.
        v = torch.where(beta > 0, w / beta, 0.0)
        fresh.append(torch.cat((alpha, beta), 1))
        count += 1
        if count in (check, most):
            new = torch.stack(fresh, -1).cpu().double().numpy().transpose(1, 0, 2)
            tridiagonal = np.concatenate((tridiagonal, new), -1)
            fresh, check = [], math.ceil(GROWTH * count)
            for sample in np.flatnonzero(~found.done).tolist():
                _judge_tridiagonal(tridiagonal[0, sample], tridiagonal[1, sample], sample, found)
    return found.result(count)


def _judge_tridiagonal(alpha: Array, beta: Array, sample: int, found: _Found) -> None:
    """Record the outermost eigenvalues of the tridiagonal matrix of a sample."""
    if not np.isfinite(alpha + beta).all():
        return found.note(sample, math.nan, False, True)
    # The subspace is invariant if the next vector is but rounding; all that follows is worthless.
    size = np.maximum.accumulate(np.abs(alpha) + beta)
    broken = np.flatnonzero(beta <= ROUNDING * found.eps * size)
    if len(broken):
        alpha, beta = alpha[: broken[0] + 1], beta[: broken[0] + 1]
    last = len(alpha) - 1
    ends = [
        eigh_tridiagonal(alpha, beta[:-1], select="i", select_range=pair)
        for pair in ((0, min(1, last)), (max(last - 1, 0), last))
    ]
    values = np.array([ends[0][0][0], ends[1][0][-1]])
    norm = float(np.abs(values).max())
    converged = found.converged[sample] | (len(broken) > 0)
    for end, (thetas, vectors) in enumerate(ends):
        # Half, as what counts as a copy may be a neighbour.
        allowed = 0.5 * found.tol * max(abs(values[end]), found.eps * norm)
        residual, beside = beta[-1] * abs(vectors[-1, [-end, end - 1]])
        gap = thetas[-1] - thetas[0]
        # Of two Ritz values that agree, a combination of the vectors has no residual: they need no other test.
        copies = last > 0 and gap <= max(allowed, COPIES * found.eps * norm)
        # The neighbour is no eigenvalue yet: the nearest one may be closer by as much as its residual.
        converged[end] |= copies or residual <= allowed or residual * residual <= (gap - beside) * allowed
    found.note(sample, values, converged, len(broken) > 0)


def arnoldi(product: Product, start: Tensor, keys: Sequence[Key], tol: float, kept: int, most: int) -> Extremes:
    """Return the eigenvalues of real matrices that score highest.

    Arnoldi's method with thick restarts (Krylov-Schur: Stewart, SIAM J. Matrix Anal. Appl. 23, 2001, section 3). A
    restart keeps an even number of vectors, which a real invariant subspace can have whatever its complex pairs: so
    the arithmetic is real, and all samples restart together.

    Parameters
    ----------
    product, start
        As for `lanczos`.
    keys
        What to maximise. Where the scores of several Ritz values differ by less than the allowed error changes them,
        one that converged serves for all. Of a pair with equal scores, the value with positive imaginary part is
        returned.
    tol
        Error of an eigenvalue, relative to itself; some rounding of ‖A‖ is always allowed. It is estimated by the
        residual, or ε ‖A‖ if that is larger, times the condition of the eigenvalue in the subspace. As the subspace
        need not contain the left eigenvector, it may be underestimated for matrices that are far from normal.
    kept
        Vectors of length P that are held, besides one more; a restart keeps half of them, and needs room to copy.
        With fewer than 8 for each key, eigenvalues close to the best are more often taken for it.
    most
        The largest number of products.

    Raises
    ------
    ValueError
        If `kept` is less than 2 K + 2, with K keys, and less than P.
    """
    start = start.detach()
    samples, size = start.shape
    found, eps = _Found(start, len(keys), tol), torch.finfo(start.dtype).eps
    kept, keep = min(kept, size), max(2 * (kept // 4), 2 * len(keys))
    if keep + 2 > kept < size:
        raise ValueError(f"kept must be at least {keep + 2} for {len(keys)} keys, got {kept}")
    basis = start.new_zeros(kept + 1, samples, size)
    basis[0] = start / torch.linalg.vector_norm(start, dim=-1, keepdim=True)
    # The projected matrix: its new columns are computed on the device of the start, and judged in float64 on the host.
    columns, projected = start.new_zeros(samples, kept + 1, kept), np.zeros((samples, kept + 1, kept))
    norm = start.new_zeros(samples, 1)
    count, n, begun, known, check = 0, 0, 0, 0, min(FIRST_CHECK, kept)
    while count < most and not found.done.all():
        w = product(basis[n]).detach().unsqueeze(-1)
        v = basis[: n + 1].transpose(0, 1)
        part = v @ w
        w = w - v.mT @ part
        again = v @ w
        column, w = (part + again).squeeze(-1), (w - v.mT @ again).squeeze(-1)
        beta = torch.linalg.vector_norm(w, dim=-1, keepdim=True)
        norm = torch.maximum(norm, torch.linalg.vector_norm(column, dim=-1, keepdim=True) + beta)
        # After a breakdown, or a product that is not finite, zeros follow: they disturb neither sample nor product.
        alive = beta > ROUNDING * eps * norm
        columns[:, : n + 1, n], columns[:, n + 1, n] = column, torch.where(alive, beta, 0.0).squeeze(-1)
        basis[n + 1] = torch.where(alive, w / beta, 0.0)
        count, n = count + 1, n + 1
        if n == check or count == most:
            projected[:, :, known:n] = columns[:, :, known:n].cpu().double().numpy()
            known, check = n, min(math.ceil(GROWTH * n), kept)
            if n == size:
                projected[:, size, -1] = 0.0
            for sample in np.flatnonzero(~found.done).tolist():
                _judge_projected(projected[sample, : n + 1, :n], begun, keys, sample, found)
            if n == kept and not found.done.all():
                turns = np.tile(np.eye(kept, keep), (samples, 1, 1))
                for sample in np.flatnonzero(~found.done).tolist():
                    turn = _restart(projected[sample], keys, keep)
                    found.done[sample] = turn is None
                    turns[sample] = turns[sample] if turn is None else turn
                basis[:keep] = (torch.from_numpy(turns).to(start).mT @ basis[:kept].transpose(0, 1)).transpose(0, 1)
                basis[keep] = basis[kept]
                n, begun, known, check = keep, keep, keep, kept
    return found.result(count)


def _judge_projected(matrix: Array, begun: int, keys: Sequence[Key], sample: int, found: _Found) -> None:
    """Record the best eigenvalues of the projected matrix (n + 1, n), whose columns from `begun` on are Hessenberg."""
    if not np.isfinite(matrix).all():
        return found.note(sample, math.nan, False, True)
    broken = np.flatnonzero(matrix.diagonal(-1)[begun:] == 0)
    n = begun + int(broken[0]) + 1 if len(broken) else matrix.shape[1]
    beta, square = matrix[n, n - 1], matrix[:n, :n]
    values, left, right = eig(square, left=True)
    norm, cosine = float(np.linalg.norm(square, 2)), np.abs((left.conj() * right).sum(0))
    floor = found.eps * norm
    residual = np.maximum(beta * np.abs(right[-1]), floor)
    error = np.divide(residual, cosine, out=np.where(residual > 0, math.inf, 0.0), where=cosine > 0)
    # The other half of the tolerance is for a neighbour that is taken in place of the best.
    allowed = 0.5 * np.maximum(found.tol * np.abs(values), ROUNDING * floor)
    thetas, chosen = torch.from_numpy(values), []
    for key in keys:
        scores = key(thetas)
        best = int(scores.argmax())
        if error[best] > allowed[best]:
            around = thetas[best] + allowed[best] * torch.tensor([1, -1, 1j, -1j], dtype=thetas.dtype)
            slack = (key(around) - scores[best]).abs().max()
            tied = np.flatnonzero(~(scores < scores[best] - slack).numpy())
            best = int(tied[error[tied].argmin()])
        chosen.append(best)
        mirrored = thetas[best].conj().resolve_conj()
        if values[best].imag < 0 and bool(key(mirrored) >= scores[best]):
            chosen[-1] = int((thetas - mirrored).abs().argmin())
    found.note(sample, values[chosen], error[chosen] <= allowed[chosen], len(broken) > 0)


def _restart(matrix: Array, keys: Sequence[Key], keep: int) -> Array | None:
    """Shrink a projected matrix (n + 1, n), in place, to the `keep` best of its eigenvalues.

    Returns the basis (n, keep) of the invariant subspace: the leading vectors of a reordered real Schur form, which
    stay orthonormal where eigenvectors nearly coincide. None if eigenvalues are too close to be reordered.
    """
    n = matrix.shape[1]
    beta, (form, vectors) = matrix[n, n - 1], schur(matrix[:n])
    values, first = form.diagonal().astype(complex), np.arange(n)
    upper = np.flatnonzero(form.diagonal(-1))
    lower = upper + 1
    root, first[lower] = 1j * np.sqrt(-form[upper, lower] * form[lower, upper]), upper
    values[upper], values[lower] = values[upper] + root, values[lower] - root
    ranks = [np.argsort(np.argsort(-key(torch.from_numpy(values)).numpy(), kind="stable")) for key in keys]
    order = np.argsort(np.min(ranks, 0), kind="stable")
    taken, pairs = np.zeros(n, dtype=bool), np.bincount(first, minlength=n)
    for i in first[order]:
        if not taken[i] and taken.sum() + pairs[i] <= keep:
            taken[i : i + pairs[i]] = True
    if taken.sum() < keep:
        # Only pairs are left for a single place. As `keep` is even, a real value can make room for one.
        taken[[i for i in order if taken[i] and pairs[i] == 1][-1]] = False
        pair = next(i for i in first[order] if not taken[i] and pairs[i] == 2)
        taken[pair : pair + 2] = True
    form, vectors, *_, failed = dtrsen(taken, form, vectors, job="N")
    if failed:
        return None
    matrix[:] = 0.0
    matrix[:keep, :keep], matrix[keep, :keep] = form[:keep, :keep], beta * vectors[-1, :keep]
    return np.asarray(vectors[:, :keep])
