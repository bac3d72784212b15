"""Work-precision curves: what accuracy costs in evaluations of the field."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class WorkPrecision:
    """Work and error of one method over a ladder of tolerances.

    Attributes
    ----------
    work
        Evaluations of the field, one entry a tolerance.
    error
        Errors reached, in the unit of the caller.
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


def work_precision(
    run: Callable[[float], tuple[float, float]], tolerances: Sequence[float], finest: float = 0.0
) -> WorkPrecision:
    """Return the curve of ``run(tolerance) -> (work, error)`` over falling tolerances, up to the error `finest`."""
    work: list[float] = []
    error: list[float] = []
    for tolerance in tolerances:
        spent, reached = run(tolerance)
        work.append(spent)
        error.append(reached)
        if reached < finest:
            break
    return WorkPrecision(tuple(work), tuple(error))


def work_ratio(a: WorkPrecision, b: WorkPrecision, errors: Sequence[float]) -> float:
    """Return the geometric mean, over the errors that both curves reach, of the work of `a` over that of `b`."""
    logs = [math.log(a.work_at(e) / b.work_at(e)) for e in errors if a.work_at(e) > 0 and b.work_at(e) > 0]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan
