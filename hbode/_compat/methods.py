"""torchdiffeq's methods: their names, their options, and how they run on a fixed grid."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..solvers import METHODS, Adams, Carry, Field, Implicit, Method, Settings
from ..solvers.implicit.inner import NewtonKrylov
from ..solvers.method import Advance
from ..solvers.methods.hermite import Hermite
from ..solvers.warning import warn
from .state import ArgumentError

ADAPTIVE = ("dopri8", "dopri5", "tsit5", "bosh3", "fehlberg2", "adaptive_heun")
FIXED = {"euler": "euler", "midpoint": "midpoint", "heun2": "heun2", "heun3": "heun3", "rk4": "rk38"}
IMPLICIT = (
    *("implicit_euler", "implicit_midpoint", "trapezoid", "sdirk2", "trbdf2"),
    *("radauIIA3", "radauIIA5", "gl4", "gl6"),
)
FIXED |= {name: name for name in IMPLICIT}
MULTISTEP = {"explicit_adams": False, "implicit_adams": True, "fixed_adams": True}
SCIPY = "scipy_solver"
NAMES = (*ADAPTIVE, *FIXED, *MULTISTEP, SCIPY)

_FIXED_OPTIONS = {"step_size", "grid_constructor", "interp", "perturb", "norm"}
_ADAPTIVE_OPTIONS = {
    "first_step",
    "min_step",
    "max_step",
    "safety",
    "ifactor",
    "dfactor",
    "step_t",
    "jump_t",
    "max_num_steps",
    "dtype",
    "norm",
}
_SCIPY_OPTIONS = {"solver", "min_step", "max_step", "norm", "grid_points", "eps"}


def check_method(method: Any, argument: str = "method") -> str:
    """Return the name of the method, dopri5 where none is given."""
    name = "dopri5" if method is None else method
    if name not in NAMES:
        raise ArgumentError(f"{argument} must be one of {', '.join(NAMES)}; got {name!r}")
    return str(name)


def known_options(name: str, options: Mapping[str, Any], argument: str = "options") -> dict[str, Any]:
    """Return the options that the method knows, with a warning of others."""
    if name in ADAPTIVE:
        known = _ADAPTIVE_OPTIONS
    elif name == SCIPY:
        known = _SCIPY_OPTIONS
    else:
        known = _FIXED_OPTIONS
        if name in MULTISTEP:
            known = known | {"max_order", "max_iters"} | ({"implicit"} if MULTISTEP[name] else set())
        elif name in IMPLICIT:
            known = known | {"max_iters"}
    unknown = {key: value for key, value in options.items() if key not in known}
    if unknown:
        names = ", ".join(sorted(known))
        warn(f"{argument} for {name!r}: unexpected {unknown}; known are {names}")
    return {key: value for key, value in options.items() if key in known}


class Line(NamedTuple):
    """States at both ends of a step, interpolated linearly."""

    y0: Tensor
    y1: Tensor

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the states at θ of shape (n,), shape (n, *y)."""
        x = theta.to(self.y0.dtype).view(-1, *[1] * self.y0.ndim)
        return torch.addcmul(self.y0, x, self.y1 - self.y0)


class GridStages(NamedTuple):
    """A step: the states at its ends, the slopes there if they are wanted, its length, and the method's own stages."""

    y0: Tensor
    y1: Tensor
    slopes: tuple[Tensor, Tensor] | None
    dt: Any
    inner: Any


