"""Solvers of the equations that implicit steps leave: matrix-free, row by row, the host looking once an iteration."""

from ..equation import Inner
from .anderson import Anderson
from .barzilai_borwein import BarzilaiBorwein
from .fletcher_reeves import FletcherReeves
from .gradient_descent import GradientDescent
from .lbfgs import LBFGS
from .nesterov import Nesterov
from .newton_krylov import NewtonKrylov

INNER: dict[str, Inner] = {
    "anderson": Anderson(),
    "newton_krylov": NewtonKrylov(),
    "gradient_descent": GradientDescent(),
    "nesterov": Nesterov(),
    "fletcher_reeves": FletcherReeves(),
    "barzilai_borwein": BarzilaiBorwein(),
    "lbfgs": LBFGS(),
}

__all__ = [
    "INNER",
    "LBFGS",
    "Anderson",
    "BarzilaiBorwein",
    "FletcherReeves",
    "GradientDescent",
    "Inner",
    "Nesterov",
    "NewtonKrylov",
]
