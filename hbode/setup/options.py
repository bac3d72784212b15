"""The `options` of `hbodeint`: checked here, once, and turned into the plan of a solve."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..gradients import GRADIENTS, Gradient
from ..solvers import (
    INNER,
    PID_COEFFICIENTS,
    Adams,
    Auto,
    Controller,
    Coupled,
    Implicit,
    Method,
    Node,
    Nystrom,
    Plan,
    Settings,
    Updates,
    normal_form,
    switching,
)

CONTROL = ("first_step", "min_step", "max_step", "safety", "min_factor", "max_factor", "norm", "controller")
GRID = ("step_size", "grid_constructor")
POINTS = ("step_ts", "jump_ts")
ADAMS = ("max_order", "max_iters")
IMPLICIT_OPTIONS = ("inner", "inner_share")


def gradient_mode(gradient: str | Gradient, options: Mapping[str, Any]) -> tuple[Gradient, dict[str, Any]]:
    """Return the gradient mode, and the options less those that are settings of it."""
    if not isinstance(gradient, str):
        if isinstance(gradient, type) or not (hasattr(gradient, "adapt") and hasattr(gradient, "solve")):
            raise TypeError(f"gradient must be a name or a mode such as DiscreteAdjoint(), got {gradient!r}")
        return gradient, dict(options)
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
    made = GRADIENTS[gradient]
    names: list[str] = [field.name for field in fields(made)] if is_dataclass(made) else []
    settings = {key: value for key, value in options.items() if key in names}
    return made(**settings), {key: value for key, value in options.items() if key not in names}


def is_adaptive(method: Method, options: Mapping[str, Any]) -> bool:
    """Return whether the steps are chosen by their errors, rather than given."""
    given = options.get("step_size"), options.get("grid_constructor")
    return method.error_order is not None and given == (None, None)


def configured(
    method: Method, options: Mapping[str, Any], rtol: Any, atol: Any, reduced: bool, times: Tensor, varying: bool
) -> Method:
    """Return the method with its own options set, for times (T,) or (B, T).

    `reduced` says that a damped system has h' = m, `varying` that γ depends on the time.
    """
    if varying and isinstance(method, Nystrom):
        method = normal_form(method)
    if isinstance(method, Implicit | Auto):
        default = (method.implicit if isinstance(method, Auto) else method).settings
        inner, share = options.get("inner", default.inner), float(options.get("inner_share", default.share))
        if isinstance(inner, str) and inner not in INNER:
            raise ValueError(f"options['inner'] must be one of {', '.join(INNER)}, or a solver; got {inner!r}")
        if not 0 < share <= 1:
            raise ValueError(f"options['inner_share'] must be in (0, 1], got {share:g}")
        solver = INNER[inner] if isinstance(inner, str) else inner
        if isinstance(solver, type) or not callable(solver):
            raise TypeError(f"options['inner'] must be a name or a solver such as Anderson(), got {inner!r}")
        lengths = (times[..., -1] - times[..., 0]).detach().abs()
        span = None if is_adaptive(method, options) else float(lengths.max()) or None
        settings = Settings(solver, rtol, atol, share, reduced, span)
        if isinstance(method, Auto):
            return switching(reduced and not varying, settings)
        return replace(method, settings=settings)
    if not isinstance(method, Adams):
        return Coupled(method, float(options["coupling"])) if "coupling" in options else method
    own = {key: options[key] for key in ADAMS if key in options}
    return replace(method, rtol=number("rtol", rtol), atol=number("atol", atol), **own)


def number(key: str, tol: float | Tensor) -> float:
    """Return a tolerance for a method that takes one for all of the state."""
    if isinstance(tol, Tensor) and tol.numel() != 1:
        raise ValueError(f"{key} must be one number for this method, got shape {tuple(tol.shape)}")
    return float(tol)


def check_names(options: Mapping[str, Any], method: Method, name: str) -> None:
    """Raise unless every option is known to the method."""
    allowed = [*GRID, *POINTS, "max_steps", *(CONTROL if method.error_order is not None else ())]
    if method.explicit_one_step:
        allowed.append("coupling")
    elif isinstance(method, Adams):
        allowed += ADAMS
    elif isinstance(method, Implicit | Auto):
        allowed += IMPLICIT_OPTIONS
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(f"options for method {name!r} may be {', '.join(sorted(allowed))}; got {', '.join(unknown)}")


def controller(options: Mapping[str, Any], rtol: float | Tensor, atol: float | Tensor) -> Controller:
    """Return the step control that the options ask for."""
    chosen = {key: options[key] for key in CONTROL if key in options and key != "controller"}
    gains = options.get("controller", "I")
    if isinstance(gains, str):
        if gains not in PID_COEFFICIENTS:
            raise ValueError(f"options['controller'] must be I, PI, PID or three gains, got {gains!r}")
        gains = PID_COEFFICIENTS[gains]
    if not isinstance(gains, Sequence) or len(gains) != 3:
        raise ValueError(f"options['controller'] must be I, PI, PID or three gains (p, i, d), got {gains!r}")
    for key in ("first_step", "min_step", "max_step", "safety", "min_factor", "max_factor"):
        value = chosen.get(key)
        if value is not None:
            chosen[key] = value = float(value)
            if not value >= 0 or (value == 0 and key != "min_step"):
                raise ValueError(f"options[{key!r}] must be positive, got {value:g}")
    made = Controller(rtol=rtol, atol=atol, gains=tuple(float(g) for g in gains), **chosen)  # type: ignore[arg-type]
    if made.min_step > made.max_step:
        raise ValueError(f"options['min_step']={made.min_step:g} is larger than 'max_step'={made.max_step:g}")
    if not made.min_factor < 1 < made.max_factor:
        raise ValueError(
            f"options must have min_factor < 1 < max_factor, got {made.min_factor:g} and {made.max_factor:g}"
        )
    return made


def plan(
    method: Method,
    options: Mapping[str, Any],
    times: Tensor,
    rtol: float | Tensor,
    atol: float | Tensor,
    grid_arguments: tuple[Any, Any, Tensor],
    updates: Updates | None = None,
) -> Plan:
    """Return the plan of a solve over `times`, (T,) or (B, T) in float64, of which some are those of updates."""
    max_steps = int(options.get("max_steps", 2**31 - 1))
    if max_steps < 1:
        raise ValueError(f"options['max_steps'] must be at least 1, got {max_steps}")
    points = {key: _points(key, options.get(key)) for key in POINTS}
    if set(points["step_ts"]) & set(points["jump_ts"]):
        raise ValueError("options['step_ts'] and options['jump_ts'] must not share a time")
    step_size, construct = options.get("step_size"), options.get("grid_constructor")
    if step_size is not None and construct is not None:
        raise ValueError("options 'step_size' and 'grid_constructor' exclude each other")
    if step_size is not None and not float(step_size) > 0:
        raise ValueError(f"options['step_size'] must be positive, got {float(step_size):g}")
    if times.ndim == 2 and (points["jump_ts"] or construct is not None or options.get("norm") is not None):
        raise ValueError(
            "options 'jump_ts', 'grid_constructor' and 'norm' need one time axis and step size for the batch"
        )
    adaptive = is_adaptive(method, options)
    extra = sorted(points["step_ts"] + points["jump_ts"])
    if times.ndim == 2:
        stops = tuple(Node(value, None) for value in extra)
    else:
        grid: Sequence[float] = ()
        if construct is not None:
            grid = _constructed(construct(*grid_arguments), times)
        elif not adaptive and step_size is None:
            grid = times.tolist()
        if updates is not None:
            grid = (*grid, *times.detach()[updates.anchors[updates.anchors >= 0]].tolist())
        stops = _stops(times.tolist(), grid, extra)
    control = controller(options, rtol, atol)
    return Plan(
        control=replace(control, max_factor=min(control.max_factor, method.max_growth)),
        adaptive=adaptive,
        stops=stops,
        step_size=math.inf if step_size is None else float(step_size),
        jumps=tuple(points["jump_ts"]),
        max_steps=max_steps,
        updates=updates,
    )


def with_points(options: Mapping[str, Any], key: str, found: Sequence[float]) -> dict[str, Any]:
    """Return the options with points that were found for `key`, "step_ts" or "jump_ts", unless these are given.

    What is named under the other key as well counts as a point of discontinuity.
    """
    if options.get(key) is not None or not found:
        return dict(options)
    other = "step_ts" if key == "jump_ts" else "jump_ts"
    given = _points(other, options.get(other))
    if key == "jump_ts":
        return {**options, key: list(found), other: sorted(set(given) - set(found))}
    return {**options, key: sorted(set(found) - set(given))}


def _points(key: str, value: Any) -> list[float]:
    if value is None:
        return []
    given = value if isinstance(value, list | tuple) else (value,)
    if key == "jump_ts" and any(isinstance(x, Tensor) and x.requires_grad for x in given):
        raise ValueError(
            "options['jump_ts'] must not require a gradient: none reaches a time at which the field jumps. Detach it; "
            "for the gradient, solve up to the jump and on from it, with its time in t"
        )
    points = torch.as_tensor(value, dtype=torch.float64).detach()
    if points.ndim != 1 or not bool(torch.isfinite(points).all()):
        raise ValueError(f"options[{key!r}] must be a list of finite times, got {value!r}")
    return sorted(set(points.tolist()))


def _constructed(grid: Any, times: Tensor) -> list[float]:
    points = torch.as_tensor(grid, dtype=torch.float64).detach()
    direction = 1.0 if times[-1] >= times[0] else -1.0
    if points.ndim != 1 or len(points) < 1 or not bool((direction * points.diff() > 0).all()):
        raise ValueError("options['grid_constructor'] must return a strictly monotone 1-D tensor of times")
    if points[0] != times[0] or points[-1] != times[-1]:
        raise ValueError(
            f"options['grid_constructor'] must return times from t[0]={times[0]:g} to t[-1]={times[-1]:g}, "
            f"got {points[0]:g} to {points[-1]:g}"
        )
    return list(points.tolist())


def _stops(times: Sequence[float], grid: Sequence[float], extra: Sequence[float]) -> tuple[Node, ...]:
    """Return the times that steps must end on, without repetition, tied to the requested time they equal."""
    sign = 1.0 if times[-1] >= times[0] else -1.0
    start, end = times[0], times[-1]
    own = set(grid)
    inside = {value for value in (*own, *extra) if (value - start) * sign > 0 and (end - value) * sign > 0}
    order = sorted(inside, reverse=sign < 0)
    keys = [sign * value for value in times]

    def tied(value: float) -> Node:
        index = bisect_left(keys, sign * value)
        exact = index < len(keys) and times[index] == value and value in own
        return Node(value, index if exact else None)

    if end == start:
        return ()
    return (*(tied(value) for value in order), Node(end, len(times) - 1))
