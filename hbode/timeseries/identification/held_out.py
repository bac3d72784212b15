"""Rows that no training looks at: which they are, which members they keep, and the bands that they calibrate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..records import Array, Records, Run
from .bands import Bands

Mask = npt.NDArray[np.bool_]
LIKE = 1.3
"""How much larger than the best error in free run that of a member may be."""
ORIGINS = 40
"""Rows of a validation run from which forecasts calibrate the bands."""


def blocks(rows: int, initial: int, seed: int) -> Mask:
    """Return which rows are held out, (T,): every fifth block of a fortieth of the rows, none at the start.

    Of five seeds in succession each holds out others, so that an ensemble sees all of the record.
    """
    at = np.arange(rows)
    return np.asarray((at // max(rows // 40, 10) % 5 == (3 + seed) % 5) & (at >= initial))


def without_blocks(records: Records, initial: int, seed: int) -> tuple[Records, Records]:
    """Return records without the outputs of the rows that are held out, and without those of all other rows."""
    held = [blocks(len(run), initial, seed)[:, None] for run in records]

    def part(wanted: bool) -> Records:
        y = [np.where(out == wanted, run.y, np.nan) for run, out in zip(records, held, strict=True)]
        return replace(records, runs=tuple(replace(run, y=rows) for run, rows in zip(records, y, strict=True)))

    return part(False), part(True)


Cut = Callable[[Run, int], list[slice]]
"""``cut(run, initial)``: the parts of a run that are simulated, each from its first `initial` rows."""


def from_the_start(run: Run, initial: int) -> list[slice]:
    """Return a whole run."""
    return [slice(0, len(run))]


def from_several_rows(run: Run, initial: int) -> list[slice]:
    """Return a run from several rows of it on, so that what is held out all over it is simulated."""
    rows = len(run)
    starts = range(0, max(rows - 2 * initial, 1), max(rows // 5, 1))
    return [slice(start, rows) for start in starts if start == 0 or measured(run, start, initial)]


def from_many_rows(stretch: int | None) -> Cut:
    """Return the cut of forecasts from many rows, over half of what is left of a run and a stretch at most."""

    def parts(run: Run, initial: int) -> list[slice]:
        ahead = max(min(stretch or len(run), (len(run) - initial) // 2), 1)
        last = len(run) - initial - ahead
        starts = [start for start in range(last + 1) if measured(run, start, initial)] or [0]
        chosen = np.linspace(0, len(starts) - 1, min(ORIGINS, len(starts))).round().astype(int)
        return [slice(starts[i], starts[i] + initial + ahead) for i in np.unique(chosen)]

    return parts


def measured(run: Run, start: int, initial: int) -> bool:
    """Return whether a state can be found from so many rows: half of the values of each output are there."""
    return bool((run.y_mask[start : start + initial].mean(0) >= 0.5).all())


@dataclass(frozen=True, eq=False)
class Trials:
    """Free runs of all members over validation rows, without the first samples, from which their states are estimated.

    Attributes
    ----------
    places
        The rows (run, first, end) of each.
    measured, made
        (T, Cy) of each, and (M, T, Cy).
    """

    places: list[tuple[int, int, int]]
    measured: list[Array]
    made: list[Array]

    @classmethod
    def of(
        cls,
        records: Records,
        initial: int,
        cut: Cut,
        simulate: Callable[[Records, int], list[Array]],
    ) -> Trials:
        """Simulate parts of runs."""
        initial = min(initial, min(map(len, records)) - 1)
        places = [(number, part) for number, run in enumerate(records) for part in cut(run, initial)]
        runs = tuple(records[number].take(part) for number, part in places)
        made = simulate(replace(records, runs=runs), initial)
        return cls(
            [(number, part.start + initial, part.stop) for number, part in places],
            [run.y[initial:] for run in runs],
            [x[:, initial:] for x in made],
        )

    def like_the_best(self, std: Array) -> list[int]:
        """Return the members whose errors over all rows are like those of the best, which comes first.

        Raises
        ------
        RuntimeError
            Where no member simulates all rows.
        """
        with np.errstate(over="ignore"):  # of members that run away
            squares = [
                np.where(np.isnan(x), np.inf, x - y) ** 2 / std**2
                for x, y in zip(self.made, self.measured, strict=True)
            ]
        errors = np.nanmean(np.concatenate(squares, 1), (1, 2))
        if not np.isfinite(errors.min()):
            raise RuntimeError("no model simulates the validation rows without leaving all bounds; try hidden=0")
        return [int(i) for i in np.argsort(errors) if errors[i] <= LIKE**2 * errors.min()]

    def bands(
        self,
        coverage: float,
        members: Sequence[int],
        held: Callable[[int, int], Mask] | None = None,
        by_lead: bool = False,
    ) -> Bands:
        """Return the bands of an ensemble of some members.

        Their errors are those of the ensemble in all rows, or, with ``held(member, run)``, (T,), those of each member
        in the rows that it held out (cross-conformal; Vovk, Annals of Mathematics and Artificial Intelligence 74,
        2015).
        """
        parts: list[tuple[Any, ...]] = []
        distinct = set[tuple[int, int]]()
        for (run, first, end), x, y in zip(self.places, self.made, self.measured, strict=True):
            spread = x[members].std(0)
            for member in members if held else members[:1]:
                rows = np.flatnonzero(held(member, run)[first:end]) if held else np.arange(len(y))
                center = x[member] if held else x[members].mean(0)
                parts.append((y[rows], center[rows], spread[rows], rows + 1))
                distinct |= {(run, first + int(row)) for row in rows}
        measured, center, spread, lead = (np.concatenate(part) for part in zip(*parts, strict=True))
        repeats = len(measured) / max(len(distinct), 1)
        return Bands.calibrated(coverage, measured, center, spread, repeats, lead if by_lead else None)
