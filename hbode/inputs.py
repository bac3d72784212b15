"""Measured inputs u(t) of driven systems, as functions of time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import piecewise
from .piecewise import Pieces


class Input(nn.Module):
    """u(t) through measured values; made as `LinearInput`, `HoldInput` or `CubicInput`.

    A subclass says what lies between the values, by `interpolate(knots, values)` in the form of `hbode.piecewise`, and
    by `smoothness` how many derivatives are continuous at the knots (-1: u itself jumps).
    """

    smoothness: int | None
    times: Tensor
    values: Tensor
    table: Tensor

    def __init__(self, times: Tensor | Sequence[float], values: Tensor) -> None:
        super().__init__()
        times, values = _checked(times, values)
        self.register_buffer("times", times)
        if isinstance(values, nn.Parameter):
            self.values = values
        else:
            self.register_buffer("values", values)
        with torch.no_grad():
            self.register_buffer("table", self._table(), persistent=False)
        self.register_load_state_dict_post_hook(_refresh)

    def interpolate(self, knots: Tensor, values: Tensor) -> Tensor:
        """Return the pieces (P, ..., K) through values (T, ...), NaN where missing, at knots of the same shape."""
        raise NotImplementedError

    @property
    def batch(self) -> int | None:
        """The number of samples that have an input of their own, B; None: all have the same."""
        return self.values.shape[0] if self.values.ndim == 3 else None

    def forward(self, t: Tensor) -> Tensor:
        """Return u at times of shape (), (n,) or, one for each sample, (B, 1, …, 1); constant beyond the record.

        Returns
        -------
        Tensor
            (C,) or (B, C); (n, C) or (n, B, C); (B, C). In the dtype of the values.
        """
        if t.ndim > 1 and t.numel() != len(t):
            raise ValueError(f"t must have shape (), (n,) or (B, 1, ..., 1), got {tuple(t.shape)}")
        if t.ndim > 1 and self.batch not in (None, len(t)):
            raise ValueError(f"t has times for {len(t)} samples, the input has {self.batch}")
        pieces = Pieces(self.times, self.coefficients())
        return pieces(t) if t.ndim < 2 else pieces.of_samples(t.reshape(-1))

    def coefficients(self) -> Tensor:
        """Return the polynomials between the knots, (P, C, K) or (P, B, C, K); a graph leads to values with gradient.

        They are computed anew where the values may be trained, and else were when the input was made.
        """
        return self._table() if self.values.requires_grad else self.table

    def breaks(self, threshold: float) -> list[float]:
        """Return the knots inside the record at which u is not smooth, in order.

        A knot counts where, in a channel of a sample, the first derivative that is not continuous jumps by more than is
        a `threshold` of the channel's root mean square, in units of what moves u between knots by as much.
        """
        if self.smoothness is None:
            return []
        order, table = self.smoothness + 1, self.table.double()
        knots = self.times.T.unsqueeze(-1) if self.times.ndim == 2 else self.times.view(-1, *[1] * (table.ndim - 2))
        lengths = knots.diff(dim=0)
        before, after = table[: len(knots) - 2], table[1 : len(knots) - 1]
        jump = (_derivative(after, 0 * lengths[:-1], order) - _derivative(before, lengths[:-1], order)).abs()
        size = jump * lengths[1:].minimum(lengths[:-1]) ** order / SIZES[order]
        scale = table[..., 0].square().mean(0).sqrt()
        broken = (size > threshold * scale).any(-1)
        if self.times.ndim == 2:
            return sorted(set(self.times.T[1:-1][broken].tolist()))
        return self.times[1:-1][broken.reshape(len(broken), -1).any(-1)].tolist()

    def _table(self) -> Tensor:
        values, knots = self.values.double(), self.times
        if values.ndim == 3:
            values, knots = values.transpose(0, 1), knots.T if knots.ndim == 2 else knots.unsqueeze(-1)
        pieces = self.interpolate(knots.unsqueeze(-1).expand_as(values), values)
        return pieces.to(self.values.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        knots = self.times
        super()._apply(fn, recurse)
        self.times = knots.to(self.times.device)  # in float64, whatever dtype the values are given
        return self


class LinearInput(Input):
    smoothness = 0
    def interpolate(self, knots: Tensor, values: Tensor) -> Tensor:
        return piecewise.linear(knots, values)


class HoldInput(Input):
    smoothness = -1
    def interpolate(self, knots: Tensor, values: Tensor) -> Tensor:
        return piecewise.hold(knots, values)


class CubicInput(Input):
    def __init__(self, times, values, *, causal: bool = False) -> None:
        self.causal = causal
        self.smoothness = 1 if causal else None
        super().__init__(times, values)
    def interpolate(self, knots: Tensor, values: Tensor) -> Tensor:
        return (piecewise.backward_hermite if self.causal else piecewise.natural_spline)(knots, values)


def _refresh(module, keys):
    with torch.no_grad():
        module.table = module._table()

def _checked(times, values):
    return torch.as_tensor(times, dtype=torch.float64, device=values.device), values

def check_inputs(inputs, times, h0):
    pass


SIZES = 1.0, 8.0, 48.0
def _derivative(coefficients: Tensor, s: Tensor, order: int) -> Tensor:
    """Return a derivative of polynomials (..., K) at s (...)."""
    total = torch.zeros_like(coefficients[..., 0])
    for k in range(coefficients.shape[-1] - 1, order - 1, -1):
        total = total * s + math.perm(k, order) * coefficients[..., k]
    return total
