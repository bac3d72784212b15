"""Piecewise polynomials through measured values, of which some may be missing.

Everything here has time on its first axis: knots and values (T, ...), of one shape, in float64. A piece is written in
the time since its first knot, u = c[0] + c[1] s + c[2] s² + ..., and pieces have shape (P, ..., K).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Pieces:
    """A piecewise polynomial with values in (C,), or (B, C) for samples; constant beyond its knots.

    Parameters
    ----------
    knots
        Shape (T,), or (B, T) for knots per sample, float64, increasing.
    coefficients
        Shape (P, C, K) or (P, B, C, K): of a piece from each knot on, but for the last one where P = T - 1.
    """

    def __init__(self, knots: Tensor, coefficients: Tensor) -> None:
        self.coefficients, self.knots = coefficients, knots
        self.first, self.last = knots[..., 0].clone(), knots[..., -1].clone()  # compiled loops take no aliases
        self.ends = knots[..., 1 : len(coefficients)].clone(memory_format=torch.contiguous_format)
        self.sample: Tensor | None = None
        if coefficients.ndim == 4:
            self.sample = torch.arange(coefficients.shape[1], device=knots.device)

    def __call__(self, t: Tensor) -> Tensor:
        """Return the values at times (), shape (C,) or (B, C), or at times (n,), shape (n, C) or (n, B, C)."""
        if self.knots.ndim == 1:
            return self._evaluate(t, self.coefficients.ndim - 2)
        places = t.unsqueeze(-1).expand(*t.shape, len(self.knots))
        return self._evaluate(places, 1, self.sample)

    def of_samples(self, t: Tensor) -> Tensor:
        """Return the values of samples at a time for each, (B,), shape (B, C)."""
        return self._evaluate(t, 1, self.sample)

    def _evaluate(self, t: Tensor, axes: int, sample: Tensor | None = None) -> Tensor:
        """Return values at times (...) or (..., B) with as many further axes."""
        knots = self.knots
        t = torch.clamp(t.to(knots.dtype), self.first, self.last)
        if knots.ndim == 1:
            index = torch.searchsorted(self.ends, t.detach(), right=True)
            s = t - knots.index_select(0, index.reshape(-1)).reshape(t.shape)
        else:
            turned = t.detach().reshape(-1, len(knots)).T.contiguous()
            index = torch.searchsorted(self.ends, turned, right=True).T.reshape(t.shape)
            s = t - knots[sample, index]
        table = self.coefficients
        if sample is None:  # not table[index], for which the host would wait for the index of a single time
            piece = table.index_select(0, index.reshape(-1)).reshape(*t.shape, *table.shape[1:])
        else:
            piece = table[index, sample]
        *lower, value = piece.unbind(-1)
        if lower:
            s = s.to(value.dtype).reshape(*s.shape, *[1] * axes)
        for coefficient in reversed(lower):
            value = torch.addcmul(coefficient, value, s)
        return value


class Neighbours(NamedTuple):
    """For each time between two knots, of each channel: the known values around it.

    Before the first known value, and after the last one, both neighbours are that value.
    """

    left: Tensor
    right: Tensor
    before: Tensor
    """The known value before the left one; -1: there is none."""


def hold(knots: Tensor, values: Tensor) -> Tensor:
    """Return the pieces that hold the last known value, (T, ..., 1); the first known one before there is any."""
    last, following = _known(values)
    return values.gather(0, torch.where(last < 0, following[:1], last)).unsqueeze(-1)


def linear(knots: Tensor, values: Tensor) -> Tensor:
    """Return the pieces of straight lines between known values, (T - 1, ..., 2)."""
    at = _neighbours(values)
    start, slope = values.gather(0, at.left), _slopes(knots, values, at)
    return torch.stack((start + slope * (knots[:-1] - knots.gather(0, at.left)), slope), -1)


def backward_hermite(knots: Tensor, values: Tensor) -> Tensor:
    """Return cubic pieces whose slope at a value is that of the line from the value before, (T - 1, ..., 4).

    The first piece is a straight line. Morrill et al. 2021, "Neural Controlled Differential Equations for Online
    Prediction Tasks", section 3.
    """
    at = _neighbours(values)
    start, slope, length = values.gather(0, at.left), _slopes(knots, values, at), _lengths(knots, at)
    earlier = at._replace(left=at.before.clamp(min=0), right=at.left)
    straight = (at.before < 0) | (at.left == at.right)
    first = torch.where(straight, slope, _slopes(knots, values, earlier))
    square = 2 * (slope - first) / length
    return _moved((start, first, square, (first - slope) / length**2), knots[:-1] - knots.gather(0, at.left))


def natural_spline(knots: Tensor, values: Tensor) -> Tensor:
    """Return the cubic pieces with two continuous derivatives, the second one zero at the ends, (T - 1, ..., 4)."""
    at = _neighbours(values)
    start, slope, length = values.gather(0, at.left), _slopes(knots, values, at), _lengths(knots, at)
    bend = _second_derivatives(knots, values)
    left, right = bend.gather(0, at.left), bend.gather(0, at.right)
    first = slope - length * (2 * left + right) / 6
    cubic = (right - left) / (6 * length)
    return _moved((start, first, left / 2, cubic), knots[:-1] - knots.gather(0, at.left))


def _moved(cubic: tuple[Tensor, Tensor, Tensor, Tensor], shift: Tensor) -> Tensor:
    """Return cubics in s as cubics in s - shift: pieces begin at a knot whose value may be missing."""
    a, b, c, d = cubic
    moved = a + shift * (b + shift * (c + shift * d)), b + shift * (2 * c + shift * 3 * d), c + 3 * shift * d, d
    return torch.stack(moved, -1)


def _known(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of the last known value at or before each knot (-1: none), and of the next one (T: none)."""
    known, count = values.isfinite(), len(values)
    place = torch.arange(count, device=values.device).view(-1, *[1] * (values.ndim - 1))
    last = torch.where(known, place, -1).cummax(0).values
    return last, torch.where(known, place, count).flip(0).cummin(0).values.flip(0)


