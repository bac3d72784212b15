"""`Treelets`: hierarchical clustering of variables."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from .hierarchy import TreeletTree, check_number, coordinates
from .rotations import Array
from .tree import clusters


class Treelets(TreeletTree):
    """Treelets of variables: a tree of correlated columns, and an orthogonal basis at every level of it.

    Parameters
    ----------
    n_clusters
        Of variables.
    lambda_
        λ ≥ 0: the preference for large covariances over large correlations.

    Attributes
    ----------
    labels_
        The cluster of each variable, from 0; variables of strong negative correlation are in one.
    mean_, covariance_
        (d,) and (d, d).
    rotations_, linkage_, children_, heights_
        As in `KernelTreelets`, of the variables.

    References
    ----------
    Lee, Nadler, Wasserman, Treelets, Annals of Applied Statistics 2 (2008).

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.clustering import Treelets
    >>> t = np.linspace(0, 6, 50)
    >>> x = np.stack((np.sin(t), t, -2 * np.sin(t)), 1)
    >>> model = Treelets(n_clusters=2).fit(x)
    >>> model.labels_.tolist(), bool(np.allclose(model.inverse_transform(model.transform(x)), x))
    ([0, 1, 0], True)
    """

    def __init__(self, n_clusters: int = 2, *, lambda_: float = 0.0) -> None:
        self.n_clusters = n_clusters
        self.lambda_ = lambda_

    def fit(self, X: Any, y: Any = None) -> Self:
        """Decompose the covariance of the columns of X (n, d); y is ignored.

        Raises
        ------
        ValueError, TypeError
            For parameters out of range, fewer than two samples, NaN and Inf.
        """
        check_number("n_clusters", self.n_clusters, 1, whole=True)
        check_number("lambda_", self.lambda_, 0)
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        if self.n_clusters > X.shape[1]:
            raise ValueError(f"n_clusters must be at most the number of variables, {X.shape[1]}, got {self.n_clusters}")
        self.mean_ = X.mean(0)
        self.covariance_ = np.atleast_2d(np.cov(X.T))
        self._grow(self.covariance_, float(self.lambda_))
        self.labels_ = clusters(self.rotations_, self.n_clusters, 1)
        return self

    def transform(self, X: Any, level: int | None = None) -> Array:
        """Return the coordinates of samples in the basis after `level` rotations (default: all), shape (m, d)."""
        check_is_fitted(self)
        at = self._level(level)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return self.rotations_.forward(X - self.mean_, at)

    def inverse_transform(self, X: Any, level: int | None = None) -> Array:
        """Return samples from their coordinates (m, d)."""
        check_is_fitted(self)
        centred = self.rotations_.backward(coordinates(X, self.rotations_), self._level(level))
        return np.asarray(centred + self.mean_)
