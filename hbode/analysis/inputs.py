"""What an analysis solves from, by and against: its arguments, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..integrate import hbodeint
from ..setup.arguments import check_method, check_state, check_times
from ..setup.options import GRID, POINTS, check_names
from ..solution import Solution, SolverError
from ..solvers import METHODS
from ..systems import System

Loss = Callable[[Tensor, Tensor], Tensor]
"""``loss(h_T, m_T)``: one number from the state at the end, two tensors of the shape of h0, summed over a batch. m_T is
zero where there is no momentum."""


def sum_of_squares(h: Tensor, m: Tensor) -> Tensor:
    """Return the sum of |h_T|², the loss by default."""
    return h.abs().square().sum()


def terminal_loss(loss: Loss, h: Tensor, m: Tensor | None) -> Tensor:
    """Return a loss of a state at the end.

    Raises
    ------
    TypeError
        If it is not one real number.
    """
    value: Any = loss(h, torch.zeros_like(h) if m is None else m)
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
        got = f"shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"loss must return a tensor with one real number, got {got}")
    return value


class Inputs(NamedTuple):
    """Start, times and further arguments of a solve, as `hbodeint` takes them.

    Attributes
    ----------
    h0
        Initial position, any shape (...), floating or complex.
    t
        Times of the solution, shape (T,); the first is that of h0.
    m0
        Initial momentum, shape and dtype of h0 (None: zero). Only for second-order systems.
    args
        Further arguments of the field.

    Examples
    --------
    >>> import torch
    >>> from hbode.analysis import Inputs
    >>> inputs = Inputs(torch.ones(2, 3), [0.0, 1.0])
    >>> inputs.m0 is None
    True
    """

    h0: Tensor
    t: Tensor | Sequence[float]
    m0: Tensor | None = None
    args: tuple[Any, ...] = ()


def as_inputs(inputs: Inputs | tuple[Any, ...]) -> Inputs:
    """Return `Inputs`, made from a tuple ``(h0, t)`` or ``(h0, t, m0)`` if need be.

    Raises
    ------
    TypeError
        If `inputs` is no tuple, or an entry is not of its type.
    ValueError
        If it is a plain tuple of neither two nor three entries.
    """
    if not isinstance(inputs, tuple):
        raise TypeError(f"inputs must be Inputs or a tuple (h0, t) or (h0, t, m0), got {type(inputs).__name__}")
    if not isinstance(inputs, Inputs):
        if len(inputs) not in (2, 3):
            raise ValueError(f"inputs must be Inputs or a tuple (h0, t) or (h0, t, m0), got {len(inputs)} entries")
        inputs = Inputs(*inputs)
    for name, value, missing in (("h0", inputs.h0, False), ("m0", inputs.m0, True)):
        if not (isinstance(value, Tensor) or (missing and value is None)):
            raise TypeError(f"{name} of inputs must be a tensor, got {type(value).__name__}")
    if isinstance(inputs.t, str) or not isinstance(inputs.t, Tensor | Sequence):
        raise TypeError(f"t of inputs must be a tensor or a sequence of numbers, got {type(inputs.t).__name__}")
    if not isinstance(inputs.args, tuple):
        raise TypeError(f"args of inputs must be a tuple, got {type(inputs.args).__name__}")
    return inputs


def inputs_of(system: System, inputs: Inputs | tuple[Any, ...]) -> Inputs:
    """Return `Inputs` that fit a system, with one time axis."""
    inputs = as_inputs(inputs)
    check_state(inputs.h0, inputs.m0, system)
    if check_times(inputs.t, inputs.h0, False).ndim != 1:
        raise ValueError("t of inputs must have shape (T,), got times per sample")
    return inputs


def solve(system: System, inputs: Inputs, method: str | None, tolerance: float, **more: Any) -> Solution:
    """Return what `hbodeint` makes of inputs at rtol = atol = `tolerance`; at its defaults, where that is NaN.

    The defaults stop the iterations of implicit methods on fixed steps.
    """
    h0, t, m0, args = inputs
    given = more if math.isnan(tolerance) else {"rtol": tolerance, "atol": tolerance, **more}
    return hbodeint(system, h0, t, m0=m0, args=args, method=method, **given)


def checked_methods(methods: Sequence[str] | None, system: System) -> tuple[str, ...]:
    """Return the names of methods that integrate the system; of None, those to compare for it."""
    if methods is None:
        return ("dopri5", "dprkn6") if system.damped and system.activation is None else ("dopri5", "tsit5")
    names = tuple(dict.fromkeys([methods] if isinstance(methods, str) else methods))
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise ValueError(f"methods must be some of {', '.join(METHODS)}; got {', '.join(map(str, unknown)) or 'none'}")
    for name in names:
        check_method(name, METHODS[name], system)
    return names


def checked_tolerances(tolerances: Sequence[float]) -> tuple[float, ...]:
    """Return tolerances, each once, if all are positive."""
    ladder = tuple(dict.fromkeys(float(tolerance) for tolerance in tolerances))
    if not ladder or not all(0 < tolerance < math.inf for tolerance in ladder):
        raise ValueError(f"tolerances must be positive numbers, at least one, got {tolerances!r}")
    return ladder


def divided_options(options: Mapping[str, Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the options of each method; raise if there is one that no method takes."""
    own = {name: {key: options[key] for key in options if _takes(name, key)} for name in names}
    unused = [key for key in options if not any(key in taken for taken in own.values())]
    if unused:
        raise ValueError(
            f"options must be known to one of {', '.join(names)} (step_size and grid_constructor are for methods "
            f"without an error estimate); got {', '.join(unused)}"
        )
    return own


