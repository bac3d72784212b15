"""The contract of models that simulate outputs from inputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import numpy as np

from ..records import Array, Channel, DataError, MissingExtra, Records, Run
from ..scores import simulation_scores

try:
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
except ImportError as error:
    raise MissingExtra("simulators need sklearn: pip install 'hbode[timeseries]'") from error


class Simulator(BaseEstimator):  # type: ignore[misc]
    """A model that is fitted to records and simulates others in free run.

    A subclass writes `_fit` and `_simulate`. Its constructor stores its arguments and does nothing else, so that
    scikit-learn's ``get_params``, ``set_params`` and ``clone`` work. What it needs of records is said by its class.

    Attributes
    ----------
    needs_inputs, takes_missing_inputs, needs_common_step
        Whether records must have inputs; whether values of these may be missing; whether all rows must be one step
        apart.
    outputs_, inputs_, step_
        Of the records that the model was fitted to; `step_` is None where they are irregular.

    Examples
    --------
    >>> from hbode.timeseries.baselines import LinearARX, Simulator
    >>> issubclass(LinearARX, Simulator)
    True
    """

    needs_inputs = True
    takes_missing_inputs = False
    needs_common_step = True

    def fit(self, records: Records) -> Self:
        """Fit the model to all runs.

        Raises
        ------
        DataError
            For records that the model cannot be fitted to; the message says why.
        """
        self._check(records)
        self._fit(records)
        self.outputs_, self.inputs_, self.step_ = records.outputs, records.inputs, records.step
        return self

    def simulate(self, records: Records, initial: int) -> list[Array]:
        """Return the outputs (T, Cy) of each run, in its units, from its inputs and its first `initial` outputs.

        The model is handed nothing else. The first `initial` rows are what was measured, or where that is missing what
        the model makes of it.

        Raises
        ------
        DataError, ValueError
            For other channels or another step than the model was fitted to, and for too few or too many initial rows.
        """
        self._check_simulation(records, initial)
        simulated = []
        for run in records:
            seen = np.where(np.arange(len(run))[:, None] < initial, run.y, np.nan)
            y = self._simulate(Run(run.t, seen, run.u, run.name), initial)
            simulated.append(np.where(np.isnan(seen), y, seen))
        return simulated

    def score(self, records: Records, initial: int) -> float:
        """Return the joined fit of the simulation in per cent, 100 at best, of all rows but the first `initial`."""
        simulated = self.simulate(records, initial)
        return simulation_scores([run.y for run in records], simulated, initial).joined_fit

    @property
    @abstractmethod
    def parameters_(self) -> int:
        """How many numbers were fitted."""

    @abstractmethod
    def _fit(self, records: Records) -> None: ...

    @abstractmethod
    def _simulate(self, run: Run, initial: int) -> Array:
        """Return outputs for all rows; those of `run` are NaN from row `initial` on."""

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _check_simulation(self, records: Records, initial: int) -> None:
        if not hasattr(self, "outputs_"):
            raise NotFittedError(f"{self._name} must be fitted before it simulates")
        for side, fitted in (("outputs", self.outputs_), ("inputs", self.inputs_)):
            found: tuple[Channel, ...] = getattr(records, side)
            if found != fitted:
                want, got = (", ".join(map(str, channels)) or "none" for channels in (fitted, found))
                raise DataError(f"{self._name} was fitted to the {side} {want}, got {got}")
        self._check(records)
        step = records.step
        if self.needs_common_step and step and self.step_ and not np.isclose(step, self.step_, rtol=1e-3, atol=0.0):
            raise DataError(f"{self._name} was fitted to a step of {self.step_:.6g}, got {step:.6g}")
        shortest = min(map(len, records))
        if not 0 <= initial <= shortest:
            raise ValueError(f"initial must be from 0 to {shortest}, the rows of the shortest run, got {initial}")

    def _check(self, records: Records) -> None:
        if self.needs_inputs and not records.inputs:
            raise DataError(f"{self._name} needs at least one input, the records have none")
        lost = records.missing()
        for channel in records.inputs:
            if channel.name in lost and not self.takes_missing_inputs:
                raise DataError(f"{self._name} needs all inputs, {lost[channel.name]} of {channel.name!r} are missing")
        if self.needs_common_step and records.step is None and max(map(len, records)) > 1:
            raise DataError(f"{self._name} needs rows that are one step apart; these are irregular: resample them")


def split_runs(records: Records, fraction: float) -> tuple[Records, Records]:
    """Split each run in its order: `fraction` of its rows for training, the others for validation."""
    if not 0 < fraction < 1:
        raise ValueError(f"validation must be between 0 and 1, got {1 - fraction:g}")
    cuts = [round(fraction * len(run)) for run in records]
    if min(min(cut, len(run) - cut) for cut, run in zip(cuts, records, strict=True)) < 1:
        raise DataError("a run is too short to be split into training and validation")

    def part(rows: Sequence[slice]) -> Records:
        return replace(records, runs=tuple(run.take(at) for run, at in zip(records, rows, strict=True)))

    return part([slice(cut) for cut in cuts]), part([slice(cut, None) for cut in cuts])
