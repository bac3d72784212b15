"""The parts of `hbode.compat`: states of several tensors, torchdiffeq's methods and options in terms of ours."""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .solution import SolverError
from .solvers import METHODS, Adams, Carry, Controller, Field, Method, Node, Plan, Status
from .solvers.hermite import Hermite

ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun")
FIXED = {"euler": "euler", "midpoint": "midpoint", "heun2": "heun2", "heun3": "heun3", "rk4": "rk38"}
MULTISTEP = {"explicit_adams": False, "implicit_adams": True, "fixed_adams": True}
SCIPY = "scipy_solver"
NAMES = (*ADAPTIVE, *FIXED, *MULTISTEP, SCIPY)
IMPLICIT = (
    "implicit_euler",
    "implicit_midpoint",
    "trapezoid",
    "radauIIA3",
    "gl4",
    "radauIIA5",
    "gl6",
    "sdirk2",
    "trbdf2",
)
CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")

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
_EVENT_STEPS = 20_000
"""Steps on a fixed grid after which the search for an event is given up, as in torchdiffeq."""

State = Tensor | tuple[Tensor, ...]


class ArgumentError(ValueError, AssertionError):
    """An argument with a value that is not allowed; an AssertionError too, which torchdiffeq raises for some."""


class ArgumentTypeError(TypeError, AssertionError):
    """An argument of a type that is not allowed; an AssertionError too, which torchdiffeq raises for some."""


class SolveError(SolverError, AssertionError):
    """A solve that did not reach its end; an AssertionError too, which is what torchdiffeq raises."""


@dataclass(frozen=True)
class Layout:
    """How a state lies in the one tensor that is integrated: as it is, or a tuple's entries in one vector."""

    shapes: tuple[torch.Size, ...] | None

    @classmethod
    def of(cls, y0: Any) -> tuple[Layout, Tensor]:
        """Return the layout of a state, and the state in it."""
        parts = (y0,) if isinstance(y0, Tensor) else y0
        if not isinstance(parts, tuple) or not parts or not all(isinstance(part, Tensor) for part in parts):
            raise ArgumentTypeError(f"y0 must be a tensor or a tuple of tensors, got {_kind(y0)}")
        for part in parts:
            if not (part.is_floating_point() or part.is_complex()):
                raise ArgumentTypeError(f"y0 must be floating or complex, got {part.dtype}")
        if isinstance(y0, Tensor):
            return cls(None), y0
        return cls(tuple(part.shape for part in parts)), torch.cat([part.reshape(-1) for part in parts])

    def split(self, y: Tensor) -> State:
        """Return the user's form of a state (*y), or of several, (n, *y)."""
        if self.shapes is None:
            return y
        parts = y.split([shape.numel() for shape in self.shapes], -1)
        return tuple(part.reshape(*y.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True))

    def join(self, out: Any, y: Tensor) -> Tensor:
        """Return what func gave for the state y, as one tensor of the shape and dtype of y."""
        if self.shapes is None:
            return _fitted(out, y.shape, y)
        if not isinstance(out, tuple | list) or len(out) != len(self.shapes):
            raise ArgumentError(f"func must return a tuple of {len(self.shapes)} tensors as y0, got {_kind(out)}")
        pieces = [_fitted(o, shape, y).reshape(-1) for o, shape in zip(out, self.shapes, strict=True)]
        return torch.cat(pieces)

    def norm(self, given: Any) -> Callable[[Tensor], Tensor] | None:
        """Return the norm of the error: the given one, of the user's form of a state, or the default."""
        if given is not None and not callable(given):
            raise ArgumentTypeError(f"options['norm'] must be callable, got {_kind(given)}")
        chosen = given or (None if self.shapes is None else _mixed_norm)
        if chosen is None:
            return None
        return lambda x: chosen(self.split(x))  # type: ignore[no-any-return]


def _fitted(out: Any, shape: torch.Size, y: Tensor) -> Tensor:
    if not isinstance(out, Tensor):
        raise ArgumentTypeError(f"func must return tensors, got {_kind(out)}")
    if out.is_complex() and not y.is_complex():
        raise ArgumentTypeError(f"func must return the dtype of y0, {y.dtype}, got {out.dtype}")
    if out.shape != shape:
        try:
            out = out.reshape(shape) if out.numel() == 1 == shape.numel() else out.expand(shape)
        except RuntimeError as error:
            raise ArgumentError(f"func must return the shape of y0, {tuple(shape)}, got {tuple(out.shape)}") from error
    return out.to(y.dtype)


