"""What attention keeps of the positions it has read, and how it is read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .weights import geometric_sums, powers


class AttentionState(NamedTuple):
    """What attention keeps of all positions before: as many numbers for two as for two million.

    Attributes
    ----------
    S
        Σ w k vᵀ, (B, H, D, M), of features of keys k and values v.
    P
        Its last change, (B, H, D, M), -P of the paper; None where there is no momentum.
    z
        Σ k, (B, H, D).

    Examples
    --------
    >>> import torch
    >>> from hbode.models.attention import AttentionState
    >>> AttentionState(torch.zeros(1, 2, 4, 4), None, torch.zeros(1, 2, 4)).P is None
    True
    """

    S: Tensor
    P: Tensor | None
    z: Tensor

    @classmethod
    def empty(cls, k: Tensor, v: Tensor, momentum: Tensor | None) -> AttentionState:
        """Return that before the first position, for keys (B, H, L, D) and values (B, H, L, M)."""
        S = v.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])
        return cls(S, None if momentum is None else torch.zeros_like(S), k.new_zeros(*k.shape[:2], k.shape[-1]))

    def after(self, k: Tensor, v: Tensor, momentum: Tensor | None) -> AttentionState:
        """Return that after L more positions, of momentum μ, (1,) or (H,).

        One by one: P ← μ P + k vᵀ, S ← S + P, z ← z + k.
        """
        z = self.z + k.sum(2)
        if momentum is None or self.P is None:
            return AttentionState(self.S + k.mT @ v, None, z)
        length = k.shape[2]
        power, sums = (f(momentum, length).unsqueeze(-1) for f in (powers, geometric_sums))
        passed, kept = (x.unsqueeze(-1).to(v.dtype) for x in (sums[:, -1] * momentum.unsqueeze(-1), power[:, -1]))
        of_S, of_P = (v * x.flip(1).to(v.dtype) for x in (sums[:, 1:], power[:, :-1]))
        return AttentionState(self.S + passed * self.P + k.mT @ of_S, kept * self.P + k.mT @ of_P, z)

    def read(self, q: Tensor) -> Tensor:
        """Return qᵀ S / (qᵀ z), (B, H, L, M), of features of queries (B, H, L, D); zero where qᵀ z is."""
        return divided(q @ self.S, q @ self.z.unsqueeze(-1))


def divided(total: Tensor, mass: Tensor) -> Tensor:
    """Return total / mass, zero where the mass is."""
    none = mass == 0
    return (total / mass.masked_fill(none, 1)).masked_fill(none, 0)
