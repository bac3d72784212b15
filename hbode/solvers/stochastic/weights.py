"""The exact law of an Ornstein-Uhlenbeck step, from the increment of a Brownian path and its Lévy area."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

SERIES = tuple(2 * n / math.factorial(2 * n + 1) for n in range(1, 9))
"""Of (cosh y - sinh y / y) / y² in powers of y²; the next term is below rounding for |y| ≤ 1/2."""


class OrnsteinUhlenbeck(NamedTuple):
    """m(L) = decay m(0) + σ (of_increment w + of_area n) for dm = -γ m dt + σ dW, and standard normals w and n.

    With w and n as in `BrownianPath`, the increment √L w has its exact joint law with I = ∫ exp(-γ (L - s)) dW_s. Of
    the variance of I, w explains its part, and n is given the rest. Along the path, a line would explain that but for
    O((γ L)²) of it: I is off by a normal of O(γ² L^(5/2)), whose mean is zero.
    """

    decay: Tensor
    of_increment: Tensor
    of_area: Tensor

    @classmethod
    def over(cls, gamma: Tensor, dt: Tensor | float, dtype: torch.dtype) -> OrnsteinUhlenbeck:
        """Return the weights over a step, in a dtype, from γ in float64, of any sign: shape of γ dt."""
        backwards = torch.autograd.forward_ad._current_level < 0 and not torch._C._are_functorch_transforms_active()
        one_node = isinstance(dt, float) and gamma.requires_grad and backwards
        made: Tensor = _OneNode.apply(gamma, dt) if one_node else _weights(gamma, dt)
        return cls(*made.to(dtype).unbind())


class _OneNode(torch.autograd.Function):
    """`_weights` as one node of the graph, which every step of a backward pass goes through."""

    @staticmethod
    def forward(ctx: Any, gamma: Tensor, dt: float) -> Tensor:
        with torch.enable_grad():
            own = gamma.detach().requires_grad_()
            made = _weights(own, dt)
            slopes = [torch.autograd.grad(weight.sum(), own, retain_graph=True)[0] for weight in made]
        ctx.save_for_backward(gamma, torch.stack(slopes))
        ctx.dt = dt
        return made.detach()

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> tuple[Tensor, None]:
        gamma, slopes = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative
            return torch.autograd.grad(_weights(gamma, ctx.dt), gamma, bar, create_graph=True)[0], None
        return (bar * slopes).sum(0), None


def _weights(gamma: Tensor, dt: Tensor | float) -> Tensor:
    """Return the three weights, stacked."""
    x = gamma * dt
    small = x.abs() < 1.0
    near, far = torch.where(small, x, 0.5), torch.where(small, 1.0, x)
    mean = torch.where(small, _exprel(near), -torch.expm1(-far) / far)
    square = 0.25 * near * near
    series = torch.full_like(square, SERIES[-1])
    for coefficient in SERIES[-2::-1]:
        series = coefficient + series * square
    # the variance of I / √L less mean², e^(-x) (sinh y / y) (cosh y - sinh y / y) with y = x / 2, by its root
    close = -0.5 * near * torch.sqrt(torch.exp(-0.5 * near) * _exprel(near) * series)
    rest = far.sign() * torch.sqrt(mean * torch.where(small, 1.0, 0.5 * (1.0 + torch.exp(-far)) - mean))
    root = torch.sqrt(dt) if isinstance(dt, Tensor) else math.sqrt(dt)
    return torch.stack((torch.exp(-x), root * mean, root * torch.where(small, close, -rest)))


def _exprel(x: Tensor) -> Tensor:
    """Return (1 - exp(-x)) / x, one at zero, with its derivatives there to the accuracy of the fourth."""
    tiny = x.abs() < 1e-3
    safe = torch.where(tiny, 1.0, x)
    return torch.where(tiny, 1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5))), -torch.expm1(-safe) / safe)
