"""`KernelTreelets`: hierarchical clustering of samples."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from sklearn.base import ClusterMixin
from sklearn.svm import SVC
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .hierarchy import TreeletTree, check_number, coordinates
from .kernels import (
    KERNELS,
    Gaussian,
    Kernel,
    SharedNeighbours,
    check_gram,
    gram,
    linear,
    local_gamma,
    squared_distances,
)
from .rotations import Array, Indices
from .tree import clusters

EXTENSIONS = ("nearest", "svm")
MARGIN = 100.0
"""The constant C of the support vector machine."""


class KernelTreelets(ClusterMixin, TreeletTree):  # type: ignore[misc]
    """Hierarchical clustering by treelets of a kernel matrix.

    Samples are variables in the kernel's feature space. Again and again the two that are most similar, by
    √(A_pq² / (A_pp A_qq)) + λ |A_pq|, are rotated to their principal component and an uncorrelated detail. The
    components form a tree, with an orthogonal basis at every level.

    Parameters
    ----------
    n_clusters
        From 1 to the number of samples.
    kernel
        "rbf", exp(-γ |x - y|²); "neighbours", how many of their nearest samples two points share, for many
        dimensions; "linear", xᵀy; "precomputed": X is the matrix, and in `transform` and `predict` k(x, s) of shape
        (m, n) to the samples s of `fit`; or a function k(X, Y) that returns the matrix (len(X), len(Y)), whose samples
        may have missing values. Symmetric and positive semi-definite.
    gamma
        Of "rbf". None: 1 / (2 s²), s the median distance of samples to their seventh neighbours, see `local_gamma`.
    n_neighbors
        Of "neighbours", a sample itself among them. None: 2 ln n, with which neighbourhood graphs are connected.
    lambda_
        λ ≥ 0: the preference for large entries, which grow with the clusters, over large correlations.
    min_share
        Branches with less than so many times the mean size, n / n_clusters, do not count as clusters: the tree is cut
        where n_clusters that count are left, and outliers are labelled as new samples are. 0, and where there are never
        so many that count: it is cut where n_clusters branches are left, be some of them single outliers.
    n_samples
        How many samples at most, drawn at random, are clustered; the others are labelled as new ones are. None: all.
        Memory and time go with its square.
    extension
        How new samples are labelled: "nearest", as their nearest neighbour in feature space; "svm", by a support vector
        machine with the same kernel.
    random_state
        Of the draw.

    Attributes
    ----------
    labels_
        Of all samples, from 0.
    rotations_
        The decomposition, see `Rotations`.
    linkage_, children_, heights_
        The tree of the clustered samples: (n - 1, 4) as `scipy.cluster.hierarchy.dendrogram` draws it; its children as
        in scikit-learn; 1 - |correlation| of what was merged, raised where the tree would turn down.
    sample_indices_
        The rows that were clustered; variable i of the tree is row sample_indices_[i].
    kernel_
        The function that `kernel` stands for, None for the precomputed one.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    References
    ----------
    Xia, Ceniceros, Kernel Treelets, arXiv 1812.04808. `min_share` is not in the paper.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.clustering import KernelTreelets
    >>> x = np.array([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2]])
    >>> model = KernelTreelets(n_clusters=2).fit(x)
    >>> model.labels_.tolist(), model.predict([[0.3], [0.9]]).tolist()
    ([0, 0, 0, 1, 1, 1], [0, 1])
    """

    def __init__(
        self,
        n_clusters: int = 2,
        *,
        kernel: str | Kernel = "rbf",
        gamma: float | None = None,
        n_neighbors: int | None = None,
        lambda_: float = 0.0,
        min_share: float = 0.1,
        n_samples: int | None = None,
        extension: str = "nearest",
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.kernel = kernel
        self.gamma = gamma
        self.n_neighbors = n_neighbors
        self.lambda_ = lambda_
        self.min_share = min_share
        self.n_samples = n_samples
        self.extension = extension
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Cluster samples (n, d), or the matrix (n, n) of a precomputed kernel; y is ignored.

        Raises
        ------
        ValueError, TypeError
            For parameters out of range, kernels that are not symmetric or negative on the diagonal, and what
            scikit-learn refuses: fewer than two samples, NaN where the kernel is not one's own.
        """
        self._check()
        X = self._validated(X, True)
        if isinstance(self.kernel, str) and self.kernel == "precomputed":
            check_gram(X)
        n = len(X)
        drawn = n if self.n_samples is None else min(int(self.n_samples), n)
        if self.n_clusters > drawn:
            raise ValueError(f"n_clusters must be at most the number of samples, {drawn}, got {self.n_clusters}")
        chosen = np.arange(n)
        if drawn < n:
            chosen = np.sort(check_random_state(self.random_state).permutation(n)[:drawn])
        samples = X[chosen]
        self.kernel_ = self._chosen_kernel(samples)
        if self.kernel_ is None:
            a = samples[:, chosen]
        else:
            a = gram(self.kernel_, samples, samples)
            if callable(self.kernel):
                check_gram(a)
        norms = a.diagonal().copy()
        machine = self.extension == "svm" and self.n_clusters > 1  # which learns from the matrix
        self._grow(a, float(self.lambda_), overwrite_a=not machine and not callable(self.kernel))
        self.sample_indices_ = chosen
        self._samples: Any = None if self.kernel_ is None else samples
        smallest = math.ceil(self.min_share * drawn / self.n_clusters)
        labels = clusters(self.rotations_, self.n_clusters, smallest)
        self._taught = np.flatnonzero(labels >= 0)
        self._taught_labels, self._norms = labels[self._taught], norms[self._taught]
        self._machine = None
        if machine:
            self._machine = SVC(kernel="precomputed", C=MARGIN)
            self._machine.fit(a[np.ix_(self._taught, self._taught)], self._taught_labels)
        self.labels_ = np.empty(n, labels.dtype)
        self.labels_[chosen] = labels
        rest = np.setdiff1d(np.arange(n), chosen[labels >= 0])
        if len(rest):
            self.labels_[rest] = self._extend(X[rest])
        return self

    def predict(self, X: Any) -> Indices:
        """Return the clusters of new samples, shape (m,), in O(m n)."""
        check_is_fitted(self)
        return self._extend(self._validated(X, False))

    def transform(self, X: Any, level: int | None = None) -> Array:
        """Return the inner products of samples with the basis after `level` rotations (default: all), shape (m, n).

        Column i belongs to variable i of the tree. They are K(X, samples) Bᵀ.
        """
        check_is_fitted(self)
        at = self._level(level)
        return self.rotations_.forward(self._to_samples(self._validated(X, False)), at)

    def inverse_transform(self, X: Any, level: int | None = None) -> Array:
        """Return the kernel K(x, samples), shape (m, n), from coordinates (m, n): B is orthogonal."""
        check_is_fitted(self)
        return self.rotations_.backward(coordinates(X, self.rotations_), self._level(level))

    def _check(self) -> None:
        check_number("n_clusters", self.n_clusters, 1, whole=True)
        if not callable(self.kernel) and self.kernel not in KERNELS:
            raise ValueError(f"kernel must be a function or one of {', '.join(KERNELS)}, got {self.kernel!r}")
        if self.extension not in EXTENSIONS:
            raise ValueError(f"extension must be one of {', '.join(EXTENSIONS)}, got {self.extension!r}")
        check_number("lambda_", self.lambda_, 0)
        check_number("min_share", self.min_share, 0)
        if self.n_samples is not None:
            check_number("n_samples", self.n_samples, 2, whole=True)
        if self.n_neighbors is not None:
            check_number("n_neighbors", self.n_neighbors, 1, whole=True)
        if self.gamma is not None:
            check_number("gamma", self.gamma, 0)
            if self.gamma == 0:
                raise ValueError("gamma must be positive, got 0")

    def _validated(self, X: Any, fitting: bool) -> Any:
        finite = "allow-nan" if callable(self.kernel) else True
        least = 2 if fitting else 1
        return validate_data(
            self, X, reset=fitting, dtype=np.float64, ensure_all_finite=finite, ensure_min_samples=least
        )

    def _chosen_kernel(self, samples: Any) -> Kernel | None:
        if callable(self.kernel):
            return self.kernel
        if self.kernel == "rbf":
            return Gaussian(local_gamma(samples) if self.gamma is None else float(self.gamma))
        if self.kernel == "neighbours":
            most = len(samples)
            k = min(math.ceil(2 * math.log(most)), most) if self.n_neighbors is None else int(self.n_neighbors)
            if k > most:
                raise ValueError(f"n_neighbors must be at most the number of clustered samples, {most}, got {k}")
            return SharedNeighbours(samples, k)
        return linear if self.kernel == "linear" else None

    def _to_samples(self, x: Any) -> Array:
        """Return K(x, samples); of a precomputed kernel, the columns of the samples that were drawn."""
        return x[:, self.sample_indices_] if self.kernel_ is None else gram(self.kernel_, x, self._samples)

    def _extend(self, x: Any) -> Indices:
        if self._machine is not None:
            return np.asarray(self._machine.predict(self._to_samples(x)[:, self._taught]), np.intp)
        if isinstance(self.kernel_, Gaussian):  # which underflows far from all samples
            nearest = squared_distances(x, self._samples[self._taught]).argmin(1)
        else:  # |φ(x) - φ(s)|² without what x alone contributes
            nearest = (self._norms - 2 * self._to_samples(x)[:, self._taught]).argmin(1)
        return np.asarray(self._taught_labels[nearest])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = isinstance(self.kernel, str) and self.kernel == "precomputed"
        tags.input_tags.allow_nan = callable(self.kernel)
        return tags
