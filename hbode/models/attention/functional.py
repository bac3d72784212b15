"""Linear attention with momentum as functions: three forms of one mathematics, and reading without an order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypedDict, get_args

import torch
from torch import Tensor

from .chunks import causal_attention
from .features import elu_features
from .state import AttentionState, divided
from .weights import geometric_sums

Form = Literal["chunked", "recurrent", "quadratic"]
Weighting = Literal["exact", "published"]
FeatureMap = Callable[[Tensor], Tensor]


class AttentionOptions(TypedDict):
    """Keyword arguments that attention and its weights share."""

    causal: bool
    key_padding_mask: Tensor | None
    feature_map: FeatureMap
    weighting: Weighting


def momentum_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    momentum: float | Tensor = 0.0,
    step_size: float | Tensor = 1.0,
    *,
    causal: bool = True,
    key_padding_mask: Tensor | None = None,
    feature_map: FeatureMap = elu_features,
    form: Form = "chunked",
    weighting: Weighting = "exact",
) -> Tensor:
    """Return linear attention with momentum: φ(q_i)ᵀ S_i / (φ(q_i)ᵀ z_i), zero where the normaliser is.

    P_i = μ P_{i-1} + γ φ(k_i) v_iᵀ, S_i = S_{i-1} + P_i, z_i = z_{i-1} + φ(k_i): the weight of position j at i is
    γ (1 - μ^{i-j+1}) / (1 - μ) times φ(q_i)ᵀ φ(k_j) / (φ(q_i)ᵀ z_i). μ = 0 is plain linear attention, times γ.

    Parameters
    ----------
    query, key, value
        Shapes (B, H, L, D), (B, H, N, D) and (B, H, N, M), of one dtype; N = L where attention is causal. float16 and
        bfloat16 are computed in float32.
    momentum
        μ in [0, 1]: a number, or a tensor of shape () or (H,), whose values are not looked at. At μ = 1 the weights are
        γ (i - j + 1).
    step_size
        γ: a number, or a tensor of shape () or (H,).
    causal
        Whether position i is seen by those from i on alone. Without, all queries read the state after the last key that
        is not masked, which is what the paper does: momentum then weights keys by their distance from the end.
    key_padding_mask
        Shape (B, N): True, or -∞ in a mask to be added, for keys that are not to be read. Momentum goes on over them,
        up to the last of the others.
    feature_map
        φ, which maps the last axis.
    form
        "chunked": O(L) operations and memory, with a backward of its own, of first derivatives. "recurrent": position
        by position. "quadratic": all weights at once, O(L²). The results are the same up to rounding.
    weighting
        "published": what the published code does where it is causal, γ (1 - μ^{N-j+1}) / (1 - μ) at all positions,
        which is right at the last alone.

    Returns
    -------
    Shape (B, H, L, M).

    Raises
    ------
    ValueError
        If shapes do not fit, μ is not in [0, 1], γ is not finite, or there is no such form or weighting.

    References
    ----------
    Katharopoulos et al., "Transformers are RNNs", ICML 2020; Nguyen, Baraniuk, Kirby, Osher, Wang, "Momentum
    transformer: closing the performance gap between self-attention and its linearization", MSML 2022.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.attention import momentum_attention
    >>> q, k, v = torch.randn(3, 2, 4, 100, 16).unbind()
    >>> momentum_attention(q, k, v, momentum=0.9).shape
    torch.Size([2, 4, 100, 16])
    """
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {', '.join(get_args(Form))}, got {form!r}")
    if form == "quadratic":
        options: AttentionOptions = {
            "causal": causal,
            "key_padding_mask": key_padding_mask,
            "feature_map": feature_map,
            "weighting": weighting,
        }
        weights = attention_weights(query, key, momentum, step_size, **options)
        _check_value(key, value)
        with torch.autocast(query.device.type, enabled=False):
            return (weights @ value.to(weights.dtype)).to(value.dtype)
    mu, gamma, padding = _checked(query, key, momentum, step_size, causal, key_padding_mask, weighting)
    _check_value(key, value)
    with torch.autocast(query.device.type, enabled=False):
        q, k = _features(query, key, feature_map, padding)
        v = value.to(q.dtype) if gamma is None else value.to(q.dtype) * gamma
        if mu is not None and not (causal and weighting == "exact"):
            v, mu = v * _key_weights(mu, k.shape[2], padding, weighting).unsqueeze(-1).to(v.dtype), None
        state = AttentionState.empty(k, v, mu)
        out = _causal(q, k, v, mu, state, form)[0] if causal else state.after(k, v, mu).read(q)
        return out.to(value.dtype)


def continue_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    momentum: float | Tensor = 0.0,
    step_size: float | Tensor = 1.0,
    state: AttentionState | None = None,
    *,
    key_padding_mask: Tensor | None = None,
    feature_map: FeatureMap = elu_features,
) -> tuple[Tensor, AttentionState]:
    """Return causal attention at the next positions, one or many, and the state after them.

    A sequence in parts equals one in a piece; arguments and errors are those of `momentum_attention`. What is masked
    still is a step of the momentum.

    Parameters
    ----------
    state
        What was returned for the positions before; None: there are none.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.attention import continue_attention
    >>> q, k, v = torch.randn(3, 2, 4, 100, 16).unbind()
    >>> out, state = continue_attention(q, k, v, momentum=0.9)
    >>> out, state = continue_attention(q[:, :, :1], k[:, :, :1], v[:, :, :1], momentum=0.9, state=state)
    >>> out.shape
    torch.Size([2, 4, 1, 16])
    """
    mu, gamma, padding = _checked(query, key, momentum, step_size, True, key_padding_mask, "exact")
    _check_value(key, value)
    with torch.autocast(query.device.type, enabled=False):
        q, k = _features(query, key, feature_map, padding)
        v = value.to(q.dtype) if gamma is None else value.to(q.dtype) * gamma
        before = AttentionState.empty(k, v, mu) if state is None else state
        expected = (*k.shape[:2], k.shape[-1], v.shape[-1])
        if before.S.shape != expected or (before.P is None) != (mu is None):
            has = "no P" if mu is None else "P"
            raise ValueError(f"state must have S of shape {expected} and {has} here, got {tuple(before.S.shape)}")
        out, after = _causal(q, k, v, mu, before, "recurrent" if q.shape[2] == 1 else "chunked")
        return out.to(value.dtype), before.after(k, v, mu) if after is None else after


def attention_weights(
    query: Tensor,
    key: Tensor,
    momentum: float | Tensor = 0.0,
    step_size: float | Tensor = 1.0,
    *,
    causal: bool = True,
    key_padding_mask: Tensor | None = None,
    feature_map: FeatureMap = elu_features,
    weighting: Weighting = "exact",
) -> Tensor:
    """Return the weights of all values at all positions, (B, H, L, N): what `momentum_attention` never makes.

    With momentum their sum at a position is not one: the normaliser has none. Arguments and errors are those of
    `momentum_attention`.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.attention import attention_weights
    >>> q = torch.randn(1, 2, 5, 4)
    >>> attention_weights(q, q).shape
    torch.Size([1, 2, 5, 5])
    """
    mu, gamma, padding = _checked(query, key, momentum, step_size, causal, key_padding_mask, weighting)
    with torch.autocast(query.device.type, enabled=False):
        q, k = _features(query, key, feature_map, padding)
        products = q @ k.mT
        products = products.tril() if causal else products
        weights = divided(products, products.sum(-1, keepdim=True))
        if mu is not None and causal and weighting == "exact":
            lag = torch.arange(k.shape[2], device=k.device)
            lag = (lag.unsqueeze(1) - lag + 1).clamp(min=0)
            weights = weights * geometric_sums(mu, k.shape[2])[:, lag].to(weights.dtype)
        elif mu is not None:
            weights = weights * _key_weights(mu, k.shape[2], padding, weighting).unsqueeze(2).to(weights.dtype)
        return weights if gamma is None else weights * gamma


def _causal(
    q: Tensor, k: Tensor, v: Tensor, momentum: Tensor | None, state: AttentionState, form: Form
) -> tuple[Tensor, AttentionState | None]:
    """Return attention at positions after a state, and the state after them where the form makes it anyway."""
    if form == "chunked":
        return causal_attention(q, k, v, momentum, *state), None
    found = []
    for t in range(q.shape[2]):
        state = state.after(k[:, :, t : t + 1], v[:, :, t : t + 1], momentum)
        found.append(state.read(q[:, :, t : t + 1]))
    return torch.cat(found, 2), state


def _features(query: Tensor, key: Tensor, feature_map: FeatureMap, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    narrow = query.dtype in (torch.float16, torch.bfloat16)
    q, k = (feature_map(x.float() if narrow else x) for x in (query, key))
    return q, k if padding is None else k.masked_fill(padding[:, None, :, None], 0)


def _key_weights(momentum: Tensor, length: int, padding: Tensor | None, weighting: Weighting) -> Tensor:
    """Return the weights of keys in the state after the last of them, (1 or B, 1 or H, N)."""
    sums = geometric_sums(momentum, length)
    if padding is None or weighting == "published":
        return sums[:, 1:].flip(-1).unsqueeze(0)
    number = torch.arange(1, length + 1, device=padding.device)
    lag = number.masked_fill(padding, 0).amax(-1, keepdim=True) - number + 1
    return sums[:, lag.clamp(min=0)].transpose(0, 1)


def _checked(
    query: Tensor,
    key: Tensor,
    momentum: float | Tensor,
    step_size: float | Tensor,
    causal: bool,
    key_padding_mask: Tensor | None,
    weighting: Weighting,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return μ, (1,) or (H,) in float64, None for 0; γ, against values, None for 1; and True for masked keys."""
    if query.ndim != 4 or not query.shape[2]:
        raise ValueError(f"query must have shape (B, H, L, D) with L > 0, got {tuple(query.shape)}")
    batch, heads, length, size = query.shape
    if key.ndim != 4 or key.shape[:2] != query.shape[:2] or key.shape[3] != size or not key.shape[2]:
        raise ValueError(f"key must have shape ({batch}, {heads}, N, {size}) with N > 0, got {tuple(key.shape)}")
    if causal and key.shape[2] != length:
        raise ValueError(f"key must have as many positions as query, {length}, if causal, got {key.shape[2]}")
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting must be one of {', '.join(get_args(Weighting))}, got {weighting!r}")
    for name, coefficient in (("momentum", momentum), ("step_size", step_size)):
        if isinstance(coefficient, Tensor) and coefficient.shape not in ((), (1,), (heads,)):
            raise ValueError(f"{name} must have shape () or ({heads},), got {tuple(coefficient.shape)}")
    if not isinstance(momentum, Tensor) and not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be in [0, 1], got {momentum}")
    if not isinstance(step_size, Tensor) and not math.isfinite(step_size):
        raise ValueError(f"step_size must be finite, got {step_size}")
    padding = None if key_padding_mask is None else as_padding(key_padding_mask, (batch, key.shape[2]))
    mu = gamma = None
    if isinstance(momentum, Tensor) or momentum:
        mu = torch.as_tensor(momentum, dtype=torch.float64, device=query.device).reshape(-1)
    if isinstance(step_size, Tensor) or step_size != 1:
        wide = torch.promote_types(query.dtype, torch.float32)
        gamma = torch.as_tensor(step_size, dtype=wide, device=query.device).reshape(-1, 1, 1)
    return mu, gamma, padding


def _check_value(key: Tensor, value: Tensor) -> None:
    if value.ndim != 4 or value.shape[:3] != key.shape[:3]:
        expected = "({}, {}, {}, M)".format(*key.shape[:3])
        raise ValueError(f"value must have shape {expected}, got {tuple(value.shape)}")


def as_padding(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a mask of keys as True for those that are not to be read."""
    if mask.shape != shape:
        raise ValueError(f"key_padding_mask must have shape {shape}, got {tuple(mask.shape)}")
    if mask.dtype == torch.bool:
        return mask
    if not mask.is_floating_point():
        raise TypeError(f"key_padding_mask must be boolean, or floating and 0 or -inf, got {mask.dtype}")
    return mask.isneginf()
