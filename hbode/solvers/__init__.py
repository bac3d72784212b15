"""Numerics: pure steps, the loops that drive them, and the tape they leave. Imports torch, nothing of hbode."""

from .adams import Adams
from .auto import Auto
from .blocks import STEPS, TRIES, run_block, run_tries, step_once
from .clock import Clock, Node, SampleClock
from .compiled import CannotCompileError, compiled
from .control import PID_COEFFICIENTS, Controller
from .coupled import Coupled
from .field import Damping, Field
from .implicit import INNER, Collocation, CollocationTableau, Dirk, DirkTableau, Implicit, Settings
from .loop import solve
from .loop_in_blocks import solve_in_blocks
from .loop_per_sample import solve_per_sample
from .method import Carry, Invertible, Method, Uniform, is_uniform, max_growth
from .nystrom import Nystrom
from .plan import KEEP_ALL, Keep, Plan
from .precision import Autocast, real_dtype
from .registry import METHODS, as_method, is_explicit_one_step, switching
from .run import integrate, warn_of_eager
from .runge_kutta import RungeKutta
from .sample_step import batch_first
from .status import Status
from .tableau import ButcherTableau, NystromTableau
from .tape import Crossing, Replayed, Step, Tape
from .updates import Updates

__all__ = [
    "KEEP_ALL",
    "METHODS",
    "STEPS",
    "TRIES",
    "PID_COEFFICIENTS",
    "Adams",
    "Auto",
    "Autocast",
    "ButcherTableau",
    "CannotCompileError",
    "Carry",
    "Clock",
    "Collocation",
    "CollocationTableau",
    "Controller",
    "Coupled",
    "Crossing",
    "INNER",
    "Implicit",
    "Settings",
    "Damping",
    "Dirk",
    "DirkTableau",
    "Field",
    "Invertible",
    "Keep",
    "Method",
    "Node",
    "Nystrom",
    "NystromTableau",
    "Plan",
    "Replayed",
    "RungeKutta",
    "SampleClock",
    "Status",
    "Step",
    "Tape",
    "Uniform",
    "Updates",
    "switching",
    "as_method",
    "batch_first",
    "compiled",
    "is_explicit_one_step",
    "integrate",
    "is_uniform",
    "max_growth",
    "real_dtype",
    "run_block",
    "run_tries",
    "solve",
    "solve_in_blocks",
    "solve_per_sample",
    "step_once",
    "warn_of_eager",
]
