"""States of training, by what followed them: where to look for the state that other measurements begin with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StateBank(nn.Module):
    """States of training simulations, and the outputs that were measured from there on.

    Parameters
    ----------
    states
        Shape (K, n), n the numbers of a state.
    outputs
        Shape (K, M, Cy), NaN where missing.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.continuous import StateBank
    >>> bank = StateBank(torch.zeros(10, 4), torch.zeros(10, 2))
    """

    states: Tensor
    outputs: Tensor

    def __init__(self, states: Tensor, outputs: Tensor) -> None:
        super().__init__()
        self.register_buffer("states", states)
        self.register_buffer("outputs", outputs)

    def nearest(self, y: Tensor, count: int) -> Tensor:
        """Return the states that were followed by what is nearest to y (B, M, Cy): (count, B, n)."""
        size = min(y.shape[1], self.outputs.shape[1])
        apart = (self.outputs[None, :, :size] - y[:, None, :size]).square().nanmean((2, 3)).nan_to_num(torch.inf)
        best = apart.topk(min(count, len(self.states)), 1, largest=False).indices
        return self.states[best.T]

    def prior(self) -> tuple[Tensor, Tensor]:
        """Return mean (n,) and the inverse square root (n, n) of the covariance of the states."""
        mean = self.states.mean(0)
        apart = self.states - mean
        covariance = apart.T @ apart / max(len(apart) - 1, 1)
        values, vectors = torch.linalg.eigh(covariance)
        floor = values.max() * 1e-6 + 1e-30
        return mean, (vectors / values.clamp(min=floor).sqrt()).T
