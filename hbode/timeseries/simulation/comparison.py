"""The same records simulated by simpler models."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...models import parameter_count
from ...reporting.tables import plain
from ..baselines import LinearARX, LinearStateSpace, LSTMSimulator, Persistence, Simulator
from ..records import Array, DataError, Records
from ..scores import SimulationScores, simulation_scores
from ..training import Diverged
from .free_run import FreeRun, Identified

BASELINES = ("none", "linear", "auto", "all")
"""Which are fitted: auto is all that take less than a minute."""
LONGEST = 60.0
"""Seconds that an LSTM may take to be fitted with "auto"."""
TRIAL = 30
"""The LSTM is timed on this part of its steps."""


@dataclass(frozen=True, eq=False)
class Compared:
    """What a model made of the test records; `note` says why there is nothing, where that is so.

    Examples
    --------
    >>> from hbode.timeseries.simulation import Compared
    >>> Compared("linear ODE").note
    ''
    """

    name: str
    parameters: str = "–"
    seconds: float = float("nan")
    y: list[Array] = field(default_factory=list)
    scores: SimulationScores | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return JSON types."""
        s = self.scores
        scores = {} if s is None else {"rmse": s.rmse.tolist(), "nrmse": s.nrmse.tolist(), "joined": s.joined_nrmse}
        return dict(plain({"parameters": self.parameters, "seconds": self.seconds, **scores, "note": self.note}))


def compare(
    identifier: Identified,
    train: Records,
    free_run: FreeRun,
    seconds: float,
    which: str = "auto",
    say: Callable[[str], None] = print,
) -> list[Compared]:
    """Fit baselines to the training records and simulate what a fitted identifier simulated.

    Parameters
    ----------
    identifier
        Fitted, in so many `seconds`.
    train
        What it was fitted to.
    free_run
        Its simulation of the test records.
    which
        One of `BASELINES`.
    say
        Is told what is being fitted.

    Returns
    -------
    list of Compared
        The identifier first. A baseline that cannot be fitted to such records has a note instead of scores.

    Examples
    --------
    >>> from hbode.timeseries import SystemIdentifier, structure_records
    >>> from hbode.timeseries.simulation import FreeRun, compare
    >>> records = structure_records(200, seed=0)
    >>> identifier = SystemIdentifier("hbnode", evaluations=1, initial=10, stretch=50, hidden=2, random_state=0)
    >>> identifier = identifier.fit(records)
    >>> free_run = FreeRun.of(identifier, structure_records(100, seed=1), 10)
    >>> [one.name for one in compare(identifier, records, free_run, 1.0, "none", say=lambda line: None)]
    ['HBNODE']
    """
    if which not in BASELINES:
        raise ValueError(f"which must be one of {', '.join(BASELINES)}, got {which!r}")
    size, members = parameter_count(identifier.members_[0]), len(identifier.members_)
    count = f"{members} × {size}" if members > 1 else str(size)
    found = [Compared(identifier.law_.model.upper(), count, seconds, free_run.simulated.y, free_run.scores)]
    if which == "none":
        return found
    initial = free_run.initial
    models: dict[str, Simulator] = {
        "training mean": Persistence("mean"),
        "last value": Persistence("last"),
        "linear ARX": LinearARX(tuple(p for p in LinearARX().orders if p <= initial)),
        "linear state space": LinearStateSpace(initial=initial),
    }
    if train.step is None:  # the other linear ones need equal steps
        models["linear ODE"] = identifier.linear()
    for name, model in models.items():
        say(f"Fitting for comparison: {name} …")
        found.append(_fitted(name, model, train, free_run))
    if which != "linear":
        say("Fitting for comparison: LSTM …")
        found.append(_lstm(size, train, free_run, limited=which == "auto"))
    return found


def _fitted(name: str, model: Simulator, train: Records, free_run: FreeRun) -> Compared:
    started = time.perf_counter()
    try:
        model.fit(train)
        seconds = time.perf_counter() - started
        y = model.simulate(free_run.records, free_run.initial)
    except (DataError, Diverged) as error:
        return Compared(name, note=str(error))
    scores = simulation_scores([run.y for run in free_run.records], y, free_run.initial)
    return Compared(name, str(model.parameters_), seconds, y, scores)


def _lstm(size: int, train: Records, free_run: FreeRun, limited: bool) -> Compared:
    """Fit an LSTM of so many parameters, or say that it would take too long."""
    initial = free_run.initial
    whole = LSTMSimulator.of_size(size, train, initial=initial)
    if limited:
        part = LSTMSimulator.of_size(
            size, train, initial=initial, steps=whole.steps // TRIAL, checks=whole.checks // TRIAL
        )
        trial = _fitted("LSTM", part, train, free_run)
        if trial.seconds * TRIAL > LONGEST:
            return Compared("LSTM", note=f"left out, it would take about {trial.seconds * TRIAL:.0f} s")
    return _fitted("LSTM", whole, train, free_run)
