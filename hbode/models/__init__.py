"""Layers and networks built on `hbode.hbodeint`, and layers for sequences."""

from typing import Any

from ..lazy import submodule
from .fields import SYSTEMS, DenseField, ghbnode, hbnode, make_system, node, sonode
from .latent_ode import Bound, LatentODE
from .latent_sde import LatentSDE
from .layers import ANODE, GHBNODE, HBNODE, NODE, SONODE, NesterovNODE, ODELayer
from .ode_rnn import ODERNN, Prediction, ResidualCell
from .published import PUBLISHED, PublishedHeavyBall, UnitInterval, published_system, scale_parameters
from .recognition import GRURecognition, ODERNNRecognition
from .scan import linear_recurrence
from .sizing import equal_sizes, parameter_count, width_of_size
from .solver import SolveCounts, SolverSettings

__all__ = [
    "ANODE",
    "Bound",
    "GHBNODE",
    "GRURecognition",
    "HBNODE",
    "LatentODE",
    "LatentSDE",
    "NODE",
    "NesterovNODE",
    "ODELayer",
    "ODERNN",
    "ODERNNRecognition",
    "PUBLISHED",
    "PublishedHeavyBall",
    "SONODE",
    "SYSTEMS",
    "SolveCounts",
    "DenseField",
    "Prediction",
    "ResidualCell",
    "SolverSettings",
    "UnitInterval",
    "equal_sizes",
    "ghbnode",
    "hbnode",
    "linear_recurrence",
    "make_system",
    "node",
    "parameter_count",
    "published_system",
    "scale_parameters",
    "sonode",
    "width_of_size",
]


def __getattr__(name: str) -> Any:
    return submodule(__name__, name)
