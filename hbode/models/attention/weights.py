"""The weights of momentum: sums of powers of μ, without cancellation for μ near 1."""

from __future__ import annotations

import torch
from torch import Tensor


def powers(momentum: Tensor, count: int) -> Tensor:
    """Return 1, μ, …, μ^count on a new last axis; 0⁰ is 1."""
    return momentum.unsqueeze(-1) ** torch.arange(count + 1, device=momentum.device)


def geometric_sums(momentum: Tensor, count: int) -> Tensor:
    """Return g_k = 1 + μ + … + μ^(k-1) for k = 0 … count on a new last axis.

    (1 - μ^k) / (1 - μ) is the same, but loses its digits as μ comes near 1, where the sum is k.
    """
    terms = powers(momentum, count)[..., :count]
    return torch.cat((torch.zeros_like(terms[..., :1]), terms.cumsum(-1)), -1)