def _mixed_norm(parts: tuple[Tensor, ...]) -> Tensor:
    """Return the largest of the root-mean-square norms of the tensors."""
    return torch.stack([torch.linalg.vector_norm(x) / math.sqrt(max(x.numel(), 1)) for x in parts]).max()


def real_dtype(y: Tensor) -> torch.dtype:
    """Return the dtype in which func receives the time."""
    return y.real.dtype if y.is_complex() else y.dtype


def tolerance(name: str, tol: Any, layout: Layout, y: Tensor) -> float | Tensor:
    """Return a tolerance as a number, or as a float64 tensor that broadcasts to y."""
    entries = tol if isinstance(tol, tuple | list) else (tol,)
    if any(isinstance(entry, Tensor) and entry.requires_grad for entry in entries):
        raise ArgumentError(f"{name} must not require a gradient")
    try:
        if layout.shapes is not None and (isinstance(tol, tuple | list) or (isinstance(tol, Tensor) and tol.ndim)):
            if len(tol) != len(layout.shapes):
                raise ArgumentError(
                    f"{name} must have one entry for each of the {len(layout.shapes)} tensors of y0, got {len(tol)}"
                )
            parts = [torch.as_tensor(entry, dtype=torch.float64, device=y.device) for entry in tol]
            flat = [p.expand(s.numel() if p.ndim < 2 else s).reshape(-1) for p, s in zip(parts, layout.shapes, strict=True)]
            return torch.cat(flat)
        whole = torch.as_tensor(tol, dtype=torch.float64, device=y.device)
        return float(whole) if whole.numel() == 1 else whole.expand(y.shape)
    except ArgumentError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(f"{name} must be a number or a tensor that broadcasts to y0, got {tol!r}") from error


def check_times(t: Any, y: Tensor) -> Tensor:
    """Return the times on the device of y, in their own dtype."""
    if not isinstance(t, Tensor):
        raise ArgumentTypeError(f"t must be a tensor, got {_kind(t)}")
    if not t.is_floating_point():
        raise ArgumentTypeError(f"t must be a floating-point tensor, got {t.dtype}")
    if t.ndim != 1 or not len(t):
        raise ArgumentError(f"t must be one-dimensional with at least one entry, got shape {tuple(t.shape)}")
    if t.device != y.device:
        warnings.warn(f"t is on {t.device}, y0 on {y.device}: t is moved there", stacklevel=4)
        t = t.to(y.device)
    values = t.detach()
    if not bool(torch.isfinite(values).all()):
        raise ArgumentError("t must be finite, got NaN or Inf")
    steps = values.diff()
    if not (bool((steps > 0).all()) or bool((steps < 0).all())):
        raise ArgumentError("t must be strictly increasing or decreasing")
    return t


def check_method(method: Any, argument: str = "method") -> str:
    """Return the name of the method, dopri5 where none is given."""
    name = "dopri5" if method is None else method
    if name in IMPLICIT:
        raise NotImplementedError(
            f"{argument} {name!r} has no counterpart here yet; take 'implicit_adams', 'scipy_solver' with "
            "options={'solver': 'Radau'}, or for a field that is not stiff 'dopri5'"
        )
    if name not in NAMES:
        raise ArgumentError(f"{argument} must be one of {', '.join(NAMES)}; got {name!r}")
    return str(name)


def warn_unknown(name: str, options: Mapping[str, Any], argument: str = "options") -> None:
    """Warn of options that the method does not know."""
    if name in ADAPTIVE:
        known = _ADAPTIVE_OPTIONS
    elif name == SCIPY:
        known = _SCIPY_OPTIONS
    else:
        known = _FIXED_OPTIONS
        if name in MULTISTEP:
            known = known | {"max_order", "max_iters"} | ({"implicit"} if MULTISTEP[name] else set())
    unknown = {key: value for key, value in options.items() if key not in known}
    if unknown:
        warnings.warn(f"{argument} for {name!r}: unexpected {unknown}; known are {', '.join(sorted(known))}", stacklevel=4)


