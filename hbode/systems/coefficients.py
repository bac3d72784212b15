"""The coefficients γ and ξ of a system, and its activation σ, as they are given."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor], Tensor]
OfTime = Callable[[Tensor], Tensor]
"""A coefficient as a function of the time, of shape (), or (B, 1, …, 1) for samples; its value broadcasts to h."""

_ACTIVATIONS: dict[str, Activation] = {
    "tanh": torch.tanh,
    "hardtanh": lambda m: F.hardtanh(m, -5.0, 5.0),
}


def as_activation(activation: str | Activation | None) -> Activation | None:
    """Return σ by its name, or as it is."""
    if activation is None or callable(activation):
        return activation
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(_ACTIVATIONS)}, a callable or None, got {activation!r}")
    return _ACTIVATIONS[activation]


def at_time(name: str, coefficient: Tensor | OfTime, t: Tensor | None) -> Tensor:
    """Return a coefficient, at a time if it is a function."""
    if isinstance(coefficient, Tensor):
        return coefficient
    if t is None:
        raise ValueError(f"{name} must be constant here: it is a function of the time, with values at a time alone")
    return coefficient(t)


def as_value(coefficient: float | Tensor, trainable: bool) -> Tensor:
    """Return γ or ξ as a tensor; a fixed number keeps every digit, for states in float64."""
    if isinstance(coefficient, Tensor):
        return coefficient
    if isinstance(coefficient, dict):
        raise TypeError(f"gamma and xi of a system must be numbers or tensors, got {type(coefficient).__name__}")
    return torch.tensor(coefficient, dtype=torch.get_default_dtype() if trainable else torch.float64)


def shortened(value: Tensor) -> str:
    """Return how an error names a coefficient that came."""
    return f"{value.item():g}" if value.numel() == 1 else f"values from {value.min():g} to {value.max():g}"
