"""Numerics: pure steps, the loops that drive them, and the tape they leave. Imports torch, nothing of hbode."""

from .adams import Adams
from .clock import Clock, Node, SampleClock
from .control import PID_COEFFICIENTS, Controller
from .coupled import Coupled
from .field import Damping, Field
from .loop import place, solve
from .loop_per_sample import place_per_sample, solve_per_sample
from .method import Carry, Invertible, Method
from .plan import Keep, Plan
from .registry import METHODS
from .sample_step import batch_first
from .status import Status
from .tableau import ButcherTableau, NystromTableau
from .tape import Crossing, Replayed, Step, Tape

__all__ = [
    "METHODS",
    "PID_COEFFICIENTS",
    "Adams",
    "ButcherTableau",
    "Carry",
    "Clock",
    "Controller",
    "Coupled",
    "Crossing",
    "Damping",
    "Field",
    "Invertible",
    "Keep",
    "Method",
    "Node",
    "NystromTableau",
    "Plan",
    "Replayed",
    "SampleClock",
    "Status",
    "Step",
    "Tape",
    "batch_first",
    "place",
    "place_per_sample",
    "solve",
    "solve_per_sample",
]
