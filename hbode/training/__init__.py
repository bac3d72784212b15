"""Training of any model, in one process or several, by a plain loop or by PyTorch Lightning, to the same losses."""

from .checkpoint import CheckpointError
from .objective import solver_costs
from .settings import Diverged, History, TrainingSettings
from .training import train

__all__ = ["CheckpointError", "Diverged", "History", "TrainingSettings", "solver_costs", "train"]
