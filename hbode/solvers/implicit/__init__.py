"""Implicit methods: equations for their stages, matrix-free inner solvers, gradients of implicit functions."""

from .collocation import Collocation, CollocationTableau
from .dirk import Dirk, DirkTableau
from .inner import INNER
from .stage import Settings
from .step import Implicit

__all__ = [
    "INNER",
    "Collocation",
    "CollocationTableau",
    "Dirk",
    "DirkTableau",
    "Implicit",
    "Settings",
]
