"""Linear attention with momentum as a module, in the habits of `torch.nn.MultiheadAttention`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...setup.arguments import check_at_least
from .features import elu_features
from .functional import (
    AttentionOptions,
    FeatureMap,
    Weighting,
    attention_weights,
    continue_attention,
    momentum_attention,
)
from .state import AttentionState


class MomentumAttention(nn.Module):
    """Linear attention with momentum in several heads, called and named as `torch.nn.MultiheadAttention` is.

    Its `state_dict` loads, unless μ and γ are trained. There is no dropout of weights, and no mask but the causal one
    and that of keys: there is no matrix of weights to apply them to.

    Parameters
    ----------
    embed_dim, num_heads
        Channels E, and heads H of E / H channels each.
    bias, batch_first, device, dtype
        As there.
    momentum, step_size
        μ in [0, 1] and γ, a number for all heads or one for each. μ = 0 is plain linear attention. The default is what
        was published for the copy task.
    trainable
        Whether μ = sigmoid(`momentum_logit`), which is between 0 and 1 then, and γ = `step_size` are trained.
    feature_map, weighting
        As for `momentum_attention`.

    Attributes
    ----------
    momentum, step_size
        μ and γ: a number, or a tensor (H,), or (1,) where one is trained for all heads.

    Raises
    ------
    ValueError
        For sizes below 1 or that do not fit, coefficients out of range or of another number than one or H; when
        called, for shapes that do not fit and for a mask that is not causal.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.attention import MomentumAttention
    >>> attention = MomentumAttention(32, 4, momentum=0.9, step_size=0.1, batch_first=True)
    >>> x = torch.randn(8, 100, 32)
    >>> attention(x, x, x, is_causal=True)[0].shape
    torch.Size([8, 100, 32])
    >>> out, state = attention.stream(x)
    >>> attention.stream(x[:, :1], state)[0].shape
    torch.Size([8, 1, 32])
    """

    step_size: float | Tensor

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        bias: bool = True,
        batch_first: bool = False,
        momentum: float | Sequence[float] = 0.1,
        step_size: float | Sequence[float] = 0.6,
        trainable: bool = False,
        feature_map: FeatureMap = elu_features,
        weighting: Weighting = "exact",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_at_least(embed_dim=embed_dim, num_heads=num_heads)
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim must be a multiple of num_heads={num_heads}, got {embed_dim}")
        mu, gamma = _of_heads("momentum", momentum, num_heads), _of_heads("step_size", step_size, num_heads)
        if not bool(((mu >= 0) & (mu <= 1)).all()):
            raise ValueError(f"momentum must be in [0, 1], got {momentum}")
        if trainable and not bool(((mu > 0) & (mu < 1)).all()):
            raise ValueError(f"momentum must be between 0 and 1 to be trained as a sigmoid, got {momentum}")
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.batch_first, self.trainable = batch_first, trainable
        self.feature_map, self.weighting = feature_map, weighting
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim, device=device, dtype=dtype))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim, device=device, dtype=dtype)) if bias else None
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        nn.init.xavier_uniform_(self.in_proj_weight)
        if bias:
            nn.init.zeros_(self.out_proj.bias)
        if trainable:
            self.momentum_logit = nn.Parameter(mu.logit().to(self.in_proj_weight))
            self.step_size = nn.Parameter(gamma.to(self.in_proj_weight))
        else:
            # Numbers, not buffers: they keep their digits, and a state_dict is that of softmax attention.
            self._momentum, self.step_size = (float(x) if len(x) == 1 else x for x in (mu, gamma))

    @property
    def momentum(self) -> float | Tensor:
        return self.momentum_logit.sigmoid() if self.trainable else self._momentum

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return attention (L, B, E), and its weights or None.

        Parameters
        ----------
        query, key, value
            (L, B, E), and twice (N, B, E); (B, L, E) and (B, N, E) if `batch_first`; or all without the batch.
        key_padding_mask
            (B, N) or (N,): True, or -∞, for keys that are not to be read.
        need_weights, average_attn_weights
            Whether to return weights, by default not: (B, L, N), of O(L N) operations; (B, H, L, N) if not averaged.
        attn_mask
            None, or the causal mask (L, L): True, or -∞, above the diagonal.
        is_causal
            Whether attention is causal, with a mask or without; a mask is not looked at then.
        """
        batched = query.ndim == 3
        for name, x in (("query", query), ("key", key), ("value", value)):
            if x.ndim not in (2, 3) or (x.ndim == 3) != batched or x.shape[-1] != self.embed_dim:
                axes = (
                    f"(B, L, {self.embed_dim})" if self.batch_first else f"(L, B, {self.embed_dim})"
                ) + " or without B"
                raise ValueError(f"{name} must have shape {axes}, as query has, got {tuple(x.shape)}")
        if attn_mask is not None and not is_causal:
            check_causal(attn_mask, query.shape[-2 if self.batch_first or not batched else 0])
            is_causal = True
        if key_padding_mask is not None and not batched:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        q, k, v = self._heads(query, key, value)
        options: AttentionOptions = {
            "causal": is_causal,
            "key_padding_mask": key_padding_mask,
            "feature_map": self.feature_map,
            "weighting": self.weighting,
        }
        out = self._joined(momentum_attention(q, k, v, self.momentum, self.step_size, **options), batched)
        if not need_weights:
            return out, None
        weights = attention_weights(q, k, self.momentum, self.step_size, **options)
        weights = weights.mean(1) if average_attn_weights else weights
        return out, weights if batched else weights.squeeze(0)

    def stream(self, x: Tensor, state: AttentionState | None = None) -> tuple[Tensor, AttentionState]:
        """Return causal attention of the next positions of a sequence to all so far, and the state after them.

        Parameters
        ----------
        x
            One position or many, (L, B, E), or (B, L, E) if `batch_first`, or (L, E).
        state
            What was returned for the positions before; None at the start.
        """
        if self.weighting != "exact":
            raise ValueError(f"weighting must be 'exact' to stream, got {self.weighting!r}: it knows no end")
        q, k, v = self._heads(x, x, x)
        out, state = continue_attention(q, k, v, self.momentum, self.step_size, state, feature_map=self.feature_map)
        return self._joined(out, x.ndim == 3), state

    def _heads(self, *inputs: Tensor) -> list[Tensor]:
        """Return queries, keys and values, (B, H, L, E / H): views of projections."""
        bias = self.in_proj_bias
        if all(x is inputs[0] for x in inputs):
            projected = F.linear(inputs[0], self.in_proj_weight, bias).chunk(3, -1)
        else:
            parts = zip(
                inputs, self.in_proj_weight.chunk(3), [None] * 3 if bias is None else bias.chunk(3), strict=True
            )
            projected = tuple(F.linear(x, weight, b) for x, weight, b in parts)
        axis = 0 if self.batch_first else 1
        split = ((x if x.ndim == 3 else x.unsqueeze(axis)).unflatten(-1, (self.num_heads, -1)) for x in projected)
        return [x.movedim((axis, 2, 1 - axis), (0, 1, 2)) for x in split]

    def _joined(self, x: Tensor, batched: bool) -> Tensor:
        """Return the output of heads (B, H, L, E / H)."""
        axis = 0 if self.batch_first else 1
        x = x.movedim((0, 1, 2), (axis, 2, 1 - axis)).flatten(-2)
        return torch.as_tensor(self.out_proj(x if batched else x.squeeze(axis)))

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}, batch_first={self.batch_first}, trainable={self.trainable}"


def check_causal(mask: Tensor, length: int) -> None:
    """Raise `ValueError` unless a mask is the causal one."""
    if mask.shape == (length, length):
        above = torch.ones(length, length, dtype=torch.bool, device=mask.device).triu(1)
        if torch.equal(mask, above if mask.dtype == torch.bool else above.to(mask.dtype).masked_fill(above, -math.inf)):
            return
    raise ValueError(
        f"attn_mask must be None or the causal mask of shape ({length}, {length}), got another of shape "
        f"{tuple(mask.shape)}: linear attention has no matrix of weights to mask"
    )


def _of_heads(name: str, given: float | Sequence[float], heads: int) -> Tensor:
    """Return one number, (1,), or one for each head, (H,), in float64."""
    numbers = torch.as_tensor(given, dtype=torch.float64).detach().cpu().reshape(-1)
    if len(numbers) not in (1, heads) or not bool(numbers.isfinite().all()):
        raise ValueError(f"{name} must be one finite number, or one for each of {heads} heads, got {given}")
    return numbers
