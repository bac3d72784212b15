"""Measured inputs u(t) of driven systems, as functions of time.

``hbodeint(f, h0, t, inputs=u)`` calls ``f(t, h, u(t), *args)`` and ends steps where u is not smooth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import piecewise
from .piecewise import Pieces


class Input(nn.Module):
    """u(t) through measured values: what `LinearInput`, `HoldInput` and `CubicInput` have in common.

    Parameters
    ----------
    times
        When the values were measured, increasing: shape (T,), or (B, T) for samples with times of their own; T is at
        least 2. Kept in float64, whatever dtype the module is given.
    values
        Shape (T, C), the same for all samples, or (B, T, C); real. NaN is a missing value: its channel is interpolated
        through the values that are known, and is constant before the first and after the last of them. A
        `torch.nn.Parameter` is one of the module; other tensors are buffers. Either receives gradients if it requires
        them. Other values are not to be changed in place.

    Raises
    ------
    ValueError, TypeError
        For times that do not increase, shapes that do not fit, values of ±Inf, and channels without any known value.

    Notes
    -----
    A subclass gives `interpolate`, and in `smoothness` the number of continuous derivatives at the knots: -1 where u
    itself jumps; None for one that solvers need not know the knots of.
    """

    smoothness: int | None = None
    times: Tensor
    values: Tensor
    table: Tensor

    def __init__(self, times: Tensor | Sequence[float], values: Tensor) -> None:
        super().__init__()
        knots = _checked(times, values)
        self.register_buffer("times", knots)
        if isinstance(values, nn.Parameter):
            self.values = values
        else:
            self.register_buffer("values", values)
        self.register_buffer("table", None, persistent=False)
        self._interpolate_again()
        self.register_load_state_dict_post_hook(_loaded)

    def interpolate(self, knots: Tensor, values: Tensor) -> Tensor:
        """Return the pieces (P, ..., K) through values (T, ...), NaN where missing, at knots of the same shape.

        Piece p is c[0] + c[1] s + ... in the time s since knot p; P is T - 1, or T.
        """
        raise NotImplementedError

    @property
    def batch(self) -> int | None:
        """The number of samples that have an input of their own, B; None: one for all."""
        return self.values.shape[0] if self.values.ndim == 3 else None

    def forward(self, t: Tensor) -> Tensor:
        """Return u at times of shape (), (n,) or, one for each sample, (B, 1, …, 1); constant beyond the record.

        Returns
        -------
        Tensor
            Shape (C,) or (B, C) for one time; (n, C) or (n, B, C) for several; (B, C) for one of each sample. In the
            dtype of the values.
        """
        if t.ndim > 1 and t.numel() != len(t):
            raise ValueError(f"t must have shape (), (n,) or (B, 1, ..., 1), got {tuple(t.shape)}")
        if t.ndim > 1 and self.batch not in (None, len(t)):
            raise ValueError(f"t has times for {len(t)} samples, the input has {self.batch}")
        pieces = Pieces(self.times, self.coefficients())
        return pieces(t) if t.ndim < 2 else pieces.of_samples(t.reshape(-1))

    def coefficients(self) -> Tensor:
        """Return the polynomials, (P, C, K) or (P, B, C, K), with a graph if the values require gradients.

        Then they are computed anew each time: once for a solve that is given the input as `inputs`, but for each
        evaluation where a field calls the input itself.
        """
        return self._interpolated() if self.values.requires_grad else self.table

    def _interpolated(self) -> Tensor:
        values, knots = self.values.double(), self.times
        if values.ndim == 3:
            values, knots = values.transpose(0, 1), knots.T if knots.ndim == 2 else knots.unsqueeze(-1)
        return self.interpolate(knots.unsqueeze(-1).expand_as(values), values).to(self.values.dtype)

    @torch.no_grad()
    def _interpolate_again(self) -> None:
        self.table = self._interpolated()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        knots = self.times
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.times = knots.to(self.times.device)
        return self


class LinearInput(Input):
    """u(t) on straight lines between measured values.

    Parameters
    ----------
    times, values
        As for `Input`: (T,) or (B, T), and (T, C) or (B, T, C).

    Notes
    -----
    Steps end at the knots at which its slope changes by something that the tolerances can see; see `hbodeint`.

    Examples
    --------
    >>> import torch
    >>> from hbode import LinearInput, hbodeint
    >>> u = LinearInput([0.0, 1.0, 2.0], torch.tensor([[0.0], [1.0], [0.0]]))
    >>> u(torch.tensor(1.5))
    tensor([0.5000])
    >>> sol = hbodeint(lambda t, h, u: u - h**3, torch.zeros(1), [0.0, 2.0], inputs=u)
    """

    smoothness = 0

    def interpolate(self, knots: Tensor, values: Tensor) -> Tensor:
        return piecewise.linear(knots, values)


class HoldInput(Input):
    """u(t) that holds each measured value until the next one: a zero-order hold, as a digital controller has it.

    Parameters
    ----------
    times, values
        As for `Input`: (T,) or (B, T), and (T, C) or (B, T, C). Where a value is missing, the last known one is held.

    Notes
    -----
    u jumps at the knots, and a step sees it from its own side of them; see `hbodeint`.

    Examples
    --------
    >>> import torch
    >>> from hbode import HoldInput
    >>> u = HoldInput([0.0, 1.0, 2.0], torch.tensor([[3.0], [float("nan")], [5.0]]))
    >>> u(torch.tensor([0.5, 1.5, 2.0]))
    tensor([[3.],
            [3.],
            [5.]])
    """

    smoothness = -1

    def interpolate(self, knots: Tensor, values: Tensor) -> Tensor:
        return piecewise.hold(knots, values)


class CubicInput(Input):
    """u(t) on cubics through measured values: the natural spline, or a causal Hermite interpolant.

    Parameters
    ----------
    times, values
        As for `Input`: (T,) or (B, T), and (T, C) or (B, T, C).
    causal
        False: the natural cubic spline, which has two continuous derivatives; each value moves all of u. True: slopes
        are those of the lines from the values before (Morrill et al. 2021, "Neural Controlled Differential Equations
        for Online Prediction Tasks"): one continuous derivative, and between two knots u depends on no value after
        the second of them.

    Examples
    --------
    >>> import torch
    >>> from hbode import CubicInput
    >>> u = CubicInput([0.0, 1.0, 2.0], torch.tensor([[0.0], [1.0], [0.0]]))
    >>> u(torch.tensor(0.5))
    tensor([0.6875])
    """

    def __init__(self, times: Tensor | Sequence[float], values: Tensor, *, causal: bool = False) -> None:
        self.causal = causal
        self.smoothness = 1 if causal else None
        super().__init__(times, values)

    def interpolate(self, knots: Tensor, values: Tensor) -> Tensor:
        return (piecewise.backward_hermite if self.causal else piecewise.natural_spline)(knots, values)


def _loaded(module: Any, incompatible: Any) -> None:
    module._interpolate_again()


def _checked(times: Tensor | Sequence[float], values: Tensor) -> Tensor:
    """Return the times in float64 beside the values, if both are what `Input` takes."""
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise TypeError(f"values must be a real floating tensor, got {getattr(values, 'dtype', type(values).__name__)}")
    try:
        knots = torch.as_tensor(times, dtype=torch.float64, device=values.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"times must be a tensor or a sequence of numbers, got {times!r}") from error
    if knots.requires_grad:
        raise ValueError("times must not require a gradient: none reaches the times of measurements. Detach them")
    if knots.ndim not in (1, 2) or knots.shape[-1] < 2 or not knots.numel():
        raise ValueError(f"times must have shape (T,) or (B, T) with T at least 2, got {tuple(knots.shape)}")
    if not bool(knots.isfinite().all()):
        raise ValueError("times must be finite, got NaN or Inf")
    if not bool((knots.diff() > 0).all()):
        raise ValueError("times must increase from each value to the next, without repetition")
    lead = tuple(knots.shape) if knots.ndim == 2 else (*values.shape[:-2], len(knots))
    if values.ndim not in (2, 3) or values.shape[:-1] != lead:
        wanted = f"({', '.join(map(str, knots.shape))}, C)" + (f" or (B, {len(knots)}, C)" if knots.ndim == 1 else "")
        raise ValueError(f"values must have shape {wanted} for these times, got {tuple(values.shape)}")
    if bool(values.isinf().any()):
        raise ValueError("values must be finite, or NaN where they are missing, got Inf")
    empty = values.isnan().all(-2).nonzero().tolist()
    if empty:
        *sample, channel = empty[0]
        where = f"channel {channel}" + (f" of sample {sample[0]}" if sample else "")
        raise ValueError(f"values must be known at least once in each channel, got NaN alone in {where}")
    return knots.detach().clone()
