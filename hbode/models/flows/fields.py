"""The network of FFJORD as a field that depends on the time and on a context, and as a force with a damping."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...setup.arguments import check_at_least
from ...systems.coefficients import Activation


class ConcatSquashField(nn.Module):
    """Layers (W x + b) sigmoid(G c + g) + S c with c = (t, context), and an activation between them.

    Source: the layers "concatsquash" of Grathwohl et al., "FFJORD", ICLR 2019.

    Parameters
    ----------
    size, hidden
        Channels D of a point, and units of each of the hidden layers.
    depth
        Layers in all, 4 for the toy densities of the paper.
    context
        Channels C of a context; 0: none.
    activation
        An elementwise function, `torch.tanh` in the paper. `torch.sin` learns fine structure in fewer steps.
    outputs
        Channels of the result; default: D.
    frequency
        Factor of the weights of the first layer at the start: how fine the structure is that is learned first.

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

    def __init__(
        self,
        size: int,
        hidden: int,
        depth: int = 3,
        context: int = 0,
        activation: Activation = torch.tanh,
        outputs: int | None = None,
        frequency: float = 1.0,
    ) -> None:
        super().__init__()
        outputs = size if outputs is None else outputs
        check_at_least(size=size, hidden=hidden, depth=depth, outputs=outputs)
        check_at_least(0, context=context)
        self.activation = activation
        widths = [hidden] * (depth - 1) + [outputs]
        first, *others = map(nn.Linear, [size, *widths[:-1]], widths)
        with torch.no_grad():
            first.weight.mul_(frequency)
        self.layers = nn.ModuleList([first, *others])
        self.gates = nn.ModuleList(nn.Linear(1 + context, width) for width in widths)
        self.shifts = nn.ModuleList(nn.Linear(1 + context, width, bias=False) for width in widths)

    def forward(self, t: Tensor, h: Tensor, *context: Tensor) -> Tensor:
        """Return f(t, h) or f(t, h, context), (N, outputs) for points (N, D) and a context (N, C)."""
        condition = t.to(h.dtype).reshape(-1, 1)
        if context:
            condition = torch.cat((condition.expand(len(h), 1), *context), -1)
        x = h
        for i, (layer, gate, shift) in enumerate(zip(self.layers, self.gates, self.shifts, strict=True)):
            x = layer(x if i == 0 else self.activation(x))
            x = torch.addcmul(shift(condition), x, torch.sigmoid(gate(condition)))
        return x


class LienardField(nn.Module):
    """Force N₁(t, h) - ξ h and damping N₂(t, h) of a `Lienard` system, N a `ConcatSquashField` with 2 D outputs.

    Parameters
    ----------
    size, hidden, depth, context, activation, frequency
        As for `ConcatSquashField`.
    xi
        Restoring coefficient at the start, in 1/time², trained as softplus(χ).

    Raises
    ------
    ValueError
        For sizes below 1 and a ξ that is not positive.

    Examples
    --------
    >>> import torch
    >>> from hbode import Lienard
    >>> from hbode.models.flows import HeavyBallFlow, LienardField
    >>> flow = HeavyBallFlow(Lienard(LienardField(2, 32)), size=2, t=(0.0, 2.0), steps=4)
    """

    def __init__(
        self,
        size: int,
        hidden: int,
        depth: int = 3,
        context: int = 0,
        activation: Activation = torch.sin,
        frequency: float = 1.0,
        xi: float = 0.5,
    ) -> None:
        super().__init__()
        if not xi > 0:
            raise ValueError(f"xi must be positive, got {xi}")
        self.network = ConcatSquashField(size, hidden, depth, context, activation, 2 * size, frequency)
        self.chi = nn.Parameter(torch.tensor(xi + math.log(-math.expm1(-xi))))

    def forward(self, t: Tensor, h: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        """Return force and damping, shape of h (N, D) each, for a context (N, C)."""
        force, damping = self.network(t, h, *context).chunk(2, -1)
        return force - F.softplus(self.chi) * h, damping
