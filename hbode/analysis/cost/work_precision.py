"""Work-precision curves: what accuracy costs in evaluations of the field."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

CLEAR = 0.95
"""Ratio of work above which there is no clear difference: curves are read between their points."""


@dataclass(frozen=True)
class WorkPrecision:
    """Work and error of one method over a ladder of tolerances.

    Attributes
    ----------
    work
        Evaluations of the field, one entry a tolerance.
    error
        Errors reached, in the unit of the caller.

    Examples
    --------
    >>> from hbode.analysis import WorkPrecision
    >>> WorkPrecision((100.0, 200.0), (1e-3, 1e-5)).error
    (0.001, 1e-05)
    """

    work: tuple[float, ...]
    error: tuple[float, ...]

    def work_at(self, error: float) -> float:
        """Return the work that reaches `error`, read off the log-log curve; NaN outside of it.

        The curve is the envelope: a point counts only if no cheaper one is as accurate.
        """
        points: list[tuple[float, float]] = []
        for work, reached in sorted(zip(self.work, self.error, strict=True)):
            if math.isfinite(reached) and reached > 0 and (not points or reached < points[-1][1]):
                points.append((work, reached))
        for (w0, e0), (w1, e1) in pairwise(points):
            if e1 <= error <= e0:
                share = math.log(e0 / error) / math.log(e0 / e1)
                return math.exp((1 - share) * math.log(w0) + share * math.log(w1))
        return math.nan

    def ratio_to(self, other: WorkPrecision, error: float) -> tuple[float, float]:
        """Return this work over that of another at an error, and the largest such ratio where both curves reach.

        Where the largest is below `CLEAR` too, this one needs less work whatever the error.
        """
        errors = [e for e in (error, *self.error, *other.error) if self.work_at(e) > 0 and other.work_at(e) > 0]
        ratios = [self.work_at(e) / other.work_at(e) for e in errors]
        return self.work_at(error) / other.work_at(error), max(ratios, default=math.nan)
