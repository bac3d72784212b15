"""The treelet algorithm: Jacobi rotations of a symmetric matrix that merge its variables two by two, in O(n²)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

SMALLEST = 1e-150
"""A variance below it is zero: the product of two inverse square roots of such would overflow."""


@dataclass(frozen=True, eq=False)
class Rotations:
    """The n - 1 rotations of a treelet decomposition, in their order; arrays of shape (n - 1,).

    Rotation i replaces variables k = kept[i] and d = dropped[i] by cos φ k + sin φ d, the principal component of the
    two, which stays active as number k, and cos φ d - sin φ k, the detail, which is uncorrelated with it and leaves as
    number d.

    Attributes
    ----------
    kept, dropped
        Variables, numbered from 0.
    angle
        φ, from -π/4 to π/4: negative for negative correlations.
    similarity
        The largest M at the time, √(A_kd² / (A_kk A_dd)) + λ |A_kd|.
    correlation
        Its first term, from 0 to 1.
    variance
        Diagonal of the rotated matrix, (n,), of variables in their numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.clustering import KernelTreelets
    >>> model = KernelTreelets(n_clusters=2).fit(np.random.default_rng(0).normal(size=(20, 2)))
    >>> len(model.rotations_.angle)
    19
    """

    kept: Indices
    dropped: Indices
    angle: Array
    similarity: Array
    correlation: Array
    variance: Array

    def __len__(self) -> int:
        return len(self.kept)

    def forward(self, x: Array, level: int) -> Array:
        """Return the coordinates of rows x (m, n) after `level` rotations, x Bᵀ, in O(m level)."""
        return self._rotated(x, range(level), 1.0)

    def backward(self, x: Array, level: int) -> Array:
        """Return the rows whose coordinates after `level` rotations are x (m, n), x B."""
        return self._rotated(x, range(level - 1, -1, -1), -1.0)

    def _rotated(self, x: Array, order: range, sign: float) -> Array:
        columns = x.T.copy()
        cos, sin = np.cos(self.angle), sign * np.sin(self.angle)
        for i in order:
            k, d = self.kept[i], self.dropped[i]
            detail = cos[i] * columns[d] - sin[i] * columns[k]
            columns[k] = cos[i] * columns[k] + sin[i] * columns[d]
            columns[d] = detail
        return columns.T.copy()


class _Active:
    """The active variables' part of the matrix, with the best partner that each row was last seen to have.

    `bound` is at least the largest M of each row: raised when an entry grows, and left when one shrinks, so that a row
    is searched again only when it comes first and what it promised is no longer there: a rotation costs O(n).
    """

    def __init__(self, a: Array, lambda_: float, name: Indices) -> None:
        self.a, self.lambda_, self.name = a, lambda_, name
        self.variance = a.diagonal().copy()
        self.scale = np.zeros(len(a))  # 1/√A_ii
        np.divide(1.0, np.sqrt(self.variance), where=self.variance > SMALLEST, out=self.scale)
        self.weight = np.full(len(a), lambda_)  # λ, 0 for variables that have left
        self.alive = np.ones(len(a), bool)
        self.bound, self.partner = np.empty(len(a)), np.empty(len(a), np.intp)
        for i in range(len(a)):
            self._search(i)

    def _row(self, i: int) -> Array:
        """Return M_i·, with 0 for i itself and for variables that have left."""
        row: Array = self.scale * self.scale[i]
        row += self.weight
        row *= np.abs(self.a[i])
        row[i] = 0.0
        return row

    def _search(self, i: int) -> None:
        row = self._row(i)
        j = int(row.argmax())
        self.partner[i], self.bound[i] = j, row[j]

    def largest(self) -> tuple[int, int, float]:
        """Return p, q and M_pq, the largest of all; q is p where all are 0."""
        while True:
            p = int(self.bound.argmax())
            q, promised = int(self.partner[p]), float(self.bound[p])
            if promised == 0.0:
                return p, p, 0.0
            # The same operations in the same order as in `_row`: equal to the last bit unless something changed.
            if (self.scale[q] * self.scale[p] + self.weight[q]) * abs(self.a[p, q]) == promised:
                return p, q, promised
            self._search(p)

    def rotate(self, p: int, q: int) -> tuple[int, int, float, float]:
        """Make the two uncorrelated, take the one of the smaller variance out; return both, φ and their correlation."""
        k, d = (p, q) if (-self.variance[p], p) < (-self.variance[q], q) else (q, p)
        a, scale, variance = self.a, self.scale, self.variance
        x, difference = float(a[k, d]), float(variance[k] - variance[d])
        correlation = min(abs(x) * float(scale[k] * scale[d]), 1.0)
        angle = 0.5 * math.atan2(2 * x, difference)
        moved = x * math.tan(angle)
        row = math.cos(angle) * a[k]
        row += math.sin(angle) * a[d]
        variance[k] += moved
        variance[d] -= moved
        row[k] = variance[k]
        a[k] = row
        a[:, k] = row
        scale[k] = 1 / math.sqrt(variance[k]) if variance[k] > SMALLEST else 0.0
        self.leave(d)
        row = self._row(k)
        raised = row > self.bound
        np.putmask(self.partner, raised, k)
        np.maximum(self.bound, row, out=self.bound)
        self.partner[k] = row.argmax()
        self.bound[k] = row[self.partner[k]]
        return k, d, angle, correlation

    def leave(self, d: int) -> None:
        self.scale[d] = self.weight[d] = self.bound[d] = 0.0
        self.alive[d] = False

    def compacted(self) -> _Active:
        """Return the same without the rows and columns of variables that have left, in the same memory."""
        stay = np.flatnonzero(self.alive)
        left = len(stay)
        for i, row in enumerate(stay):  # i <= row: what is overwritten has been moved
            self.a[i, :left] = self.a[row, stay]
        return _Active(self.a[:left, :left], self.lambda_, self.name[stay])


def jacobi_tree(a: Array, lambda_: float = 0.0, overwrite_a: bool = False) -> Rotations:
    """Merge the variables of a symmetric positive semi-definite matrix by n - 1 Jacobi rotations.

    Each rotation takes the two active variables with the largest M_pq = √(A_pq² / (A_pp A_qq)) + λ |A_pq|, zeroes A_pq,
    and leaves the one of the larger variance active. Where all that are active are uncorrelated, they are merged into
    the one of the largest variance, from the smallest on, with angle 0.

    The time is O(n²) where each rotation makes a bounded number of rows be searched again, as is measured on data (two
    or three); that many rows could share one partner makes the worst case O(n³).

    Parameters
    ----------
    a
        Shape (n, n), n at least 1, float64, symmetric, finite, its diagonal not negative.
    lambda_
        λ ≥ 0: with it, large covariances merge before small ones of equal correlation.
    overwrite_a
        Whether a may be spoilt, which spares a copy: of large matrices, a good part of the time.

    References
    ----------
    Lee, Nadler, Wasserman, Treelets, Annals of Applied Statistics 2 (2008); Xia, Ceniceros, Kernel Treelets,
    arXiv 1812.04808.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.clustering import jacobi_tree
    >>> tree = jacobi_tree(np.array([[2.0, -1.0, 0.0], [-1.0, 2.0, 0.5], [0.0, 0.5, 1.0]]))
    >>> tree.kept.tolist(), tree.dropped.tolist(), tree.angle.round(3).tolist()
    ([0, 0], [1, 2], [-0.785, -0.17])
    """
    n = len(a)
    active = _Active(a if overwrite_a else a.copy(), lambda_, np.arange(n))
    kept, dropped = np.empty((2, n - 1), np.intp)
    angle, similarity, correlation = np.zeros((3, n - 1))
    variance = np.empty(n)
    for i in range(n - 1):
        p, q, most = active.largest()
        if p == q:
            break
        k, d, angle[i], correlation[i] = active.rotate(p, q)
        kept[i], dropped[i], similarity[i] = active.name[k], active.name[d], most
        variance[dropped[i]] = active.variance[d]
        left = n - 1 - i
        if 2 * left <= len(active.name):
            active = active.compacted()
    stay = np.flatnonzero(active.alive)
    variance[active.name[stay]] = active.variance[stay]
    last = active.name[stay[np.argsort(active.variance[stay], kind="stable")]]
    done = n - len(last)
    kept[done:], dropped[done:] = last[-1], last[:-1]
    return Rotations(kept, dropped, angle, similarity, correlation, variance)
