"""Rows that no training looks at: which they are, which members they keep, and the bands that they calibrate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..records import Array, Records
from .bands import Bands

Mask = npt.NDArray[np.bool_]
LIKE = 1.3
"""How much larger than the best error in free run that of a member may be."""


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
        cls, records: Records, initial: int, several: bool, simulate: Callable[[Records, int], list[Array]]
    ) -> Trials:
        """Simulate each run from its start, or from several rows of it on: what is held out is then all over it."""
        initial = min(initial, min(map(len, records)) - 1)
        starts = [range(0, max(n - 2 * initial, 1), max(n // 5, 1)) if several else (0,) for n in map(len, records)]
        places = [(number, start) for number, of_run in enumerate(starts) for start in of_run]
        runs = tuple(records[number].take(slice(start, len(records[number]))) for number, start in places)
        made = simulate(replace(records, runs=runs), initial)
        return cls(
            [(number, start + initial, start + len(run)) for (number, start), run in zip(places, runs, strict=True)],
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
        squares = [
            np.where(np.isnan(x), np.inf, x - y) ** 2 / std**2 for x, y in zip(self.made, self.measured, strict=True)
        ]
        errors = np.nanmean(np.concatenate(squares, 1), (1, 2))
        if not np.isfinite(errors.min()):
            raise RuntimeError("no model simulates the validation rows without leaving all bounds; try hidden=0")
        return [int(i) for i in np.argsort(errors) if errors[i] <= LIKE**2 * errors.min()]

    def bands(self, coverage: float, members: Sequence[int], held: Callable[[int, int], Mask] | None = None) -> Bands:
        """Return the bands of an ensemble of some members.

        Their errors are those of the ensemble in all rows, or, with ``held(member, run)``, (T,), those of each member
        in the rows that it held out (cross-conformal; Vovk, Annals of Mathematics and Artificial Intelligence 74,
        2015).
        """
        parts: list[tuple[Array, Array, Array]] = []
        distinct = set[tuple[int, int]]()
        for (run, first, end), x, y in zip(self.places, self.made, self.measured, strict=True):
            spread = x[members].std(0)
            for member in members if held else members[:1]:
                rows = np.flatnonzero(held(member, run)[first:end]) if held else np.arange(len(y))
                center = x[member] if held else x[members].mean(0)
                parts.append((y[rows], center[rows], spread[rows]))
                distinct |= {(run, first + int(row)) for row in rows}
        measured, center, spread = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Bands.calibrated(coverage, measured, center, spread, len(measured) / max(len(distinct), 1))
