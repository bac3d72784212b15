"""What estimators with a treelet tree share."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..lazy import MissingExtra
from .rotations import Array, Rotations, jacobi_tree
from .tree import linkage

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise MissingExtra("treelets need sklearn: pip install 'hbode[timeseries]'") from error


class TreeletTree(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What estimators with a treelet tree share: the tree as scipy and scikit-learn draw it, and its bases."""

    rotations_: Rotations

    def basis(self, level: int | None = None) -> Array:
        """Return the orthogonal basis B after `level` rotations (default: all), shape (n, n), a basis vector a row.

        B A Bᵀ is the rotated matrix. Row i belongs to variable i: a principal component of all that was merged into it
        while it is active, a detail afterwards.
        """
        check_is_fitted(self)
        n = len(self.rotations_) + 1
        return self.rotations_.forward(np.eye(n), self._level(level)).T

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "rotations_")  # `lambda_` is a parameter, which scikit-learn would take for a result

    def _level(self, level: int | None) -> int:
        most = len(self.rotations_)
        if level is None:
            return most
        if not isinstance(level, Integral) or not 0 <= level <= most:
            raise ValueError(f"level must be from 0 to {most}, the number of rotations, got {level!r}")
        return int(level)

    def _grow(self, a: Array, lambda_: float, overwrite_a: bool = False) -> None:
        self.rotations_ = jacobi_tree(a, lambda_, overwrite_a)
        self.linkage_ = linkage(self.rotations_)
        self.children_ = self.linkage_[:, :2].astype(np.intp)
        self.heights_ = self.linkage_[:, 2]
        self._n_features_out = len(a)


def coordinates(x: Any, rotations: Rotations) -> Array:
    """Return an array of coordinates, or raise for another shape than (m, n)."""
    found = np.asarray(x, np.float64)
    if found.ndim != 2 or found.shape[1] != len(rotations) + 1:
        raise ValueError(f"X must have shape (m, {len(rotations) + 1}), got {found.shape}")
    return found


def check_number(name: str, value: Any, least: int, whole: bool = False) -> None:
    """Raise unless a parameter is a finite number, or a whole one, of at least so much."""
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise TypeError(f"{name} must be {'an integer' if whole else 'a number'}, got {value!r}")
    if not least <= float(value) < math.inf:
        raise ValueError(f"{name} must be at least {least} and finite, got {value!r}")
