"""hbode: neural ODEs with heavy-ball (momentum) dynamics, h'' + γ h' = f(t, h)."""

from typing import Any

from .inputs import CubicInput, HoldInput, LinearInput
from .integrate import hbodeint
from .lazy import submodule
from .output.trajectory import Trajectory
from .setup.events import Event
from .setup.updates import Update
from .solution import EventRecord, Solution, SolverError, Stats
from .solvers import METHODS, Status
from .stochastic import sdeint
from .systems import FirstOrder, GeneralizedHeavyBall, HeavyBall, Lienard, SecondOrder, System, join, split
from .systems.damping import NesterovDamping
from .systems.split_field import SplitField
from .version import __version__ as __version__

__all__ = [
    "METHODS",
    "CubicInput",
    "Event",
    "EventRecord",
    "FirstOrder",
    "GeneralizedHeavyBall",
    "HeavyBall",
    "HoldInput",
    "Lienard",
    "LinearInput",
    "NesterovDamping",
    "SecondOrder",
    "Solution",
    "SolverError",
    "SplitField",
    "Stats",
    "Status",
    "System",
    "Trajectory",
    "Update",
    "hbodeint",
    "join",
    "sdeint",
    "split",
]


def __getattr__(name: str) -> Any:
    return submodule(__name__, name)
