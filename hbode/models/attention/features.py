"""The feature map of linear attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def elu_features(x: Tensor) -> Tensor:
    """Return φ(x) = elu(x) + 1 (Katharopoulos et al., 2020): x + 1 for x > 0 and eˣ for others, without rounding to 0.

    elu(x) + 1 as it stands is zero in float32 from x = -17 on, and so is a normaliser that is made of nothing else.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.attention import elu_features
    >>> elu_features(torch.tensor([-1000.0, 0.0, 1.0]))
    tensor([0., 1., 2.])
    """
    return torch.as_tensor(_Elu.apply(x))


class _Elu(torch.autograd.Function):
    """φ' = min(φ, 1), so that the result is all that is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp(max=0).exp_().add_(x.clamp(min=0))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        y: Tensor = ctx.saved_tensors[0]
        return grads[0] * y.clamp(max=1)
