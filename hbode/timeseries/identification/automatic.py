"""What "auto" tries, and which law it takes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from sklearn.base import clone

from ...lazy import optional
from ..records import Records

SMALL = 4000
"""Rows up to which blocks of them are held out, and other laws than the first are tried."""
GOOD = 1e-3
"""The share of the variance that a model may miss without others being tried."""
NOISE = 0.5
"""Nor where so many of the errors of its free runs are independent: what a law does not explain stays for a while."""
AUTO: tuple[dict[str, Any], ...] = (
    {"model": "hbnode"},
    {"model": "node", "states": 2, "readout": "linear"},
    {"model": "hbnode", "states": 2, "readout": "square"},
    {"model": "hbnode", "states": 2, "readout": "linear"},
)
"""The laws that "auto" tries: an oscillator in the outputs, and hidden states with kinks, fed by a held input."""
HIDDEN: dict[str, Any] = {"degree": 1, "hidden": 4, "unit": "relu", "between": "hold", "substeps": 1}
OFTEN = 0.01
"""The share of an output's values at an extreme that makes this a limit of what is shown."""


def choose(identifier: Any, records: Records) -> Any:
    """Return the law of `AUTO` whose free runs miss the validation rows least, fitted with the first seed."""
    limits = saturation(records)

    def fitted(law: dict[str, Any]) -> Any:
        hidden = {} if len(law) == 1 else {**HIDDEN, "limits": limits}
        one = clone(identifier).set_params(**law, **hidden, seeds=1, jobs=1)
        one._held_out = identifier._held_out
        with suppress(RuntimeError):
            one._fit_law(records, {})
            return one
        return None

    first = fitted(AUTO[0])
    tried = [] if first is None else [first]
    good = tried and (first.fits_[0].validation < GOOD or bool((first.bands_.independent > NOISE).all()))
    if not good and records.total_rows <= SMALL:
        joblib = optional("joblib")
        others = joblib.Parallel(n_jobs=min(identifier.jobs, len(AUTO) - 1))(
            joblib.delayed(fitted)(law) for law in AUTO[1:]
        )
        tried += [one for one in others if one is not None]
    if not tried:
        raise RuntimeError("no law of AUTO simulates the validation rows without leaving all bounds")
    # Not by the error in training, whose initial states are fitted: a simulation has to find them.
    return min(tried, key=lambda one: float(np.mean((one.validation_error_ / one.scaling_.outputs.std) ** 2)))


def saturation(records: Records) -> tuple[float | None, float | None]:
    """Return the least and the greatest value of one output, where it has it so often that it seems a limit."""
    if len(records.outputs) != 1:
        return None, None
    y = np.concatenate([run.y[:, 0] for run in records])
    y = y[~np.isnan(y)]
    often = [np.mean(y == end) > OFTEN for end in (y.min(), y.max())]
    low, high = (float(end) if many else None for many, end in zip(often, (y.min(), y.max()), strict=True))
    return low, high
