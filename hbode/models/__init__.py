"""Layers and networks built on `hbode.hbodeint`."""

from .fields import SYSTEMS, DenseField, ghbnode, hbnode, make_system, node, sonode
from .ode_rnn import ODERNN, Prediction, ResidualCell, SolveCounts, SolverSettings
from .sizing import equal_sizes, parameter_count

__all__ = [
    "ODERNN",
    "SYSTEMS",
    "SolveCounts",
    "DenseField",
    "Prediction",
    "ResidualCell",
    "SolverSettings",
    "equal_sizes",
    "ghbnode",
    "hbnode",
    "make_system",
    "node",
    "parameter_count",
    "sonode",
]
