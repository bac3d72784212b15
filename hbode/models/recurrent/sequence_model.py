"""Heavy-ball layers in a stack: norm, layer, gated non-linearity, residual."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, glu

from ...setup.arguments import check_at_least
from .heavy_ball import HeavyBallLayer, State


class HeavyBallBlock(nn.Module):
    """x ↦ x + dropout(GLU(W dropout(GELU(layer(norm(x)))))).

    Parameters
    ----------
    size, state_size
        Channels of x, and oscillators.
    dropout
        Probability of each of the two.
    layer
        Keywords of `HeavyBallLayer`.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import HeavyBallBlock
    >>> block = HeavyBallBlock(4, 8)
    """

    def __init__(self, size: int, state_size: int, dropout: float = 0.0, **layer: object) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.layer = HeavyBallLayer(size, state_size, **layer)  # type: ignore[arg-type]
        self.mix = nn.Linear(size, 2 * size)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, state: State | None = None, *, dt: float | Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Return the block's output, of the shape of x (B, T, size), and the state of its layer."""
        y, state = self.layer(self.norm(x), state, dt=dt)
        y = self.mix(self.dropout(gelu(y)))
        return x + self.dropout(glu(y)), state


class HeavyBallSequenceModel(nn.Module):
    """A linear map, blocks of heavy-ball layers, and a linear read-out: of every sample, of their mean, or of the last.

    Parameters
    ----------
    input_size, output_size
        Channels in and out.
    size, state_size
        Channels and oscillators of a block.
    num_layers
        Blocks.
    pooling
        "none": an output a sample, (B, T, output_size). "mean" over samples, or "last": (B, output_size).
    dropout, layer
        Of `HeavyBallBlock`.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.recurrent import HeavyBallSequenceModel
    >>> model = HeavyBallSequenceModel(input_size=1, output_size=10, size=32, state_size=32, pooling="mean")
    >>> model(torch.randn(4, 784, 1)).shape
    torch.Size([4, 10])
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        size: int = 64,
        state_size: int = 64,
        num_layers: int = 2,
        *,
        pooling: str = "none",
        dropout: float = 0.0,
        **layer: object,
    ) -> None:
        super().__init__()
        check_at_least(input_size=input_size, output_size=output_size, size=size, num_layers=num_layers)
        if pooling not in ("none", "mean", "last"):
            raise ValueError(f"pooling must be 'none', 'mean' or 'last', got {pooling!r}")
        self.pooling = pooling
        self.encode = nn.Linear(input_size, size)
        self.blocks = nn.ModuleList([HeavyBallBlock(size, state_size, dropout, **layer) for _ in range(num_layers)])
        self.decode = nn.Linear(size, output_size)

    def forward(self, u: Tensor, *, dt: float | Tensor | None = None) -> Tensor:
        """Return outputs of sequences u (B, T, input_size); `dt` as for `HeavyBallLayer`."""
        return self.stream(u, dt=dt)[0]

    def stream(
        self, u: Tensor, states: list[State] | None = None, *, dt: float | Tensor | None = None
    ) -> tuple[Tensor, list[State]]:
        """Return outputs and the states of all layers, to go on from with the samples that follow.

        "mean" is over the samples of this call.
        """
        if states is not None and len(states) != len(self.blocks):
            raise ValueError(f"states must be {len(self.blocks)}, one a block, got {len(states)}")
        x = self.encode(u)
        reached = []
        for i, block in enumerate(self.blocks):
            x, state = block(x, None if states is None else states[i], dt=dt)
            reached.append(state)
        if self.pooling != "none":
            x = x.mean(-2) if self.pooling == "mean" else x[..., -1, :]
        return torch.as_tensor(self.decode(x)), reached
