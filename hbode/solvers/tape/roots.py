"""The first zeros of functions of one variable, each within a bracket of its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def first_zeros(
    value: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, g_low: Tensor, g_high: Tensor, width: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return brackets (low, high) no wider than `width` and the values at their ends, all of shape (N,), float64.

    At every `low` the function has the sign that it had at first. At every `high` it has not: it has become zero or
    NaN, or has changed its sign. Nothing more is asked of it: it may step, or stay zero.

    The method is Chandrupatla's (Adv. Eng. Softw. 28, 1997): inverse quadratic interpolation through the last three
    points where it is monotone there, else bisection; about ten evaluations to rounding where the function is smooth.
    Where two evaluations did not halve a bracket the next one does, which bounds them by three times those of
    bisection.
    """
    sign = torch.sign(g_low)
    newest, other, last = high, low, low  # the newest point, the end of the bracket across from it, the one before
    g_newest, g_other, g_last = g_high, g_low, g_low
    share = torch.full_like(low, 0.5)
    before = twice_before = high - low
    while True:
        open_ = (other - newest).abs()
        going = open_ > width
        if not going.any():
            break
        least = (0.5 * width / open_.where(going, width)).clamp(max=0.5)
        share = share.clamp(least, 1 - least).where(open_ <= 0.5 * twice_before, 0.5)
        twice_before, before = before, open_
        point = newest + share * (other - newest)
        g = value(torch.where(going, point, newest))
        across = (torch.sign(g) == sign) != (torch.sign(g_newest) == sign)  # the newest point is now across from it
        moved = (
            (newest, other, last, g_newest, g_other, g_last),
            (
                point,
                newest.where(across, other),
                other.where(across, newest),
                g,
                g_newest.where(across, g_other),
                g_other.where(across, g_newest),
            ),
        )
        newest, other, last, g_newest, g_other, g_last = (
            torch.where(going, new, old) for old, new in zip(*moved, strict=True)
        )
        share = _interpolated(newest, other, last, g_newest, g_other, g_last)
    inside = torch.sign(g_newest) == sign
    return (
        newest.where(inside, other),
        other.where(inside, newest),
        g_newest.where(inside, g_other),
        g_other.where(inside, g_newest),
    )


def _interpolated(a: Tensor, b: Tensor, c: Tensor, f_a: Tensor, f_b: Tensor, f_c: Tensor) -> Tensor:
    """Return how far from a to b the zero lies by inverse quadratic interpolation; a half where that is no good."""
    xi, phi = (a - b) / (c - b), (f_a - f_b) / (f_c - f_b)
    good = (phi * phi < xi) & ((1 - phi).square() < 1 - xi)
    alpha = (c - a) / (b - a)
    share = f_a / (f_b - f_a) * f_c / (f_b - f_c) + alpha * f_a / (f_c - f_a) * f_b / (f_c - f_b)
    return share.where(good & share.isfinite(), 0.5)


def rounding(low: Tensor, high: Tensor) -> Tensor:
    """Return how narrow a bracket between two times can be, (N,), in units of high - low."""
    largest = torch.maximum(low.abs(), high.abs())
    ulp = torch.nextafter(largest, torch.full_like(largest, math.inf)) - largest
    return torch.maximum(ulp / (high - low).abs(), torch.full_like(ulp, 2.0**-52))