class Line(NamedTuple):
    """States at both ends of a step, interpolated linearly."""

    y0: Tensor
    y1: Tensor

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the states at θ of shape (n,), shape (n, *y)."""
        x = theta.to(self.y0.dtype).view(-1, *[1] * self.y0.ndim)
        return torch.addcmul(self.y0, x, self.y1 - self.y0)


class OnGrid:
    """A method on a fixed grid as torchdiffeq runs it.

    Between grid points the solution is interpolated, linearly unless `cubic` is set. With `perturb`, the field is
    read just after the start and just before the end of each step, so that it may jump at the grid points.
    """

    damped = False
    identity_only = False
    error_order: int | None = None

    def __init__(self, inner: Method, cubic: bool, perturb: bool) -> None:
        self.inner, self.cubic, self.perturb = inner, cubic, perturb
        self.order = inner.order

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        return self.inner.start(field, t, y)

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, Line | Hermite]:
        if self.perturb:
            field.between(float(t.detach()), float((t + dt).detach()))
            fresh = self.inner.start(field, t, carry[0])
            if isinstance(self.inner, Adams):
                fresh = (carry[0], torch.cat((fresh[1], carry[1][1:])), carry[2])
            carry = fresh
        carry1, _ = self.inner.step(field, t, dt, carry)
        if not self.cubic:
            return carry1, Line(carry[0], carry1[0])
        slopes = self.inner.slope(field, carry), self.inner.slope(field, carry1)
        return carry1, Hermite(carry[0], slopes[0], carry1[0], slopes[1], dt.to(carry[0].dtype))

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return self.inner.slope(field, carry)

    def error(self, stages: Line | Hermite) -> Tensor:
        raise NotImplementedError("a method on a fixed grid has no error estimate")

    def interpolate(self, stages: Line | Hermite, theta: Tensor) -> Tensor:
        return stages(theta)


def grid_method(name: str, options: Mapping[str, Any], rtol: Any, atol: Any) -> OnGrid:
    """Return a fixed-grid method with its options set."""
    interp = options.get("interp", "linear")
    if interp not in ("linear", "cubic"):
        raise ArgumentError(f"options['interp'] must be 'linear' or 'cubic', got {interp!r}")
    inner = METHODS[FIXED.get(name, "rk38")]
    if name in MULTISTEP:
        order = int(options.get("max_order", 12))
        if order > 12:
            raise ArgumentError(f"options['max_order'] must be at most 12, got {order}")
        if order < 4:
            warnings.warn(f"max_order={order} is below 4: {name!r} reduces to 'rk4'", stacklevel=5)
        else:
            implicit = bool(options.get("implicit", MULTISTEP[name]))
            inner = Adams(
                implicit, order if implicit else order - 1, int(options.get("max_iters", 4)), rtol, atol, starting_order=3
            )
    return OnGrid(inner, interp == "cubic", bool(options.get("perturb", False)))


def adaptive_plan(
    options: Mapping[str, Any], times: Tensor, norm: Callable[[Tensor], Tensor] | None, rtol: Any, atol: Any
) -> Plan:
    """Return the plan of an adaptive solve over `times`."""
    dtype = options.get("dtype", torch.float64)
    if not isinstance(dtype, torch.dtype):
        raise ArgumentTypeError(f"options['dtype'] must be a torch.dtype, got {dtype!r}")
    control = Controller(
        rtol=rtol,
        atol=atol,
        safety=_number(options, "safety", 0.9),
        min_factor=_number(options, "dfactor", 0.2),
        max_factor=_number(options, "ifactor", 10.0),
        min_step=_number(options, "min_step", 0.0, zero=True),
        max_step=_number(options, "max_step", math.inf),
        first_step=None if options.get("first_step") is None else _number(options, "first_step", 0.0),
        norm=norm,
    )
    values = times.tolist()
    sign = direction(values)
    steps, jumps = (_points(key, options.get(key), values[0], sign) for key in ("step_t", "jump_t"))
    if len({*steps, *jumps}) < len(steps) + len(jumps):
        raise ArgumentError("options['step_t'] and options['jump_t'] must not repeat a time, within or between them")
    nodes = tuple(Node(p, None) for p in sorted((*steps, *jumps), key=lambda p: sign * p))
    return Plan(control, True, within(nodes, values), jumps=tuple(sorted(jumps)))


def grid_plan(options: Mapping[str, Any], func: Any, y0: State, t: Tensor, times: Tensor, search: bool) -> Plan:
    """Return the plan of a solve on a fixed grid; in search of an event, the grid has no end."""
    step, construct = options.get("step_size"), options.get("grid_constructor")
    if step is not None and construct is not None:
        raise ArgumentError("options 'step_size' and 'grid_constructor' are mutually exclusive")
    if step is not None:
        step = _number(options, "step_size", 0.0)
    values = times.tolist()
    if search:
        if step is None:
            raise ArgumentError("options['step_size'] must be given to find an event with a fixed-grid method")
        return Plan(Controller(), False, within((), values), step_size=step, max_steps=_EVENT_STEPS, check_finite=False)
    nodes = tuple(Node(value, i) for i, value in enumerate(values))
    line = t.detach()
    if step is not None:
        count = int(torch.ceil((line[-1] - line[0]).abs() / step + 1))
        grid = line[0] + direction(values) * (torch.arange(count, dtype=t.dtype, device=t.device) * step)
        nodes = tuple(Node(value, 0) for value in grid.tolist())
    elif construct is not None:
        place = {value: i for i, value in enumerate(values)}
        nodes = tuple(Node(value, place.get(value)) for value in _constructed(construct(func, y0, line), line))
    return Plan(Controller(), False, within(nodes, values), check_finite=False)


def _constructed(grid: Any, t: Tensor) -> list[float]:
    points = torch.as_tensor(grid).detach()
    if points.ndim != 1 or not len(points) or points[0] != t[0] or points[-1] != t[-1]:
        raise ArgumentError(
            f"options['grid_constructor'] must return times from t[0]={t[0]:g} to t[-1]={t[-1]:g}, got {points}"
        )
    values: list[float] = points.double().tolist()
    sign = direction(values)
    if any(sign * b < sign * a for a, b in zip(values, values[1:], strict=False)):
        raise ArgumentError("options['grid_constructor'] must return times in the order of t")
    return values


def direction(values: Sequence[float]) -> float:
    """Return +1 for increasing times, -1 for decreasing ones."""
    return 1.0 if values[-1] >= values[0] else -1.0


def within(nodes: Sequence[Node], values: Sequence[float]) -> tuple[Node, ...]:
    """Return the nodes inside the span of the times, without repetition, and its end."""
    if len(values) == 1:
        return ()
    sign, last = direction(values), values[0]
    kept = []
    for node in nodes:
        if sign * node.value > sign * last and sign * node.value < sign * values[-1]:
            kept.append(node)
            last = node.value
    return (*kept, Node(values[-1], len(values) - 1))


def _points(key: str, given: Any, start: float, sign: float) -> list[float]:
    if given is None:
        return []
    try:
        points: list[float] = torch.as_tensor(given, dtype=torch.float64).detach().reshape(-1).tolist()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(f"options[{key!r}] must be a tensor of times, got {given!r}") from error
    return [p for p in points if sign * p >= sign * start]


def _number(options: Mapping[str, Any], key: str, default: float, zero: bool = False) -> float:
    try:
        value = float(options.get(key, default))
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"options[{key!r}] must be a number, got {options[key]!r}") from error
    if not (value > 0 or (zero and value == 0)):
        raise ArgumentError(f"options[{key!r}] must be {'zero or ' if zero else ''}positive, got {value:g}")
    return value


class Watch:
    """Counts the steps between requested times, and calls the callbacks of func."""

    def __init__(self, layout: Layout, times: Sequence[float], like: Tensor, limit: float) -> None:
        self.layout, self.like, self.limit = layout, like, limit
        self.sign = direction(times)
        self.keys = [self.sign * value for value in times]
        self.interval = self.count = 0

    def hook(self, callback: Callable[..., Any] | None, counts: bool = False) -> Callable[[float, Tensor, float], None]:
        """Return a hook of the loop that gives the callback a time, a state and a positive step."""

        def call(t: float, y: Tensor, dt: float) -> None:
            if counts:
                self._count(t, dt)
            if callback is not None:
                callback(self.like.new_tensor(t), self.layout.split(y), self.like.new_tensor(abs(dt)))

        return call

    def _count(self, t: float, dt: float) -> None:
        interval = bisect_right(self.keys, self.sign * t)
        if interval != self.interval:
            self.interval, self.count = interval, 0
        if self.count >= self.limit:
            raise SolveError(
                Status.MAX_STEPS,
                t,
                dt,
                detail=f"max_num_steps exceeded ({self.count}>={self.limit}) before the next requested time. Raise "
                "options['max_num_steps'], or loosen rtol and atol",
            )
        self.count += 1


def callbacks(func: Any, names: Sequence[str], supported: Sequence[str], name: str, why: str = "") -> dict[str, Any]:
    """Return the callbacks that func has and the method supports, with a warning of the others."""
    found = {key: getattr(func, key) for key in names if getattr(func, key, None) is not None}
    refused = [key for key in found if key not in supported]
    if refused:
        warnings.warn(f"method {name!r} does not support callbacks {', '.join(refused)}{why}", stacklevel=4)
    return {key: callback for key, callback in found.items() if key in supported}


def _kind(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {', '.join(type(v).__name__ for v in value) or 'nothing'}"
    return type(value).__name__
