"""Models that stand beside every result, with the contract of all simulators; they need ``hbode[timeseries]``."""

from .arx import LinearARX
from .lstm import LSTMSimulator
from .persistence import Persistence
from .simulator import Simulator
from .state_space import LinearStateSpace

__all__ = ["LSTMSimulator", "LinearARX", "LinearStateSpace", "Persistence", "Simulator"]