def _neighbours(values: Tensor) -> Neighbours:
    last, following = _known(values)
    left, right = last[:-1], following[1:]
    left = torch.where(left < 0, following[:1], left)
    right = torch.where(right == len(values), last[-1:], right)
    earlier = torch.cat((torch.full_like(last[:1], -1), last[:-1]))
    return Neighbours(left, right, earlier.gather(0, left))


def _lengths(knots: Tensor, at: Neighbours) -> Tensor:
    """Return the times between neighbours, 1 where both are the same."""
    length = knots.gather(0, at.right) - knots.gather(0, at.left)
    return torch.where(at.left == at.right, 1.0, length)


def _slopes(knots: Tensor, values: Tensor, at: Neighbours) -> Tensor:
    return (values.gather(0, at.right) - values.gather(0, at.left)) / _lengths(knots, at)


def _second_derivatives(knots: Tensor, values: Tensor) -> Tensor:
    """Return the second derivatives of the natural spline at the known values; zero at the others.

    The tridiagonal equations are solved by parallel cyclic reduction: in every pass each row is rid of its neighbours,
    which leaves those twice as far away. The rows are dominated by their diagonals, so this is stable without pivoting
    (Hockney and Jesshope, Parallel Computers 2, section 5.4.3). Rows know their neighbours by place: missing values are
    passed over.
    """
    last, following = _known(values)
    place = torch.arange(len(values), device=values.device).view(-1, *[1] * (values.ndim - 1)).expand_as(last)
    inner = (last == place) & (place > following[:1]) & (place < last[-1:])
    before = torch.where(inner, torch.cat((place[:1], last[:-1])), place)
    after = torch.where(inner, torch.cat((following[1:], place[-1:])), place)
    ahead, behind = (torch.where(inner, knots.gather(0, n) - knots, 1.0) for n in (after, before))
    rise = (values.gather(0, after) - values) / ahead - (values.gather(0, before) - values) / behind
    right_side = torch.where(inner, rise, 0.0)
    lower, upper = torch.where(inner, -behind / 6, 0.0), torch.where(inner, ahead / 6, 0.0)
    diagonal = torch.where(inner, (ahead - behind) / 3, 1.0)
    for _ in range(math.ceil(math.log2(len(values)))):
        down, up = lower / diagonal.gather(0, before), upper / diagonal.gather(0, after)
        right_side = right_side - down * right_side.gather(0, before) - up * right_side.gather(0, after)
        diagonal = diagonal - down * upper.gather(0, before) - up * lower.gather(0, after)
        lower, upper = -down * lower.gather(0, before), -up * upper.gather(0, after)
        before, after = before.gather(0, before), after.gather(0, after)
    return right_side / diagonal
