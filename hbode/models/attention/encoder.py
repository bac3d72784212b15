"""Transformer encoders of linear attention with momentum, in the habits of `torch.nn.TransformerEncoder`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...setup.arguments import check_at_least
from .features import elu_features
from .functional import FeatureMap, Weighting
from .multihead import MomentumAttention
from .residual import Residual, residual_step
from .state import AttentionState

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class MomentumTransformerEncoderLayer(nn.Module):
    """`torch.nn.TransformerEncoderLayer` with linear attention and momentum, in attention and on the residual path.

    It works in `torch.nn.TransformerEncoder`, and the `state_dict` of a layer there loads, unless μ and γ are trained.
    The momentum of the residual path passes from layer to layer in a `MomentumTransformerEncoder` alone; elsewhere
    every layer starts with none.

    Parameters
    ----------
    d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device, dtype
        As there; dropout does not act on the weights of attention.
    momentum, step_size, trainable, feature_map, weighting
        As for `MomentumAttention`.
    residual_momentum, residual_step_size
        μ in [0, 1) and s of v = μ v - g, x = x - s v, with the output g of attention; "adaptive": `adaptive_momentum`.
        The default is the usual residual.

    Raises
    ------
    ValueError
        As `MomentumAttention`, for an activation that is not there, and for coefficients out of range.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.attention import MomentumTransformerEncoderLayer
    >>> layer = MomentumTransformerEncoderLayer(32, 4, dim_feedforward=64, momentum=0.9, batch_first=True)
    >>> encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    >>> encoder(torch.randn(8, 100, 32), is_causal=True).shape
    torch.Size([8, 100, 32])
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        momentum: float | Sequence[float] = 0.1,
        step_size: float | Sequence[float] = 0.6,
        trainable: bool = False,
        feature_map: FeatureMap = elu_features,
        weighting: Weighting = "exact",
        residual_momentum: float | Literal["adaptive"] = 0.0,
        residual_step_size: float = 1.0,
    ) -> None:
        super().__init__()
        check_at_least(dim_feedforward=dim_feedforward)
        if isinstance(activation, str) and activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)} or a callable, got {activation!r}")
        if residual_momentum != "adaptive" and (isinstance(residual_momentum, str) or not 0 <= residual_momentum < 1):
            raise ValueError(f"residual_momentum must be in [0, 1) or 'adaptive', got {residual_momentum!r}")
        if not math.isfinite(residual_step_size):
            raise ValueError(f"residual_step_size must be finite, got {residual_step_size}")
        self.self_attn = MomentumAttention(
            d_model,
            nhead,
            bias=bias,
            batch_first=batch_first,
            momentum=momentum,
            step_size=step_size,
            trainable=trainable,
            feature_map=feature_map,
            weighting=weighting,
            device=device,
            dtype=dtype,
        )
        self.linear1 = nn.Linear(d_model, dim_feedforward, bias=bias, device=device, dtype=dtype)
        self.linear2 = nn.Linear(dim_feedforward, d_model, bias=bias, device=device, dtype=dtype)
        self.norm1 = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)
        self.norm2 = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)
        self.dropout, self.dropout1, self.dropout2 = (nn.Dropout(dropout) for _ in range(3))
        self.activation = ACTIVATIONS[activation] if isinstance(activation, str) else activation
        self.norm_first = norm_first
        self.residual_momentum, self.residual_step_size = residual_momentum, residual_step_size

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Return the layer's output, of the shape of `src`; arguments as for `torch.nn.TransformerEncoderLayer`.

        `src_mask` is None or the causal mask, which `is_causal` stands for as well.
        """
        return self.carry(src, None, src_mask, src_key_padding_mask, is_causal)[0]

    def carry(
        self,
        src: Tensor,
        residual: Residual | None,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> tuple[Tensor, Residual]:
        """Return the output and what the residual path carries on, with what it carried here."""
        x = self.norm1(src) if self.norm_first else src
        g = self.self_attn(x, x, x, key_padding_mask=src_key_padding_mask, attn_mask=src_mask, is_causal=is_causal)[0]
        return self._after(src, g, residual)

    def stream(
        self, src: Tensor, residual: Residual | None, state: AttentionState | None = None
    ) -> tuple[Tensor, Residual, AttentionState]:
        """Return what `carry` does at the next positions of a sequence, and the state after them."""
        g, state = self.self_attn.stream(self.norm1(src) if self.norm_first else src, state)
        return *self._after(src, g, residual), state

    def _after(self, src: Tensor, g: Tensor, residual: Residual | None) -> tuple[Tensor, Residual]:
        x, residual = residual_step(src, self.dropout1(g), residual, self.residual_momentum, self.residual_step_size)
        x = x if self.norm_first else self.norm1(x)
        hidden = self.activation(self.linear1(self.norm2(x) if self.norm_first else x))
        x = x + self.dropout2(self.linear2(self.dropout(hidden)))
        return x if self.norm_first else self.norm2(x), residual


class MomentumTransformerEncoder(nn.TransformerEncoder):
    """`torch.nn.TransformerEncoder` whose residual path carries its momentum from layer to layer.

    Parameters
    ----------
    encoder_layer
        A `MomentumTransformerEncoderLayer`, of which copies are made.
    num_layers, norm
        As there.

    Raises
    ------
    TypeError
        If the layer is another.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.attention import MomentumTransformerEncoder, MomentumTransformerEncoderLayer
    >>> layer = MomentumTransformerEncoderLayer(32, 4, 64, batch_first=True, residual_momentum="adaptive")
    >>> encoder = MomentumTransformerEncoder(layer, 3).eval()
    >>> x = torch.randn(8, 100, 32)
    >>> out, states = encoder.stream(x[:, :99])
    >>> last, states = encoder.stream(x[:, 99:], states)
    >>> torch.allclose(last, encoder(x, is_causal=True)[:, 99:], atol=1e-5)
    True
    """

    def __init__(
        self, encoder_layer: MomentumTransformerEncoderLayer, num_layers: int, norm: nn.Module | None = None
    ) -> None:
        if not isinstance(encoder_layer, MomentumTransformerEncoderLayer):
            found = type(encoder_layer).__name__
            raise TypeError(f"encoder_layer must be a MomentumTransformerEncoderLayer, got {found}")
        check_at_least(num_layers=num_layers)
        super().__init__(encoder_layer, num_layers, norm, enable_nested_tensor=False)  # type: ignore[arg-type]

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """Return the encoder's output, of the shape of `src`; arguments as for `torch.nn.TransformerEncoder`."""
        residual = None
        for layer in self.layers:
            src, residual = layer.carry(src, residual, mask, src_key_padding_mask, bool(is_causal))
        return src if self.norm is None else self.norm(src)

    def stream(
        self, src: Tensor, states: Sequence[AttentionState] | None = None
    ) -> tuple[Tensor, list[AttentionState]]:
        """Return the output at the next positions of a sequence, one or many, and the states of all layers after them.

        Parameters
        ----------
        src
            (L, B, E), or (B, L, E) if `batch_first`.
        states
            What was returned for the positions before; None at the start.
        """
        residual = None
        after = []
        before: Sequence[AttentionState | None] = [None] * self.num_layers if states is None else states
        if len(before) != self.num_layers:
            raise ValueError(f"states must be those of {self.num_layers} layers, got {len(before)}")
        for layer, state in zip(self.layers, before, strict=True):
            src, residual, state = layer.stream(src, residual, state)
            after.append(state)
        return src if self.norm is None else self.norm(src), after
