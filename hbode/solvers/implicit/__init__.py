"""Implicit methods: equations for their stages, matrix-free inner solvers, gradients of implicit functions."""

from .inner import INNER
from .methods import IMPLICIT
from .stage import Settings
from .step import Implicit

__all__ = ["IMPLICIT", "INNER", "Implicit", "Settings"]
