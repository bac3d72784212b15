"""Training of any model, in one process or several, by a plain loop or by PyTorch Lightning, to the same losses."""

from typing import Any

from .batches import Number
from .checkpoint import CheckpointError
from .objective import Loss, solver_costs
from .settings import Diverged, History, TrainingSettings
from .training import train

__all__ = [
    "CheckpointError",
    "Diverged",
    "History",
    "Loss",
    "Number",
    "TrainingSettings",
    "solver_costs",
    "train",
]


def __getattr__(name: str) -> Any:
    if name != "Lightning":  # not in __all__: it needs the extra
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .lightning_engine import Lightning

    return Lightning
