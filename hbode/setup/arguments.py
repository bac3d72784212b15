"""The arguments of `hbodeint`, checked before any work."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..solvers import Auto, Chebyshev, Implicit, Method, real_dtype
from ..systems import GeneralizedHeavyBall, HeavyBall, System
from ..systems.coefficients import Activation, OfTime


def check_at_least(least: int = 1, **values: int | None) -> None:
    """Raise `ValueError` for an argument below the least; None stands for no number."""
    for name, value in values.items():
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def as_system(
    func: Callable[..., Tensor] | System,
    gamma: float | Tensor | OfTime | None,
    xi: float | Tensor | OfTime | None,
    activation: str | Activation | None,
) -> System:
    """Return a system as it is, or a heavy ball with fixed coefficients around a bare field."""
    if isinstance(func, System):
        given = [k for k, v in (("gamma", gamma), ("xi", xi), ("activation", activation)) if v is not None]
        if given:
            raise ValueError(f"{', '.join(given)} must not be given: the {type(func).__name__} owns them")
        return func
    if not callable(func):
        raise TypeError(f"func must be callable as f(t, h) or a system, got {type(func).__name__}")
    if xi is None and activation is None:
        return HeavyBall(func, gamma, trainable=False)
    return GeneralizedHeavyBall(func, gamma, 0.0 if xi is None else xi, activation, trainable=False)


def check_called(system: System, further: int, inputs: bool) -> None:
    """Raise unless f can be called with what a solve gives it: its `takes`, an input, and so many further arguments."""
    if not system.takes:
        return
    f = system.f.forward if isinstance(system.f, torch.nn.Module) else system.f
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):  # of a function that is not written in Python
        return
    given = [*system.takes, *(["u(t)"] if inputs else []), *(["*args"] if further else [])]
    try:
        signature.bind(*range(len(system.takes) + inputs + further))
    except TypeError:
        name = getattr(system.f, "__name__", type(system.f).__name__)
        message = f"func is called as f({', '.join(given)}), but {name} takes {signature}"
        if not inputs and not further:
            message += (
                ". Around a network of the state alone write lambda t, h: net(h), "
                "or a module whose forward(self, t, h) returns self.net(h)"
            )
        raise TypeError(message) from None


def not_a_state(name: str, value: Any) -> TypeError:
    """Return an error that says how the argument `name` becomes a state."""
    if isinstance(value, np.ndarray):
        got, remedy = f"a numpy array of {value.dtype}", f"torch.as_tensor({name})"
    elif isinstance(value, Tensor):
        got, remedy = str(value.dtype), f"{name}.float()"
    else:
        got = type(value).__name__
        remedy = f"torch.tensor({name.partition('[')[0]})" if isinstance(value, int | float) else ""
    return TypeError(
        f"{name} must be a floating or complex tensor, or a tuple, list or dict of them, got {got}"
        + (f": {remedy} makes it one" if remedy else "")
    )


def check_state(h0: Tensor, m0: Tensor | None, system: System) -> None:
    """Raise unless h0 is a state, and m0 a momentum that goes with it."""
    if not isinstance(h0, Tensor) or not (h0.is_floating_point() or h0.is_complex()):
        raise not_a_state("h0", h0)
    if m0 is None:
        return
    if not system.second_order:
        raise ValueError(f"m0 must not be given: a {type(system).__name__} system has no momentum")
    if not isinstance(m0, Tensor) or m0.shape != h0.shape or m0.dtype != h0.dtype:
        if isinstance(m0, np.ndarray):
            raise not_a_state("m0", m0)
        got = f"{tuple(m0.shape)}, {m0.dtype}" if isinstance(m0, Tensor) else type(m0).__name__
        raise ValueError(f"m0 must have the shape and dtype of h0, {tuple(h0.shape)}, {h0.dtype}; got {got}")


def as_times(t: Tensor | Sequence[float]) -> Tensor:
    """Return times as a tensor."""
    try:  # by numpy, which reads Python numbers in double precision whatever torch's default dtype
        return t if isinstance(t, Tensor) else torch.from_numpy(np.array(t))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"t must be a tensor or a sequence of numbers, got {t!r}") from error


def check_times(t: Tensor | Sequence[float], h0: Tensor, per_sample: bool) -> Tensor:
    """Return the times in float64 on the device of h0, (B, T) where samples have times or steps of their own."""
    times = as_times(t)
    if times.is_complex() or times.dtype == torch.bool:
        raise TypeError(f"t must hold real numbers, got {times.dtype}")
    times = times.to(h0.device, torch.float64)
    if times.ndim not in (1, 2) or times.shape[-1] < 1:
        raise ValueError(f"t must have shape (T,) or (B, T) with T at least 1, got {tuple(times.shape)}")
    for row in [times.tolist()] if times.ndim == 1 else times.tolist():
        if not all(map(math.isfinite, row)):
            raise ValueError("t must be finite, got NaN or Inf")
        if row not in (sorted(row), sorted(row, reverse=True)):
            raise ValueError("t must be monotone: increasing or decreasing, with repetition allowed")
    if (per_sample or times.ndim == 2) and h0.ndim == 0:
        raise ValueError("h0 must have a batch axis for times or steps per sample, got shape ()")
    if times.ndim == 2 and len(times) != len(h0):
        raise ValueError(f"t has times for {len(times)} samples, h0 has {len(h0)}")
    return times.expand(len(h0), -1) if per_sample and times.ndim == 1 else times


LOST_SHARE = 0.01
"""The share of the shortest requested interval that the rounding of the time may be, before it is warned of.

