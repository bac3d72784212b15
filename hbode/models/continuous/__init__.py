"""Models of driven and free systems in continuous time."""

from .sensitivities import Sensitivities, sensitivities, solve_all_steps
from .state_space import LinearReadout, NeuralStateSpace, PositionReadout, Simulation, StateEncoder

__all__ = [
    "LinearReadout",
    "NeuralStateSpace",
    "PositionReadout",
    "Sensitivities",
    "Simulation",
    "StateEncoder",
    "sensitivities",
    "solve_all_steps",
]
