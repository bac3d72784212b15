"""Parts that the fields are made of: dense networks, positive numbers, positive definite matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL = 0.1
"""What the last layer of a network that corrects something else is multiplied by at the start."""


def dense_network(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    """Return dense layers of these sizes with activations between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


def correction(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    """Return a dense network whose values are small at the start."""
    network = dense_network(sizes, activation)
    with torch.no_grad():
        for parameter in network[-1].parameters():
            parameter.mul_(SMALL)
    return network


def concatenated(parts: Sequence[Tensor], widths: Sequence[int]) -> Tensor:
    """Return h, m and u, which broadcast but for their last axes, side by side on these.

    Raises
    ------
    ValueError
        Unless there are as many as `widths`, each of that many channels.
    """
    got = [part.shape[-1] for part in parts]
    if got != list(widths):
        raise ValueError(f"the state and the input of this field must have {list(widths)} channels, got {got}")
    lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*lead, part.shape[-1]) for part in parts], -1)


def before_softplus(value: Tensor) -> Tensor:
    """Return the x of which a positive value is softplus(x)."""
    return value + torch.log(-torch.expm1(-value))


def lower_triangular(raw: Tensor) -> Tensor:
    """Return L with a positive diagonal, so that L Lᵀ is positive definite, from any matrices (..., D, D)."""
    return raw.tril(-1) + torch.diag_embed(F.softplus(raw.diagonal(dim1=-2, dim2=-1)))


def scaled_identity(size: int, scale: float) -> Tensor:
    """Return the matrix that `lower_triangular` makes `scale` times the identity of."""
    return torch.diag_embed(before_softplus(torch.full((size,), scale)))
