"""Numerics: pure steps, the loops that drive them, and the tape they leave. Imports torch, nothing of hbode."""

from .clock import Clock, Node, SampleClock
from .field import Damping, Field, VaryingDamping
from .implicit import INNER, Collocation, CollocationTableau, Dirk, DirkTableau, Implicit, Settings
from .loops.blocks import STEPS, TRIES, jump, run_block, run_tries, step_once
from .loops.compiled import CannotCompileError, compiled
from .loops.control import PID_COEFFICIENTS, Controller
from .loops.loop import solve
from .loops.loop_in_blocks import solve_in_blocks
from .loops.loop_per_sample import solve_per_sample
from .loops.plan import KEEP_ALL, Keep, Plan
from .loops.run import integrate, warn_of_eager
from .method import Carry, Invertible, Method, Uniform
from .methods.adams import Adams
from .methods.explicit.chebyshev import Chebyshev
from .methods.explicit.normal_form import NormalForm, normal_form
from .methods.explicit.nystrom import Nystrom
from .methods.explicit.runge_kutta import RungeKutta
from .methods.explicit.tableau import ButcherTableau, NystromTableau
from .methods.wrappers.auto import Auto
from .methods.wrappers.coupled import Coupled
from .methods.wrappers.moving_start import MovingStart
from .precision import Autocast, real_dtype
from .registry import METHODS, as_method, switching
from .status import Status
from .tape.jumps import Updates
from .tape.sample_step import batch_first
from .tape.tape import Crossing, Outcome, Replayed, Step, Tape

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
    "Chebyshev",
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
    "MovingStart",
    "Node",
    "Outcome",
    "NormalForm",
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
    "VaryingDamping",
    "switching",
    "as_method",
    "batch_first",
    "compiled",
    "integrate",
    "jump",
    "normal_form",
    "real_dtype",
    "run_block",
    "run_tries",
    "solve",
    "solve_in_blocks",
    "solve_per_sample",
    "step_once",
    "warn_of_eager",
]

INTERNAL = {
    *("KEEP_ALL", "PID_COEFFICIENTS", "STEPS", "TRIES"),
    *("Autocast", "CannotCompileError", "Carry", "Clock", "Crossing", "Keep", "MovingStart", "Node", "Outcome", "Plan"),
    *("Replayed", "SampleClock", "Step", "Tape", "Updates"),
    *("batch_first", "compiled", "integrate", "jump", "normal_form", "real_dtype", "run_block", "run_tries", "solve"),
    *("solve_in_blocks", "solve_per_sample", "step_once", "switching", "warn_of_eager"),
}
"""Names that other rooms of hbode use, and that are no part of what users may rely on."""
