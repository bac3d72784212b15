"""Steps between times: the one of equidistant times, behind the rounding of their stamps, and the longest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .run import Array

LONG_GAP = 100.0
"""A gap between two rows is long from so many median steps on."""


def common_step(times: Sequence[Array]) -> float | None:
    """Return the step that all runs are sampled with, None where times are not equidistant up to their rounding."""
    taken = sum(len(t) - 1 for t in times)
    if not taken:
        return None
    step = float(sum(t[-1] - t[0] for t in times)) / taken
    # Rounding to r shifts a stamp by r/2, and the end of the line through the first and the last one by r.
    off = max(np.ptp(t - step * np.arange(len(t))) for t in times)
    return step if off <= 2 * _rounding(np.concatenate(times), step) else None


def median_step(times: Sequence[Array]) -> float:
    """Return the median time between rows of a run, NaN where every run has but one."""
    steps = np.concatenate([np.diff(t) for t in times])
    return float(np.median(steps)) if len(steps) else math.nan


def longest_gap(times: Sequence[Array]) -> tuple[float, int, int]:
    """Return the longest time between two rows of a run, the run and the row after which it comes."""
    longest = [np.diff(t).max(initial=0.0) for t in times]
    i = int(np.argmax(longest))
    return float(longest[i]), i, int(np.diff(times[i]).argmax()) if len(times[i]) > 1 else 0


def _rounding(t: Array, step: float) -> float:
    """Return to what the largest times are rounded: to a decimal place that is fine beside the step, or to their dtype.

    All times have as many significant digits, or fewer: programs that write so many of them round small times less.
    """
    single = bool((t.astype(np.float32) == t).all())
    t = np.abs(t[t != 0])
    finest = 4 * float(np.finfo(np.float32 if single else np.float64).eps) * float(t.max())
    places = np.floor(np.log10(t))
    for digits in range(1, 18):
        r = 10.0 ** (places.max() + 1 - digits)
        if r <= finest:
            break
        quanta = 10.0 ** (places + 1 - digits)
        if r <= step / 10 and (np.abs(t / quanta - np.round(t / quanta)) * quanta <= finest).all():
            return float(r)
    return finest
