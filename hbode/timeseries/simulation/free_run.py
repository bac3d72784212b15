"""A simulation beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from ...reporting.tables import plain
from ..identification import Description, Simulated, SystemIdentifier
from ..records import Array, DataError, Records
from ..scores import BandScores, SimulationScores, band_scores, simulation_scores


class Identified(Protocol):
    """A model of a record that a report is on: `SystemIdentifier` and all forecasters."""

    coverage: float
    members_: Any

    @property
    def law_(self) -> Any:
        """What was fitted; its `model` is the name."""

    def simulate_with_bands(self, records: Records, initial: int | None = None) -> Simulated:
        """Return its free runs."""

    def linear(self) -> SystemIdentifier:
        """Return the linear law to compare with, not fitted."""

    def describe(self) -> Description:
        """Return what it learned."""


@dataclass(frozen=True, eq=False)
class FreeRun:
    """Measured records, their simulation from the inputs and the first outputs, and its scores behind those.

    Attributes
    ----------
    records
        What was measured.
    simulated
        By the model, with bands.
    initial
        Samples of each run that the model saw the outputs of.
    nominal
        The coverage that the bands should have.
    scores, bands
        Of the samples that the model did not see.

    Examples
    --------
    >>> from hbode.timeseries import SystemIdentifier, structure_records
    >>> from hbode.timeseries.simulation import FreeRun
    >>> identifier = SystemIdentifier("hbnode", evaluations=1, initial=10, stretch=50, hidden=2, random_state=0)
    >>> identifier.fit(structure_records(200, seed=0))
    SystemIdentifier(evaluations=1, hidden=2, initial=10, model='hbnode',
                     stretch=50)
    >>> free_run = FreeRun.of(identifier, structure_records(100, seed=1), 10)
    >>> free_run.initial
    10
    """

    records: Records
    simulated: Simulated
    initial: int
    nominal: float
    scores: SimulationScores
    bands: BandScores

    @classmethod
    def of(cls, identifier: Identified, records: Records, initial: int, simulated: Simulated | None = None) -> Self:
        """Simulate records that hold what was measured; a DataError where an output has no value to score."""
        measured = [run.y for run in records]
        known = np.concatenate([run.y_mask[initial:] for run in records])
        for channel, column in zip(records.outputs, known.T, strict=True):
            if not column.any():
                raise DataError(f"column {channel.name!r} has no value behind the first {initial} rows")
        made = simulated or identifier.simulate_with_bands(records, initial)
        low, high = ([y + sign * w for y, w in zip(made.y, made.half_width, strict=True)] for sign in (-1, 1))
        return cls(
            records,
            made,
            initial,
            identifier.coverage,
            simulation_scores(measured, made.y, initial),
            band_scores(measured, low, high, initial),
        )

    @property
    def longest(self) -> int:
        """The number of the longest run, which figures show."""
        return int(np.argmax([len(run) for run in self.records]))

    def residual(self) -> tuple[Array, Array]:
        """Return times (T,) and measured minus simulated (T, Cy) of the longest run behind the initial samples."""
        run, y = self.records[self.longest], self.simulated.y[self.longest]
        return run.t[self.initial :], (run.y - y)[self.initial :]

    def as_json(self) -> dict[str, Any]:
        """Return JSON types; errors in units of the outputs."""
        outputs = {
            str(channel): {
                "rmse": self.scores.rmse[i],
                "nrmse": self.scores.nrmse[i],
                "band_coverage": self.bands.coverage[i],
                "band_mean_width": self.bands.width[i],
            }
            for i, channel in enumerate(self.records.outputs)
        }
        found: dict[str, Any] = plain(
            {
                "source": self.records.source,
                "runs": len(self.records),
                "rows": self.records.total_rows,
                "initial": self.initial,
                "outputs": {name: {k: float(x) for k, x in one.items()} for name, one in outputs.items()},
                "nrmse": self.scores.joined_nrmse,
                "band_nominal_coverage": self.nominal,
            }
        )
        return found