class OnGrid(Method):
    """A method on a fixed grid as torchdiffeq runs it.

    Between grid points the solution is interpolated, linearly unless `cubic` is set. With `perturb`, the field is
    read just after the start and just before the end of each step, so that it may jump at the grid points: no step
    takes a slope over from the one before, and the carry is the state, for Adams methods with the history before it.
    `points` are the grid points where they are known beforehand, since a step, given by its start and length, knows its
    end to a rounding only. With `ends`, the last step evaluates the field at its end too, which nothing else needs.
    """

    def __init__(
        self, inner: Method, cubic: bool, perturb: bool, points: Sequence[float] = (), ends: bool = False
    ) -> None:
        self.inner, self.cubic, self.perturb, self.ends = inner, cubic, perturb, ends
        self.points = sorted(points)
        self.order = inner.order
        self.plain = not (cubic or perturb)
        self.numbers = self.plain and inner.numbers

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        return (y,) if self.perturb else self.inner.start(field, t, y)

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, GridStages]:
        if not self.plain:
            return self._step(self.inner.step, field, t, dt, carry)
        carry1, stages = self.inner.step(field, t, dt, carry)
        return carry1, GridStages(carry[0], carry1[0], None, dt, stages)

    def last_step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, GridStages]:
        whole = self.cubic or self.ends
        return self._step(self.inner.step if whole else self.inner.last_step, field, t, dt, carry)

    def _step(self, advance: Advance, field: Field, t: Any, dt: Any, carry: Carry) -> tuple[Carry, GridStages]:
        if self.perturb:
            start, end = float(t.detach()), float((t + dt).detach())
            slack = 4 * math.ulp(max(abs(start), abs(end), abs(end - start)))
            field = field.within((self._point(start, slack), self._point(end, slack)))
            before, carry = carry[1:], self.inner.start(field, t, carry[0])
            if before:
                carry = (carry[0], *(torch.cat(pair) for pair in zip(carry[1:], before, strict=True)))
            advance = self.inner.step if self.cubic else self.inner.last_step
        carry1, stages = advance(field, t, dt, carry)
        slopes = (self.inner.slope(field, carry), self.inner.slope(field, carry1)) if self.cubic else None
        if self.perturb:
            kept = self.inner.max_order - self.inner.implicit - 1 if isinstance(self.inner, Adams) else 0
            carry1 = (carry1[0], *(x[:kept] for x in carry[1:] if kept))
        return carry1, GridStages(carry[0], carry1[0], slopes, dt, stages)

    def _point(self, t: float, slack: float) -> float:
        """Return the grid point that t is but for rounding; t itself where there is none."""
        i = bisect_left(self.points, t)
        near = [point for point in self.points[max(i - 1, 0) : i + 1] if abs(point - t) <= slack]
        return min(near, key=lambda point: abs(point - t), default=t)

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return self.inner.slope(field, carry)

    def converged(self, stages: GridStages) -> Tensor | None:
        return self.inner.converged(stages.inner)

    def interpolate(self, stages: GridStages, theta: Tensor) -> Tensor:
        y0, y1, slopes, dt, _ = stages
        if slopes is None:
            return Line(y0, y1)(theta)
        return Hermite(y0, slopes[0], y1, slopes[1], dt.to(y0.dtype))(theta)


def grid_method(
    name: str, options: Mapping[str, Any], rtol: Any, atol: Any, span: float, points: Sequence[float]
) -> OnGrid:
    """Return a fixed-grid method with its options set, for a solve over a span of time with these grid points."""
    interp = options.get("interp", "linear")
    if interp not in ("linear", "cubic"):
        raise ArgumentError(f"options['interp'] must be 'linear' or 'cubic', got {interp!r}")
    inner = METHODS[FIXED.get(name, "rk38")]
    if isinstance(inner, Implicit):
        solver = NewtonKrylov(iterations=int(options.get("max_iters", 100)))
        inner = replace(inner, settings=Settings(solver, rtol, atol, share=1.0, span=span or None))
    if name in MULTISTEP:
        order = int(options.get("max_order", 12))
        if order > 12:
            raise ArgumentError(f"options['max_order'] must be at most 12, got {order}")
        if order < 4:
            warn(f"max_order={order} is below 4: {name!r} reduces to 'rk4'")
        else:
            implicit = bool(options.get("implicit", MULTISTEP[name]))
            iterations = int(options.get("max_iters", 4))
            inner = Adams(implicit, order - (not implicit), iterations, rtol, atol, starting_order=3 + implicit)
    perturb = options.get("perturb")
    return OnGrid(inner, interp == "cubic", bool(perturb), points, ends=perturb is not None and not perturb)