def _takes(name: str, key: str) -> bool:
    if key in GRID:
        return METHODS[name].error_order is None
    try:
        check_names({key: None}, METHODS[name], name)
    except ValueError:
        return False
    return True


class Reference(NamedTuple):
    """What errors are measured against.

    Attributes
    ----------
    state
        As `state_of` returns it; None if it could not be computed.
    label
        What it is.
    resolution
        What the error of the reference itself is below; NaN if that is not known.
    notes
        Why there is none.
    """

    state: Tensor | None
    label: str
    resolution: float = math.nan
    notes: tuple[str, ...] = ()

    def error(self, sol: Solution) -> float:
        """Return the root mean square difference of a solution, relative to the root mean square of the reference."""
        if self.state is None:
            return math.nan
        size = float(self.state.abs().square().mean().sqrt())
        return float((state_of(sol) - self.state).abs().square().mean().sqrt()) / (size or 1.0)


def solved_reference(
    system: System, inputs: Inputs, reference: str | Solution | None, finest: float, options: Mapping[str, Any]
) -> Reference:
    """Return a given solution, or solve by a method at a thousandth of the `finest` tolerance (at least 50 eps).

    A second solve, at ten times that tolerance, tells the resolution: it has the larger error of the two.
    """
    if isinstance(reference, Solution):
        _check_reference(reference, system, inputs)
        return Reference(state_of(reference), "a given solution")
    if not isinstance(reference, str | None):
        raise TypeError(f"reference must be a method, a Solution or None, got {type(reference).__name__}")
    reduced = system.damped and system.activation is None
    method = reference or ("dprkn8" if reduced else "dopri8")
    tolerance = max(finest / 1000, 50 * torch.finfo(inputs.h0.dtype).eps)
    label = f"{method} at {tolerance:.2g}"
    points = {key: options[key] for key in POINTS if key in options and ":" not in method}
    with torch.no_grad():
        try:
            state = state_of(solve(system, inputs, method, tolerance, options=points))
        except SolverError as error:
            return Reference(None, label, notes=(f"no errors are known: the reference, {label}, failed with {error}",))
        try:
            coarse = solve(system, inputs, method, 10 * tolerance, options=points)
            return Reference(state, label, Reference(state, label).error(coarse))
        except SolverError:
            return Reference(state, label)


def _check_reference(reference: Solution, system: System, inputs: Inputs) -> None:
    times = check_times(inputs.t, inputs.h0, False).cpu()
    own = torch.as_tensor(reference.t, dtype=torch.float64).detach().cpu()
    if own.shape != times.shape or not torch.equal(own, times):
        raise ValueError(f"reference must be solved at the {len(times)} times of inputs, got {tuple(own.shape)} others")
    expected = (len(times), *inputs.h0.shape)
    if tuple(reference.h.shape) != expected or (reference.m is None) == system.second_order:
        raise ValueError(
            f"reference must have positions of shape {expected} and {'momenta' if system.second_order else 'none'}, "
            f"got {reference!r}"
        )


def state_of(sol: Solution) -> Tensor:
    """Return h, or (h, m) stacked on a new second axis, in double precision on the CPU without a graph."""
    rows = sol.h if sol.m is None else torch.stack((sol.h, sol.m), 1)
    return rows.detach().cpu().to(torch.complex128 if rows.is_complex() else torch.float64)
