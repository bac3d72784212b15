"""Standardisation of records, fitted on training data, and what training asks of data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from .container import Records
from .run import Array, Channel, DataError, Run

Values = TypeVar("Values", Array, Tensor)


@dataclass(frozen=True, eq=False)
class Affine:
    """x ↦ (x - mean) / std for each channel; mean and std have shape (C,).

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries import Affine
    >>> Affine(np.array([1.0]), np.array([2.0])).std
    array([2.])
    """

    mean: Array
    std: Array

    def to_standard(self, x: Values) -> Values:
        """Return standardised values, shape (..., C), in the dtype and on the device of a tensor x."""
        return (x - self._like(self.mean, x)) / self._like(self.std, x)

    def from_standard(self, x: Values) -> Values:
        """Return values in the units of the record, shape (..., C)."""
        return x * self._like(self.std, x) + self._like(self.mean, x)

    def _like(self, numbers: Array, x: Values) -> Values:
        if x.shape[-1] != len(numbers):
            raise DataError(f"values must have {len(numbers)} channels on their last axis, got shape {tuple(x.shape)}")
        return x.new_tensor(numbers) if isinstance(x, Tensor) else numbers


@dataclass(frozen=True, eq=False)
class Scaling:
    """Means, standard deviations and the unit of time by which a model sees its data.

    Attributes
    ----------
    outputs, inputs
        Of the columns of y and of u.
    time_unit
        τ, the length of one unit of model time in the unit of the record: the mean step of the training data, long
        gaps left out.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries import Records, Scaling
    >>> records = Records.from_arrays(np.arange(4) / 10, np.array([1.0, 2.0, 3.0, np.nan]))
    >>> scaling = Scaling.fit(records)
    >>> float(scaling.outputs.mean[0]), round(scaling.time_unit, 12)
    (2.0, 0.1)
    >>> scaling.to_standard(records)[0].y[:3, 0]
    array([-1.22474487,  0.        ,  1.22474487])
    """

    outputs: Affine
    inputs: Affine
    time_unit: float

    @classmethod
    def fit(cls, records: Records) -> Scaling:
        """Return the scaling of training data; missing values are left out.

        Raises
        ------
        DataError
            As `check_for_training` does.
        """
        check_for_training(records)
        y, u = (np.concatenate(parts) for parts in zip(*((run.y, run.u) for run in records), strict=True))
        runs = records.cut_at_gaps()
        unit = float(sum(run.t[-1] - run.t[0] for run in runs)) / sum(len(run) - 1 for run in runs)
        outputs, inputs = (Affine(np.nanmean(x, 0), np.nanstd(x, 0)) for x in (y, u))
        return cls(outputs, inputs, unit)

    def to_standard(self, records: Records) -> Records:
        """Return records of which all channels are standardised, without units, and the times divided by τ."""
        runs = tuple(
            Run(run.t / self.time_unit, self.outputs.to_standard(run.y), self.inputs.to_standard(run.u), run.name)
            for run in records
        )
        outputs, inputs = (tuple(Channel(c.name) for c in of) for of in (records.outputs, records.inputs))
        return replace(records, runs=runs, outputs=outputs, inputs=inputs, time=Channel(records.time.name, "τ"))

    def from_standard(self, records: Records, like: Records) -> Records:
        """Return records in physical units again, with the channels and the time of `like`."""
        runs = tuple(
            Run(run.t * self.time_unit, self.outputs.from_standard(run.y), self.inputs.from_standard(run.u), run.name)
            for run in records
        )
        return replace(like, runs=runs)

    def as_json(self) -> dict[str, Any]:
        """Return JSON types; `from_json` gives the same numbers again, bit by bit."""
        sides = {"outputs": self.outputs, "inputs": self.inputs}
        numbers = {name: {"mean": one.mean.tolist(), "std": one.std.tolist()} for name, one in sides.items()}
        return {**numbers, "time_unit": self.time_unit}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Scaling:
        """Return the scaling that `as_json` wrote."""
        sides = (found[name] for name in ("outputs", "inputs"))
        outputs, inputs = (Affine(*(np.array(one[key], np.float64) for key in ("mean", "std"))) for one in sides)
        return cls(outputs, inputs, float(found["time_unit"]))


def check_for_training(records: Records, rows: int = 2) -> None:
    """Refuse records that nothing can be learned from.

    Parameters
    ----------
    records
        What a model is to be trained on.
    rows
        The longest run must have so many.

    Raises
    ------
    DataError
        For too few rows, and for a channel without any value or always of one value, by name.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries import Records, check_for_training
    >>> t = np.arange(20.0)
    >>> check_for_training(Records.from_arrays(t, np.sin(t)[:, None], outputs=["x"]))
    """
    longest = max(map(len, records))
    if longest < max(rows, 2):
        raise DataError(f"too few rows, the longest run has {longest}, needs at least {max(rows, 2)}")
    values = np.concatenate([np.concatenate((run.u, run.y), 1) for run in records])
    for channel, x in zip(records.channels, values.T, strict=True):
        x = x[~np.isnan(x)]
        if not len(x):
            raise DataError(f"column {channel.name!r} has no value in the training rows")
        # Equal numbers may have a standard deviation of rounding errors.
        if x.std() <= 1e-12 * abs(x.mean()):
            raise DataError(f"column {channel.name!r} does not vary in the training rows")
