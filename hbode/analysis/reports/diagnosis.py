"""A system's diagnosis: how stiff it is, what it costs, and whether momentum would help or did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...setup.arguments import default_method
from ...solvers import METHODS
from ...systems import SecondOrder, System
from ..cost.profiling import profile
from ..inputs import Inputs, Loss, checked_methods, checked_tolerances, inputs_of, solve
from ..stiffness.measure import stiffness
from .comparison import compare, same_field
from .diagnosis_result import FOR_STIFF, HELD_BACK, Diagnosis

TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
TOLERANCE = 1e-6
LEAST = 50
"""Units of rounding below which a tolerance makes no sense: rounding is then most of what the error estimates see."""


def diagnose(
    system: System,
    inputs: Inputs | tuple[Any, ...],
    *,
    methods: Sequence[str] | None = None,
    tolerances: Sequence[float] | None = None,
    tolerance: float | None = None,
    loss: Loss | None = None,
    batch: bool | None = None,
    repeats: int = 3,
    unit: str = "time units",
    say: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Look at a system along a solve: its stiffness, its cost, and the same field in other systems.

    Parameters
    ----------
    system
        A `System`.
    inputs
        `Inputs`, or a tuple ``(h0, t)`` or ``(h0, t, m0)``; h0 real, t of shape (T,), where the system is looked at.
    methods, repeats
        Of the cost, as in `profile`. Where stability holds back the steps of a method, "auto" and the implicit
        "kvaerno5" are profiled as well.
    tolerances
        Of the cost, as in `profile`. Default: 1e-3, 1e-4 … 1e-7, those from 50 eps of the dtype of h0 up.
    tolerance
        rtol = atol of the solve whose states are looked at, and of the comparison. Default: 1e-6, or 50 eps of the
        dtype if that is more.
    loss, batch
        As in `compare`.
    unit
        Of time, for the labels.
    say
        Called with a line of text at the start of each stage.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.
    SolverError
        If the system cannot be solved at `tolerance`.

    Examples
    --------
    >>> import torch
    >>> from hbode import HeavyBall
    >>> from hbode.analysis import diagnose
    >>> system = HeavyBall(lambda t, h: -4 * h, 0.2, trainable=False)
    >>> inputs = torch.ones(2, 1, dtype=torch.float64), [0.0, 1.0]
    >>> report = diagnose(system, inputs, tolerances=(1e-3, 1e-5), repeats=1)
    >>> report.method
    'dprkn6'
    """
    if not isinstance(system, System):
        raise TypeError(f"system must be a System such as HeavyBall or FirstOrder, got {type(system).__name__}")
    inputs = inputs_of(system, inputs)
    if inputs.h0.is_complex():
        raise TypeError(f"h0 must be real, got {inputs.h0.dtype}")
    least = LEAST * torch.finfo(inputs.h0.dtype).eps
    names = checked_methods(methods, system)
    ladder = checked_tolerances([x for x in TOLERANCES if x >= least] or [least] if tolerances is None else tolerances)
    tolerance = max(TOLERANCE, least) if tolerance is None else tolerance
    say = say or _nobody
    method = default_method(system)

    say(f"Solving by {method} at tolerance {tolerance:.2g} …")
    with torch.no_grad():
        sol = solve(system, inputs, method, tolerance)
    say(f"Measuring stiffness at {len(sol.t)} times …")
    rates = stiffness(system, sol, args=inputs.args, batch=batch, unit=unit)
    if _is_stiff(system, inputs, names, max(ladder)):
        names = tuple(dict.fromkeys((*names, *FOR_STIFF)))
    say(f"Profiling {', '.join(names)} at tolerances {', '.join(f'{x:.3g}' for x in ladder)} …")
    cost = profile(system, inputs, methods=names, tolerances=ladder, repeats=repeats, unit=unit, say=say)
    others = _in_other_systems(system)
    say("Comparing with the same field in other systems …" if len(others) > 1 else "Following gradients …")
    comparison = compare(others, inputs, tolerance=tolerance, loss=loss, batch=batch, repeats=1, unit=unit)
    return Diagnosis(method, tolerance, rates, cost, comparison)


@torch.no_grad()
def _is_stiff(system: System, inputs: Inputs, names: Sequence[str], tolerance: float) -> bool:
    """Return whether stability holds back the steps of one of the methods, at a tolerance at which it first does."""
    for name in names:
        if METHODS[name].error_order is not None and name not in FOR_STIFF:
            found = solve(system, inputs, name, tolerance, throw=False).stats.stiffness
            if isinstance(found, float) and found >= HELD_BACK:
                return True
    return False


def _in_other_systems(system: System) -> dict[str, System]:
    """Return the four systems of the same f(t, h), with the coefficients of this one; itself in its place."""
    if system.second_order and not system.damped:
        return {"sonode" if isinstance(system, SecondOrder) else type(system).__name__: system}
    gamma, xi = (None if c is None else c.detach() for c in system.coefficients())
    others = same_field(system.f, gamma, xi)
    own = "node" if not system.second_order else "hbnode" if xi is None and system.activation is None else "ghbnode"
    return {**others, own: system}


def _nobody(_: str) -> None:
    """Hear what is said, and let it pass."""
