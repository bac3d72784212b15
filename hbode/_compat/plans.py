"""torchdiffeq's options and callbacks, as the plan of a solve."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..solvers import Controller, Node, Plan, Status
from ..solvers.warning import warn
from .state import ArgumentError, ArgumentTypeError, Layout, SolveError, State

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")

_EVENT_STEPS = 20_000
"""Steps on a fixed grid after which the search for an event is given up, as in torchdiffeq."""
_UNUSED = Controller()
"""What a plan says of errors where steps have none."""


def adaptive_plan(
    options: Mapping[str, Any],
    values: Sequence[float],
    norm: Callable[[Tensor], Tensor] | None,
    rtol: Any,
    atol: Any,
    **watched: Any,
) -> Plan:
    """Return the plan of an adaptive solve over times of these values, with the events and hooks of `watched`."""
    dtype = options.get("dtype", torch.float64)
    if not isinstance(dtype, torch.dtype):
        raise ArgumentTypeError(f"options['dtype'] must be a torch.dtype, got {dtype!r}")
    if dtype != torch.float64:
        warn(f"options['dtype'] is {dtype}: time is carried in torch.float64 all the same, func gets it as y0 has it")
    control = Controller(
        rtol=rtol,
        atol=atol,
        safety=number(options, "safety", 0.9),
        min_factor=number(options, "dfactor", 0.2),
        max_factor=number(options, "ifactor", 10.0),
        min_step=number(options, "min_step", 0.0, zero=True),
        max_step=number(options, "max_step", math.inf),
        first_step=None if options.get("first_step") is None else number(options, "first_step", 0.0),
        norm=norm,
    )
    sign = direction(values)
    steps, jumps = (_points(key, options.get(key), values[0], sign) for key in ("step_t", "jump_t"))
    if len({*steps, *jumps}) < len(steps) + len(jumps):
        raise ArgumentError("options['step_t'] and options['jump_t'] must not repeat a time, within or between them")
    nodes = tuple(Node(p, None) for p in sorted((*steps, *jumps), key=lambda p: sign * p))
    return Plan(control, True, within(nodes, values), jumps=tuple(sorted(jumps)), **watched)


def grid_plan(
    options: Mapping[str, Any], func: Any, y0: State, t: Tensor, values: Sequence[float], **watched: Any
) -> Plan:
    """Return the plan of a solve on a fixed grid, with the events and hooks of `watched`; to an event it has no end."""
    step, construct = options.get("step_size"), options.get("grid_constructor")
    if step is not None and construct is not None:
        raise ArgumentError("options 'step_size' and 'grid_constructor' are mutually exclusive")
    if step is not None:
        step = number(options, "step_size", 0.0)
    if watched["crossings"]:
        if step is None:
            raise ArgumentError("options['step_size'] must be given to find an event with a fixed-grid method")
        watched |= {"step_size": step, "max_steps": _EVENT_STEPS}
        return Plan(_UNUSED, False, within((), values), check_finite=False, **watched)
    if step is not None:
        line = t.detach()
        count = int(torch.ceil((line[-1] - line[0]).abs() / step + 1))
        grid = line[0] + direction(values) * (torch.arange(count, dtype=t.dtype, device=t.device) * step)
        nodes = tuple(Node(value, 0) for value in grid.tolist())
        stops = within(nodes, values)
    elif construct is not None:
        line, place = t.detach(), {value: i for i, value in enumerate(values)}
        nodes = tuple(Node(value, place.get(value)) for value in _constructed(construct(func, y0, line), line))
        stops = within(nodes, values)
    else:
        stops = tuple([Node(value, i) for i, value in enumerate(values)][1:])
    return Plan(_UNUSED, False, stops, check_finite=False, **watched)


def _constructed(grid: Any, t: Tensor) -> list[float]:
    points = torch.as_tensor(grid).detach()
    if points.ndim != 1 or not len(points) or points[0] != t[0] or points[-1] != t[-1]:
        raise ArgumentError(
            f"options['grid_constructor'] must return times from t[0]={t[0]:g} to t[-1]={t[-1]:g}, got {points}"
        )
    values: list[float] = points.double().tolist()
    sign = direction(values)
    if any(sign * b < sign * a for a, b in pairwise(values)):
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
    if any(isinstance(x, Tensor) and x.requires_grad for x in (given if isinstance(given, list | tuple) else (given,))):
        warn(f"options[{key!r}] requires a gradient, which none of its times receives; detach it, or put them in t")
    try:
        points: list[float] = torch.as_tensor(given, dtype=torch.float64).detach().reshape(-1).tolist()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(f"options[{key!r}] must be a tensor of times, got {given!r}") from error
    return [p for p in points if sign * p >= sign * start]


def number(options: Mapping[str, Any], key: str, default: float, zero: bool = False) -> float:
    """Return an option as a positive number, or zero where that is allowed."""
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
                detail=f"max_num_steps exceeded ({self.count}>={self.limit:g}) before the next requested time. Raise "
                "options['max_num_steps'], or loosen rtol and atol",
            )
        self.count += 1


def callbacks(func: Any, names: Sequence[str], supported: Sequence[str], name: str, why: str = "") -> dict[str, Any]:
    """Return the callbacks that func has and the method supports, with a warning of the others."""
    found = {key: getattr(func, key) for key in names if getattr(func, key, None) is not None}
    refused = [key for key in found if key not in supported]
    if refused:
        warn(f"method {name!r} does not support callbacks {', '.join(refused)}{why}")
    return {key: callback for key, callback in found.items() if key in supported}
