"""Identification of measured driven systems: baselines, models and published figures by the official protocols.

One table for each data set: root mean square errors of free-run simulations of the test records, of which a model sees
the inputs and the first n outputs. Models that are random are trained with several seeds: median (least–largest).

    python benchmarks/identification.py                         all that is in ../shared/data
    python benchmarks/identification.py silverbox tanks --seeds 3 --models lstm,state-space

Cut down to keep the table below eight minutes on one core: linear models of few orders on the large records, the LSTM
1,500 steps (the published ones take hundreds of thousands), and one seed of it on the large records.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from _common import header, table
from _peers_identification import PEERS
from _systems import DATA, LOADERS, System

from hbode.timeseries.baselines import LinearARX, LinearStateSpace, LSTMSimulator, Persistence, Simulator
from hbode.timeseries.scores import simulation_scores

Build = Callable[[System, int], Simulator]
"""``build(system, seed)``: an unfitted model."""

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
        orders(system, (4, 8, 12, 16, 20) if many else (1, 2, 3, 4, 6, 8), (6, 12) if many else (2, 4)),
        horizon=system.horizon,
        refinements=8 if many else 20,
        initial=system.initial,
    )


MODELS: dict[str, tuple[bool, Build]] = {
    "mean": (False, lambda system, seed: Persistence("mean")),
    "persistence": (False, lambda system, seed: Persistence()),
    "arx": (False, lambda system, seed: LinearARX(orders(system, (1, 2, 3, 4, 6, 8, 10), (2, 4, 8, 16, 32)))),
    "state-space": (False, state_space),
    "lstm": (True, lambda system, seed: LSTMSimulator(initial=system.initial, seed=seed)),
    # Every simulator enters here with one more line: whether it is random, and how it is built.
} | {name: (True, build) for name, build in PEERS.items()}


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


def rows_of(system: System, name: str, seeds: int) -> list[str]:
    """Return a row of the table: model, what was chosen, parameters, seconds, errors."""
    random, build = MODELS[name]
    errors: list[list[float]] = [[] for _ in system.tests]
    seconds = []
    for seed in range(seeds if random else 1):
        start = time.process_time()
        model = build(system, seed).fit(system.train)
        seconds.append(time.process_time() - start)
        for found, test in zip(errors, system.tests, strict=True):
            found.append(error(system, model, test))
        print(".", end="", file=sys.stderr, flush=True)
    order = getattr(model, "order_", None)
    title = f"{name}, order {order}" if order else name
    return [title, str(model.parameters_), f"{statistics.median(seconds):.1f}", *map(spread, errors)]


def report(system: System, names: Sequence[str], seeds: int) -> str:
    """Return the table of a data set, published figures below."""
    if system.train.total_rows > LARGE:
        seeds = min(seeds, 1)
    rows = [rows_of(system, name, seeds) for name in names]
    rows += [[f"published: {name}", "", "", *(spread([x]) for x in found)] for name, found in system.published.items()]
    shapes = f"{len(system.train.inputs)} in, {len(system.train.outputs)} out, {len(system.train)} training runs"
    title = f"{system.name}: {shapes}, {system.train.total_rows:,} rows, n = {system.initial}"
    columns = ["model", "parameters", "training (CPU s)", *(f"{test} ({system.unit})" for test in system.tests)]
    return f"{title}\n{table(columns, rows)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", help=f"of {', '.join(LOADERS)}; all by default")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="of small records; 1 of large ones (default: %(default)s)")
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
