"""Models of driven and free systems in continuous time."""

from .sensitivities import Sensitivities, sensitivities, solve_all_steps
from .state_bank import StateBank
from .state_space import Limited, LinearReadout, NeuralStateSpace, PositionReadout, Simulation, StateEncoder

__all__ = [
    "Limited",
    "LinearReadout",
    "NeuralStateSpace",
    "PositionReadout",
    "Sensitivities",
    "Simulation",
    "StateBank",
    "StateEncoder",
    "sensitivities",
    "solve_all_steps",
]
