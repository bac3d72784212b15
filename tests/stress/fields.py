"""Vector fields for the stress suite: each acts along the last axis, so that the samples of a batch do not meet.

A field is f(t, h, arg, w, b, v) with t of shape () or (B, 1, …, 1), h of shape (..., n), arg (n,), and parameters
w (n, k), b (k,), v (k, n). All but the kinked one are holomorphic, so that states may be complex.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

JUMP = 0.4
"""Where in the span the discontinuous field jumps."""


def smooth(t: Tensor, h: Tensor, arg: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    bounded = torch.sin if h.is_complex() else torch.tanh
    return bounded(h @ w + b * torch.cos(t)) @ v + arg * torch.sin(h + t)


def polynomial(t: Tensor, h: Tensor, arg: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    return (h @ w + 0.5 * b * t) @ v - 0.3 * h**3 + arg


def kinked(t: Tensor, h: Tensor, arg: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    return torch.relu(h @ w + b) @ v - h.abs() + arg * torch.cos(t)


def discontinuous(at: float) -> Callable[..., Tensor]:
    """Return the smooth field with its sign and a constant changed after a time."""

    def f(t: Tensor, h: Tensor, arg: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
        before = (t < at).to(h.dtype)
        return smooth(t, h, arg, w, b, v) * (1.6 * before - 0.6) + arg * (1 - before)

    return f


def stiff(rate: float) -> Callable[..., Tensor]:
    """Return a fast linear decay to a moving point, with the smooth field on top."""

    def f(t: Tensor, h: Tensor, arg: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
        return smooth(t, h, arg, w, b, v) - rate * (h - torch.cos(t + arg))

    return f


def make(kind: str, jump: float, rate: float) -> Callable[..., Tensor]:
    """Return the field of a name, for a state of any shape, () included."""
    f = {"smooth": smooth, "polynomial": polynomial, "kinked": kinked}.get(kind)
    f = f or (discontinuous(jump) if kind == "discontinuous" else stiff(rate))

    def on_any_shape(t: Tensor, h: Tensor, *rest: Tensor) -> Tensor:
        return f(t, h, *rest) if h.ndim else f(t, h.reshape(1), *rest).reshape(())

    return on_any_shape
