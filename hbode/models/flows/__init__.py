"""Normalising flows: densities by the heavy ball, whose volume is known beforehand, and by a first-order ODE."""

from .continuous import ContinuousFlow, Regularised
from .fields import ConcatSquashField, LienardField
from .flow import Flow
from .heavy_ball import GaussianMomentum, HeavyBallFlow
from .toy_densities import TOY_DENSITIES, toy_density

__all__ = [
    "TOY_DENSITIES",
    "ConcatSquashField",
    "ContinuousFlow",
    "Flow",
    "GaussianMomentum",
    "HeavyBallFlow",
    "LienardField",
    "Regularised",
    "toy_density",
]
