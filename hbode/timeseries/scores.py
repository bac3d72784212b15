"""Scores of free-run simulations against what was measured, and of their uncertainty bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .records import Array


@dataclass(frozen=True)
class SimulationScores:
    """Errors of a simulation, each of shape (Cy,) but the joined ones.

    Attributes
    ----------
    rmse
        Root mean square error in the units of the outputs.
    nrmse
        `rmse` over the standard deviation of what was measured, about the mean of the scored samples.
    joined_rmse, joined_nrmse
        Roots of the means over the outputs of the squares. The first makes sense for outputs of one unit.
    """

    rmse: Array
    nrmse: Array
    joined_rmse: float
    joined_nrmse: float

    @property
    def fit(self) -> Array:
        """100 (1 - nrmse) for each output: 100 is perfect, 0 is what the mean would reach."""
        return 100 * (1 - self.nrmse)

    @property
    def joined_fit(self) -> float:
        """100 (1 - joined_nrmse)."""
        return 100 * (1 - self.joined_nrmse)


@dataclass(frozen=True)
class BandScores:
    """How often a band holds what was measured, and its mean width in the units of the outputs, (Cy,) each."""

    coverage: Array
    width: Array
    joined_coverage: float


def simulation_scores(measured: Sequence[Array], simulated: Sequence[Array], skip: int = 0) -> SimulationScores:
    """Compare simulated with measured outputs; all samples of all runs count alike.

    Parameters
    ----------
    measured, simulated
        One array (T, Cy) for each run. NaN in what was measured is a missing value, which is left out. A simulation
        that is not finite has an infinite error.
    skip
        Samples at the start of each run that are not scored: those that the model saw.

    Raises
    ------
    ValueError
        For shapes that do not fit, and for an output without a measured value to score.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.array([[0.0], [2.0], [np.nan], [4.0]])
    >>> scores = simulation_scores([y], [np.array([[9.0], [1.0], [1.0], [5.0]])], skip=1)
    >>> float(scores.rmse[0]), float(scores.fit[0])
    (1.0, 0.0)
    """
    y, of_model = _scored(skip, measured=measured, simulated=simulated)
    known = ~np.isnan(y)
    error = np.where(np.isfinite(of_model), y - of_model, np.inf)
    rmse = np.sqrt(np.mean(error**2, 0, where=known))
    with np.errstate(divide="ignore", invalid="ignore"):
        nrmse = rmse / np.std(y, 0, where=known)
    return SimulationScores(rmse, nrmse, *(float(np.sqrt(np.mean(x**2))) for x in (rmse, nrmse)))


def band_scores(measured: Sequence[Array], lower: Sequence[Array], upper: Sequence[Array], skip: int = 0) -> BandScores:
    """Return how often ``lower <= measured <= upper``, and how wide the band is; see `simulation_scores`."""
    y, low, high = _scored(skip, measured=measured, lower=lower, upper=upper)
    known = ~np.isnan(y)
    held = (low <= y) & (y <= high)
    width = np.mean(high - low, 0, where=known)
    return BandScores(np.mean(held, 0, where=known), width, float(held[known].mean()))


def _scored(skip: int, **given: Sequence[Array]) -> list[Array]:
    """Return the rows to score of all runs, one below the other, for each of what was given."""
    if skip < 0:
        raise ValueError(f"skip must not be negative, got {skip}")
    shapes = {name: [np.shape(x) for x in runs] for name, runs in given.items()}
    first = shapes["measured"]
    for name, found in shapes.items():
        if found != first or any(len(shape) != 2 for shape in found) or not found:
            raise ValueError(f"measured and {name} must be as many arrays (T, Cy) alike, got {first} and {found}")
    y, *rest = (np.concatenate([x[skip:] for x in runs]) for runs in given.values())
    empty = np.flatnonzero(np.isnan(y).all(0))
    if len(empty):
        raise ValueError(f"measured has no value of output {empty[0]} from sample {skip} on")
    return [y, *rest]
