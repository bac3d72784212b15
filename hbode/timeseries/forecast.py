"""`hbode demo --data`: learn a series with four kinds of dynamics, forecast it, report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..models import SYSTEMS, SolverSettings, equal_sizes
from ..reporting.results_folder import results_in
from ..reporting.tables import aligned
from .evaluation import forecast_error, persistence
from .figures import save_figures
from .learners import Task, build, learn_all
from .records import DataError, Records, read_records
from .report import MADE_BY, failures, markdown, metrics, plain_table, stiffness_rows, time_unit
from .stiffness import momentum
from .training import TrainSettings
from .windows import Dataset, Protocol, make_dataset

REFERENCE = "hbnode"
METRICS = "metrics.json"


@dataclass(frozen=True)
class ForecastSettings:
    """Everything that a forecast can be told.

    Examples
    --------
    >>> from pathlib import Path
    >>> from hbode.timeseries import ForecastSettings
    >>> ForecastSettings(Path("record.csv"), models=("hbnode",)).models
    ('hbnode',)
    """

    data: Path
    """A file that `read_records` reads."""
    models: tuple[str, ...] = tuple(SYSTEMS)
    time: str | None = None
    columns: tuple[str, ...] | None = None
    delimiter: str | None = None
    """How it is read."""
    out: Path = Path("hbode-demo")
    seed: int = 0
    device: str = "cpu"
    jobs: int = 1
    size: int = 16
    """State channels of the HBNODE, which sets the number of parameters of all."""
    protocol: Protocol = field(default_factory=Protocol)
    """How the data become windows."""
    solver: SolverSettings = field(default_factory=SolverSettings)
    training: TrainSettings = field(default_factory=TrainSettings)

    def as_json(self) -> dict[str, Any]:
        """Return what does not show elsewhere in metrics.json."""
        return {
            "models": list(self.models),
            "data": str(self.data),
            "time": self.time,
            "columns": self.columns,
            "delimiter": self.delimiter,
            "seed": self.seed,
            "device": self.device,
            "jobs": self.jobs,
            "solver": vars(self.solver),
            "training": vars(self.training),
        }


def run_forecast(
    settings: ForecastSettings, say: Callable[[str], None] = print, started: float | None = None
) -> dict[str, Any]:
    """Learn, forecast and write its results folder.

    Parameters
    ----------
    settings
        What to do.
    say
        Takes lines of text for the user.
    started
        When the program started, by `time.perf_counter`, for the total in the report.

    Returns
    -------
    dict
        What metrics.json holds.

    Raises
    ------
    DataError
        If the data cannot be used.
    OutputError
        If the results folder cannot be written.
    RuntimeError
        If no model could be trained.

    Examples
    --------
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from hbode.timeseries import ForecastSettings, Protocol, TrainSettings, run_forecast
    >>> np.savetxt("record.csv", np.sin(0.3 * np.arange(400)), header="x", comments="")
    >>> short = {"protocol": Protocol(observed=8, forecast=2, max_train=16), "training": TrainSettings(epochs=1)}
    >>> found = run_forecast(ForecastSettings(Path("record.csv"), models=("node",), **short), say=lambda line: None)
    >>> sorted(found["models"])
    ['node']
    """
    started = time.perf_counter() if started is None else started
    records = load(settings)
    try:
        data = make_dataset(records, settings.protocol, settings.seed)
    except DataError as error:
        raise DataError(f"{records.source}: {error}") from None
    with results_in(settings.out, MADE_BY, METRICS) as folder:
        tasks = make_tasks(settings, len(data.records.outputs))
        _introduce(data, tasks, say)
        learned = learn_all(tasks, data, settings.jobs)
        baseline = forecast_error(
            persistence(data.test, data.protocol.observed), data.test.x[:, data.protocol.observed :]
        )
        if all(one.error is None for one in learned):
            raise RuntimeError("; ".join(failures(learned)))
        theory = momentum()
        figures = save_figures(folder, data, learned, baseline.mse, theory)
        seconds = time.perf_counter() - started
        found = metrics(data, learned, baseline, theory, settings.as_json(), seconds)
        (folder / METRICS).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        page = markdown(data, learned, baseline, theory, seconds, figures)
        (folder / "summary.md").write_text(page, encoding="utf-8")
    say("")
    say(plain_table(learned, baseline))
    say("")
    say("\n".join(aligned(stiffness_rows(learned))))
    for line in failures(learned):
        say(line)
    say("")
    files = [METRICS, "summary.md", *figures]
    say(f"Results: {settings.out}/ ({', '.join(files)}), after {seconds:.0f} s.")
    return found


def load(settings: ForecastSettings) -> Records:
    """Return the records that are to be learned."""
    s = settings
    return read_records(s.data, time=s.time, columns=s.columns, delimiter=s.delimiter)


def make_tasks(settings: ForecastSettings, channels: int) -> list[Task]:
    """Return one task for each model, sized to equal parameter counts."""
    names = list(settings.models)
    sizes = equal_sizes(
        lambda name, size, hidden: build(name, size, hidden, channels, settings.solver), names, REFERENCE, settings.size
    )
    return [
        Task(name, *sizes[name], settings.solver, settings.training, settings.seed, settings.device) for name in names
    ]


def _introduce(data: Dataset, tasks: Sequence[Task], say: Callable[[str], None]) -> None:
    records, protocol = data.records, data.protocol
    say(f"Data: {records.source}; {records.total_rows} rows, {len(records.outputs)} channels.")
    for note in records.notes:
        say(f"  {note}")
    say(
        f"Windows of {protocol.observed} samples to forecast the next {protocol.forecast}: {len(data.train)} for "
        f"training, {len(data.validation)} for validation, {len(data.test)} for test; time unit {time_unit(data)}."
    )
    solver, training = tasks[0].solver, tasks[0].training
    say(f"Each model: {training.epochs} epochs, {solver.method}, rtol = atol = {solver.rtol:g}, {solver.gradient}.")