A field that changes with the time by its own size over the interval is off by half of this where it is rounded.
"""


def lost_time(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> str | None:
    """Return what to warn of where a field that gets its time in `dtype` cannot tell requested times apart.

    Each row of times is monotone.
    """
    if dtype == torch.float64:  # in which times are carried
        return None
    largest = max([abs(t) for row in rows for t in (row[0], row[-1])], default=0.0)
    shortest = min([abs(b - a) for row in rows for a, b in pairwise(row) if a != b], default=math.inf)
    eps = torch.finfo(dtype).eps
    spacing = eps * 2.0 ** (math.frexp(largest)[1] - 1)
    if not spacing > max(LOST_SHARE, 8 * eps) * shortest:  # states of a short dtype are rounded as coarsely themselves
        return None
    return (
        f"t up to {largest:.10g} is given to the field in the dtype of the state, {str(dtype).removeprefix('torch.')}, "
        f"to {spacing:.2g}, where requested times are {shortest:.2g} apart. Subtract a reference time "
        "from t, or take a state in float64"
    )


def default_method(system: System) -> str:
    """Return the method that a system is solved by if none is named."""
    return "dprkn6" if system.damped and system.activation is None else "dopri5"


def check_method(name: str, method: Method, system: System) -> None:
    """Raise unless the method integrates the system."""
    if method.damped and not (system.damped or (method.damped_by_position and system.damped_by_position)):
        raise ValueError(
            f"method {name!r} integrates h'' + γ h' = f(t, h); a {type(system).__name__} system needs another, "
            "such as dopri5"
        )
    if method.identity_only and system.activation is not None:
        raise ValueError(f"method {name!r} needs h' = m, without activation; take dopri5 or leapfrog")


def too_few_digits(state: str, dtype: torch.dtype, name: str, method: Method) -> str | None:
    """Return why a method cannot integrate a state of a dtype, if it cannot; `state` is the argument's name."""
    if torch.finfo(dtype).bits > 16 or not isinstance(method, Implicit | Auto | Chebyshev):
        return None
    why = "whose stages add up their roundings" if isinstance(method, Chebyshev) else "which solves equations"
    return (
        f"{state} must have more digits than {dtype} for method {name!r}, {why}. Take float32; "
        "the field may still run in lower precision then, by torch.autocast"
    )


def too_fine(state: str, dtype: torch.dtype, rtol: float | Tensor, atol: float | Tensor) -> str | None:
    """Return a warning if tolerances lie below the rounding of a state in half precision."""
    info = torch.finfo(dtype)
    finest = max(float(torch.as_tensor(tol).max()) for tol in (rtol, atol))
    if info.bits > 16 or finest >= info.eps:
        return None
    return (
        f"rtol={torch.as_tensor(rtol).max():g} is finer than {state} can hold: relative differences of {dtype} are "
        f"{info.eps:g}, and smaller moves are lost. Take float32, or larger rtol and atol"
    )


def as_coefficient(value: Tensor, h0: Tensor) -> Tensor:
    """Return γ or ξ in float64, shape () or with as many axes as h0."""
    if not isinstance(value, Tensor):
        raise TypeError(
            "gamma and xi, as functions of the time, must return tensors (torch.sin, not math.sin), "
            f"got {type(value).__name__}"
        )
    value = value.to(h0.device, torch.float64)
    if value.numel() == 1:
        return value.reshape(())
    try:
        fits = torch.broadcast_shapes(value.shape, h0.shape) == h0.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"γ and ξ must broadcast to h0, {tuple(h0.shape)}, got shape {tuple(value.shape)}")
    return value.reshape(*[1] * (h0.ndim - value.ndim), *value.shape)


def constant_coefficients(system: System, times: Tensor, h0: Tensor) -> list[Tensor | None]:
    """Return γ and ξ in float64 where they are constant; functions of the time are checked at the ends of the span."""
    functions = system.varying
    ends = [time.detach().to(real_dtype(h0)) for time in (times[..., 0], times[..., -1])]
    ends = [t.reshape(-1, *[1] * (h0.ndim - 1)) if t.ndim else t for t in ends]
    for name, function in zip(("gamma", "xi"), functions, strict=True):
        if function is None:
            continue
        for t in ends:
            value = as_coefficient(function(t), h0)
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} must be finite over all of t, got {value.tolist()} at t = {t.tolist()}")
    values = system.coefficients(*ends[:1] if functions != (None, None) else ())
    pairs = zip(functions, values, strict=True)
    return [None if function is not None or c is None else as_coefficient(c, h0) for function, c in pairs]


def check_tolerances(rtol: float | Tensor, atol: float | Tensor) -> None:
    """Raise unless the tolerances are numbers or tensors, not negative and not both zero."""
    for key, tol in (("rtol", rtol), ("atol", atol)):
        if isinstance(tol, Tensor):
            fine = bool((tol >= 0).all()) and not tol.requires_grad
        elif isinstance(tol, int | float):
            fine = tol >= 0
        else:
            raise TypeError(f"{key} must be a number or a tensor, got {type(tol).__name__}")
        if not fine:
            raise ValueError(f"{key} must be zero or positive and without gradient, got {tol!r}")
    both = rtol + atol
    if not (bool((both > 0).all()) if isinstance(both, Tensor) else both > 0):
        raise ValueError("rtol and atol must not both be zero")
