"""Kernels between samples, and the width of the Gaussian one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from .rotations import Array

Kernel = Callable[[Any, Any], Any]
KERNELS = ("rbf", "neighbours", "linear", "precomputed")
NEIGHBOUR = 7
"""Which neighbour's distance is a local scale: Zelnik-Manor, Perona, Self-tuning spectral clustering (2004)."""
ROWS = 512
"""The most samples whose neighbours are looked for."""


def squared_distances(x: Array, y: Array) -> Array:
    """Return |x_i - y_j|², shape (len(x), len(y)); exactly 0 on the diagonal where y is x itself."""
    same, middle = x is y, y.mean(0)  # without the mean, distances are not differences of large numbers
    y = y - middle
    x = y if same else x - middle
    squares: Array = x @ y.T
    squares *= -2
    squares += (x * x).sum(1)[:, None]
    squares += (y * y).sum(1)
    np.maximum(squares, 0.0, out=squares)
    if same:
        np.fill_diagonal(squares, 0.0)
    return squares


def local_gamma(x: Array) -> float:
    """Return 1 / (2 s²), s the median distance of samples (n, d) to their seventh nearest neighbours.

    Up to `ROWS` samples, evenly spread over the rows, are asked for theirs. Where most of them coincide, s is the root
    mean square distance, and 1 where all do.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.clustering import local_gamma
    >>> local_gamma(np.random.default_rng(0).normal(size=(50, 2))) > 0
    True
    """
    asked = x[np.linspace(0, len(x) - 1, min(len(x), ROWS)).astype(int)]
    squares = squared_distances(asked, x)
    k = min(NEIGHBOUR, len(x) - 1)
    scale = float(np.median(np.partition(squares, k, axis=1)[:, k]))
    noise = 1e-14 * float(squares.max(initial=0.0))  # what is left of the distance of a sample to itself
    scale = scale if scale > noise else float(squares.mean())
    return 1 / (2 * scale) if scale > 0 else 0.5


@dataclass(frozen=True)
class Gaussian:
    """k(x, y) = exp(-γ |x - y|²)."""

    gamma: float

    def __call__(self, x: Array, y: Array) -> Array:
        squares = squared_distances(x, y)
        squares *= -self.gamma
        return np.exp(squares, out=squares)


def linear(x: Array, y: Array) -> Array:
    """k(x, y) = xᵀy."""
    return x @ y.T


@dataclass(frozen=True, eq=False)
class SharedNeighbours:
    """How many of their k nearest among some samples two points share (Jarvis, Patrick 1973).

    The inner product of indicators of these neighbours: positive semi-definite, and without a width, which makes it fit
    for many dimensions and for clusters of different densities. A sample is its own first neighbour.
    """

    samples: Array
    k: int

    def __call__(self, x: Array, y: Array) -> Array:
        one = self._indicators(x)
        other = one if y is x else self._indicators(y)
        return np.asarray((one @ other.T).toarray())

    def _indicators(self, x: Array) -> csr_array:
        nearest = np.argpartition(squared_distances(x, self.samples), self.k - 1, axis=1)[:, : self.k]
        starts = np.arange(0, len(x) * self.k + 1, self.k)
        return csr_array((np.ones(nearest.size), nearest.ravel(), starts), shape=(len(x), len(self.samples)))


def gram(kernel: Kernel, x: Any, y: Any) -> Array:
    """Return k(x_i, y_j), shape (len(x), len(y)), float64.

    Raises
    ------
    ValueError
        For a kernel that returns another shape, complex numbers, NaN or Inf.
    """
    found = np.asarray(kernel(x, y))
    if found.shape != (len(x), len(y)):
        raise ValueError(f"kernel must return shape {(len(x), len(y))}, got {found.shape}")
    if found.dtype.kind not in "fiub" or not np.isfinite(found).all():
        raise ValueError("kernel must return finite real numbers")
    return found.astype(np.float64, copy=False)


def check_gram(a: Array) -> None:
    """Raise unless a kernel matrix is square, symmetric, and has no negative diagonal entries."""
    if a.shape[0] != a.shape[1]:
        raise ValueError(f"kernel must give a square matrix of the samples, got shape {a.shape}")
    if float(np.abs(a - a.T).max()) > 1e-8 * float(np.abs(a).max()):
        raise ValueError("kernel must be symmetric, k(x, y) = k(y, x)")
    if float(a.diagonal().min()) < 0:
        raise ValueError(f"kernel must not be negative on its diagonal, got {a.diagonal().min():.6g}")
