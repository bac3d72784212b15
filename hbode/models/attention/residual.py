"""Momentum on the residual path: the outputs of attention of all layers are steps of one descent."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

DELTA = 1e-4
"""δ of the published code: adaptive momentum is at most 1 - δ."""


class Residual(NamedTuple):
    """What the residual path carries from layer to layer, of the shape of the sequence.

    Attributes
    ----------
    v
        Momentum.
    g
        Output of attention of the layer before.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.attention import Residual
    >>> Residual(torch.zeros(2, 3), torch.zeros(2, 3)).v.shape
    torch.Size([2, 3])
    """

    v: Tensor
    g: Tensor


def adaptive_momentum(g: Tensor, before: Residual, delta: float = DELTA) -> Tensor:
    """Return μ_l = clip((1 - √(‖g_l - g_{l-1}‖ / ‖v‖))², 0, 1 - δ) of each position, shape (..., 1).

    Norms are over channels, as in the published code, so that no position sees another; where v = 0, μ is 0.

    Source: Nguyen et al. (2022), after the optimal momentum of a quadratic function, (1 - √(h λ))², with λ estimated
    by the change of the gradient over the change of the iterate.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.attention import Residual, adaptive_momentum
    >>> adaptive_momentum(torch.ones(2, 3), Residual(torch.zeros(2, 3), torch.zeros(2, 3))).ndim
    2
    """
    speed = torch.linalg.vector_norm(before.v, dim=-1, keepdim=True)
    still = speed == 0
    curvature = torch.linalg.vector_norm(g - before.g, dim=-1, keepdim=True) / speed.masked_fill(still, 1)
    # From 1 - δ on the result is constant; the root has no derivative at 0.
    root: Tensor = curvature.clamp(min=torch.finfo(curvature.dtype).tiny).sqrt()
    return ((1 - root) ** 2).clamp(0, 1 - delta).masked_fill(still, 0)


def residual_step(
    x: Tensor, g: Tensor, before: Residual | None, momentum: float | Literal["adaptive"], step_size: float
) -> tuple[Tensor, Residual]:
    """Return x - s v and what goes to the next layer, with v = μ v_before - g; v = 0 before the first.

    μ = 0 and s = 1 are the usual residual, x + g.
    """
    if before is None:
        v = -g
    else:
        mu = adaptive_momentum(g, before) if momentum == "adaptive" else momentum
        v = mu * before.v - g
    return x - step_size * v, Residual(v, g)
