"""Solvers of the equations that implicit steps leave: matrix-free, row by row, the host looking once an iteration.

Any function like `Inner` is one, as options={"inner": function}; `Progress` keeps its best point and says when to stop.
"""

from ..equation import Answer, Equation, Inner
from .anderson import Anderson
from .barzilai_borwein import BarzilaiBorwein
from .fletcher_reeves import FletcherReeves
from .lbfgs import LBFGS
from .newton_krylov import NewtonKrylov
from .progress import Progress

INNER: dict[str, Inner] = {
    "anderson": Anderson(),
    "newton_krylov": NewtonKrylov(),
    "fletcher_reeves": FletcherReeves(),
    "barzilai_borwein": BarzilaiBorwein(),
    "lbfgs": LBFGS(),
}

__all__ = [
    "INNER",
    "LBFGS",
    "Anderson",
    "Answer",
    "BarzilaiBorwein",
    "Equation",
    "FletcherReeves",
    "Inner",
    "NewtonKrylov",
    "Progress",
]
