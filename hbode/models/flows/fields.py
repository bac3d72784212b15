"""The network of FFJORD as a vector field that depends on the time, and on a context."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..continuous.networks import check_sizes


class ConcatSquashField(nn.Module):
    """Layers (W x + b) sigmoid(G c + g) + S c with c = (t, context), and tanh between them.

    Source: the layers "concatsquash" of Grathwohl et al., "FFJORD", ICLR 2019.

    Parameters
    ----------
    size, hidden
        Channels D of a point, and units of each of the hidden layers.
    depth
        Layers in all, 4 for the toy densities of the paper.
    context
        Channels C of a context; 0: none.

    Raises
    ------
    ValueError
        For sizes below 1.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.flows import ConcatSquashField
    >>> ConcatSquashField(2, 8)(torch.tensor(0.0), torch.ones(5, 2)).shape
    torch.Size([5, 2])
    """

    def __init__(self, size: int, hidden: int, depth: int = 3, context: int = 0) -> None:
        super().__init__()
        check_sizes(size=size, hidden=hidden, depth=depth)
        check_sizes(0, context=context)
        outputs = [hidden] * (depth - 1) + [size]
        self.layers = nn.ModuleList(map(nn.Linear, [size, *outputs[:-1]], outputs))
        self.gates = nn.ModuleList(nn.Linear(1 + context, width) for width in outputs)
        self.shifts = nn.ModuleList(nn.Linear(1 + context, width, bias=False) for width in outputs)

    def forward(self, t: Tensor, h: Tensor, *context: Tensor) -> Tensor:
        """Return f(t, h) or f(t, h, context), shape of h (N, D), for a context (N, C)."""
        condition = t.to(h.dtype).reshape(-1, 1)
        if context:
            condition = torch.cat((condition.expand(len(h), 1), *context), -1)
        x = h
        for i, (layer, gate, shift) in enumerate(zip(self.layers, self.gates, self.shifts, strict=True)):
            x = torch.addcmul(shift(condition), layer(x if i == 0 else torch.tanh(x)), torch.sigmoid(gate(condition)))
        return x
