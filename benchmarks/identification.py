"""Identification of measured driven systems: baselines, models and published figures by the official protocols.

One table for each data set: root mean square errors of free-run simulations of the test records, of which a model sees
the inputs and the first n outputs. Models that are random are trained with several seeds: median (least–largest).

    python benchmarks/identification.py                         all that is in ../shared/data
    python benchmarks/identification.py silverbox tanks --seeds 3 --models lstm,state-space

Cut down: linear models of few orders on the large records, the LSTM 1,500 steps (the published ones take hundreds of
thousands), one seed of it and of `default` on the large records. Without `default,identifier` the table takes eight
minutes on one core, each seed of `identifier` on the Silverbox some ten.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import header, table
from _peers_identification import PEERS
from _systems import DATA, LOADERS, System

from hbode.timeseries import SystemIdentifier
from hbode.timeseries.baselines import LinearARX, LinearStateSpace, LSTMSimulator, Persistence, Simulator
from hbode.timeseries.scores import simulation_scores

Build = Callable[[System, int], Simulator | None]
"""``build(system, seed)``: an unfitted model, or None where it is not for such a record."""

LARGE = 20_000
"""Training rows from which on the models are cut down."""


def orders(system: System, small: Sequence[int], large: Sequence[int]) -> Sequence[int]:
    """Return candidates for the order of a linear model, none above the rows that it may see."""
    chosen = large if system.train.total_rows > LARGE else small
    return [p for p in chosen if p <= system.initial]


def state_space(system: System, seed: int) -> Simulator:
    """Return a linear state space of orders and a horizon that suit the record."""
    many = len(system.train.outputs) > 1
    return LinearStateSpace(
        orders(system, (4, 8, 12) if many else (1, 2, 3, 4, 6, 8), (6, 12) if many else (2, 4)),
        horizon=system.horizon,
        refinements=8 if many and system.train.total_rows > LARGE else 30,
        initial=system.initial,
    )


TANKS = {"model": "node", "states": 2, "readout": "linear", "limits": (None, 10.0)}
KINKS = {"degree": 1, "hidden": 4, "unit": "relu", "between": "hold", "substeps": 1}
SETTINGS: dict[str, dict[str, Any]] = {
    "Silverbox": {
        "model": "hbnode",
        "hidden": 12,
        "between": "quintic",
        "penalty": 1e-7,
        "evaluations": 80,
        "rows": None,
    },
    "cascaded tanks": TANKS | KINKS,
    "coupled drives": {"model": "hbnode", "states": 2, "readout": "square"} | KINKS,
}
"""Of `SystemIdentifier`, by the validation error alone."""


def identifier(system: System, seed: int) -> Simulator | None:
    """Return one model with the settings of its record; None where there are none."""
    settings = SETTINGS.get(system.name)
    return settings and SystemIdentifier(**settings, initial=system.initial, seeds=1, random_state=seed)


def by_default(system: System, seed: int) -> Simulator | None:
    """Return the ensemble of three seeds that `hbode fit` makes without more."""
    return SystemIdentifier(initial=system.initial, random_state=3 * seed) if system.name in SETTINGS else None


def grey_box(system: System, seed: int) -> Simulator | None:
    """Return a heavy ball with a cubic force, fitted over windows of 150 samples."""
    return SystemIdentifier("hbnode", degree=3, hidden=0, stretch=150, rows=None, seeds=1, initial=system.initial)


MODELS: dict[str, tuple[int, int, Build]] = {
    "mean": (1, 1, lambda system, seed: Persistence("mean")),
    "persistence": (1, 1, lambda system, seed: Persistence()),
    "arx": (1, 1, lambda system, seed: LinearARX(orders(system, (1, 2, 3, 4, 6, 8, 10), (2, 4, 8, 16, 32)))),
    "state-space": (1, 1, state_space),
    "lstm": (3, 1, lambda system, seed: LSTMSimulator(initial=system.initial, seed=seed)),
    "grey-box": (1, 1, grey_box),
    "default": (3, 1, by_default),
    "identifier": (3, 3, identifier),
    # Every simulator enters here with one more line: its seeds on small and on large records, and how it is built.
} | {name: (3, 1, build) for name, build in PEERS.items()}


def error(system: System, model: Simulator, name: str) -> float:
    """Return the root mean square error of a test in the unit of the report."""
    records = system.tests[name]
    simulated = model.simulate(records, system.initial)
    if not system.each:
        scores = simulation_scores([run.y for run in records], simulated, system.initial)
        return scores.joined_rmse * system.factor
    runs = zip(records, simulated, strict=True)
    each = [simulation_scores([run.y], [of_model], system.initial).rmse for run, of_model in runs]
    return float(np.mean(each)) * system.factor


def spread(values: Sequence[float]) -> str:
    """Return the median, and the range if there is one."""
    if math.isnan(values[0]):
        return ""
    middle = f"{statistics.median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g}–{max(values):.3g})"


def rows_of(system: System, name: str, seeds: int) -> list[str] | None:
    """Return a row of the table: model, what was chosen, parameters, seconds, errors."""
    small, large, build = MODELS[name]
    errors: list[list[float]] = [[] for _ in system.tests]
    seconds = []
    for seed in range(min(seeds, large if system.train.total_rows > LARGE else small)):
        start = time.process_time()
        model = build(system, seed)
        if model is None:
            return None
        model.fit(system.train)
        seconds.append(time.process_time() - start)
        for found, test in zip(errors, system.tests, strict=True):
            found.append(error(system, model, test))
        print(".", end="", file=sys.stderr, flush=True)
    order = getattr(model, "order_", None)
    title = f"{name}, order {order}" if order else name
    return [title, str(model.parameters_), f"{statistics.median(seconds):.1f}", *map(spread, errors)]


def report(system: System, names: Sequence[str], seeds: int) -> str:
    """Return the table of a data set, published figures below."""
    rows = [row for name in names if (row := rows_of(system, name, seeds)) is not None]
    rows += [[f"published: {name}", "", "", *(spread([x]) for x in found)] for name, found in system.published.items()]
    shapes = f"{len(system.train.inputs)} in, {len(system.train.outputs)} out, {len(system.train)} training runs"
    title = f"{system.name}: {shapes}, {system.train.total_rows:,} rows, n = {system.initial}"
    columns = ["model", "parameters", "training (CPU s)", *(f"{test} ({system.unit})" for test in system.tests)]
    return f"{title}\n{table(columns, rows)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", help=f"of {', '.join(LOADERS)}; all by default")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="at most; large records have fewer (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the records (default: %(default)s)")
    arguments = parser.parse_args()
    for kind, given, known in (
        ("systems", arguments.systems, LOADERS),
        ("--models", arguments.models.split(","), MODELS),
    ):
        unknown = [name for name in given if name not in known]
        if unknown:
            parser.error(f"{kind}: {unknown[0]!r} is none of {', '.join(known)}")
    print(header("Free-run simulation of measured systems, RMSE"))
    for name in arguments.systems or LOADERS:
        try:
            system = LOADERS[name](arguments.data)
        except (FileNotFoundError, ValueError) as problem:
            print(f"{name}: left out, {problem}\n")
            continue
        print(report(system, arguments.models.split(","), arguments.seeds), flush=True)


if __name__ == "__main__":
    main()
