"""Implicit methods: equations for their stages, matrix-free inner solvers, gradients of implicit functions."""

from .dirk import Dirk
from .inner import INNER
from .methods import IMPLICIT
from .stage import Settings
from .step import Implicit

__all__ = ["IMPLICIT", "INNER", "Dirk", "Implicit", "Settings"]
