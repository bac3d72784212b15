"""Forecasts of an oscillator that noise moves, of known law: bands of the process beside bands of past errors.

h'' = -h - γ h' + σ dW/dt with γ = .3 and σ = .7, seen every .4 units of time with noise of .1. Each seed has 1,500 rows
to learn from and another record to be tested on: forecasts 40 rows ahead from every 40th, each from 25 rows. Beside the
forecasters: the exact law, known, filtered by Kalman's recursion, which no method can beat on average; an
autoregression whose order the last fifth of the rows chooses, with the normal law of its residuals; and the stationary
law. The continuous ranked probability score of draws, or of normals as wide as the bands, and the share inside 90 %;
of the latent SDE by its bands, and by the spread of its paths, which is what they are calibrated from.

    python benchmarks/stochastic_forecasts.py --seeds 2 3 4
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from _common import header, table
from scipy.linalg import expm
from scipy.signal import lfilter
from scipy.stats import norm

from hbode import HeavyBall, sdeint
from hbode.timeseries import HeavyBallForecaster, LatentSDEForecaster, Records
from hbode.timeseries.records import Array

GAMMA, SIGMA, NOISE, STEP = 0.3, 0.7, 0.1, 0.4
ROWS, INITIAL, HORIZON = 1500, 25, 40
Z = float(norm.ppf(0.95))
Law = tuple[Array, Array]
"""Means and standard deviations of forecasts (W, HORIZON)."""


def record(seed: int) -> Array:
    """Return measured values (ROWS,), by BAOAB at a tenth of the step, from the stationary law."""
    system = HeavyBall(lambda t, h: -h, GAMMA, trainable=False)
    t = torch.arange(ROWS + 100, dtype=torch.float64) * STEP
    h0 = torch.zeros(1, dtype=torch.float64)
    h = torch.as_tensor(sdeint(system, SIGMA, h0, t, step_size=STEP / 10, seed=seed).h)[100:, 0].numpy()
    made: Array = h + NOISE * np.random.default_rng(seed).normal(size=ROWS)
    return made


def exact(seen: Array) -> Law:
    """Return the law of what follows on rows (W, INITIAL), by Kalman's recursion from the stationary law."""
    a, d = np.array([[0, 1], [-1, -GAMMA]]), np.diag([0, SIGMA**2])
    whole = expm(STEP * np.block([[-a, d], [np.zeros((2, 2)), a.T]]))  # Van Loan, 1978
    push = whole[2:, 2:].T
    spread = push @ whole[:2, 2:]
    mean, covariance = np.zeros((len(seen), 2)), np.eye(2) * SIGMA**2 / (2 * GAMMA)
    means, sds = [], []
    for i in range(INITIAL + HORIZON):
        if i:
            mean, covariance = mean @ push.T, push @ covariance @ push.T + spread
        if i < INITIAL:
            gain = covariance[:, 0] / (covariance[0, 0] + NOISE**2)
            mean = mean + np.outer(seen[:, i] - mean[:, 0], gain)
            covariance = covariance - np.outer(gain, covariance[0])
        else:
            means.append(mean[:, 0])
            sds.append(math.sqrt(covariance[0, 0] + NOISE**2))
    return np.stack(means, 1), np.broadcast_to(sds, (len(seen), HORIZON))


def autoregression(y: Array, seen: Array) -> Law:
    """Return the law of a linear autoregression with normal residuals."""

    def fit(rows: Array, order: int) -> tuple[Array, Array]:
        lags = np.stack(
            [rows[order - k : len(rows) - k] for k in range(1, order + 1)] + [np.ones(len(rows) - order)], 1
        )
        found = np.linalg.lstsq(lags, rows[order:], rcond=None)[0]
        return found, rows[order:] - lags @ found

    def ahead(order: int) -> float:
        found, _ = fit(y[: len(y) * 4 // 5], order)
        rest = y[len(y) * 4 // 5 - order :]
        lags = np.stack([rest[order - k : len(rest) - k] for k in range(1, order + 1)], 1)
        return float(np.mean((rest[order:] - lags @ found[:-1] - found[-1]) ** 2))

    order = min(range(1, INITIAL), key=ahead)
    found, left = fit(y, order)
    rows = seen
    for _ in range(HORIZON):
        rows = np.column_stack((rows, rows[:, -1 : -order - 1 : -1] @ found[:-1] + found[-1]))
    weights = lfilter([1.0], np.append(1.0, -found[:-1]), np.eye(1, HORIZON)[0])
    sds = np.sqrt(np.cumsum(weights**2) * left.var())
    return rows[:, INITIAL:], np.broadcast_to(sds, (len(seen), HORIZON))


def normal_scores(law: Law, y: Array) -> tuple[Array, Array]:
    """Return the scores of normal laws and what is inside their central 90 %, (W, HORIZON)."""
    mean, sd = law
    z = (y - mean) / sd
    return sd * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / math.sqrt(math.pi)), np.abs(z) <= Z


def sampled_scores(paths: Array, half: Array, y: Array) -> tuple[Array, Array]:
    """Return the same of draws (M, W, HORIZON) with bands of their own."""
    ordered, count = np.sort(paths, 0), len(paths)
    rank = (2 * np.arange(1, count + 1) - count - 1).reshape(-1, 1, 1)
    crps = np.abs(paths - y).mean(0) - (rank * ordered).sum(0) / count**2
    return crps, np.abs(y - paths.mean(0)) <= half


Models = dict[str, Callable[[], tuple[Array, Array]]]


def models_of(seed: int, epochs: int) -> Models:
    """Return what each model's scores and coverage are, (W, HORIZON) each, as functions that fit it first."""
    y, other, t = record(seed), record(1000 + seed), STEP * np.arange(ROWS)
    cut = np.stack([other[a : a + INITIAL + HORIZON] for a in range(0, ROWS - INITIAL - HORIZON, 40)])
    seen, truth = cut[:, :INITIAL], cut[:, INITIAL:]
    records, tests = Records.from_arrays(t, y), Records.from_arrays([t[:INITIAL]] * len(seen), list(seen))

    @cache
    def latent() -> tuple[Array, Array]:
        model = LatentSDEForecaster(degree=1, initial=INITIAL, epochs=epochs, random_state=seed, verbose=True)
        made = model.fit(records).forecast(tests, HORIZON)
        mode, (process, measured) = model.describe().modes[0], (float(x[0]) for x in model.noise())
        omega = 2 * math.pi * mode.frequency
        gamma = 2 * omega * mode.damping_ratio
        print(
            f"seed {seed}: ω {omega:.3f} (1), γ {gamma:.3f} ({GAMMA}), σ {process:.3f} ({SIGMA}), "
            f"noise {measured:.3f} ({NOISE}); epoch {model.history_.best} of {epochs}",
            flush=True,
        )
        return np.stack([one.members[..., 0] for one in made], 1), np.stack([one.half_width[:, 0] for one in made])

    def of_bands() -> tuple[Array, Array]:
        paths, half = latent()
        return normal_scores((paths.mean(0), half / Z), truth)

    def of_paths() -> tuple[Array, Array]:
        paths, _ = latent()
        return sampled_scores(paths, np.quantile(np.abs(paths - paths.mean(0)), 0.9, axis=0), truth)

    def of_determined() -> tuple[Array, Array]:
        model = HeavyBallForecaster("hbnode", degree=1, hidden=0, initial=INITIAL, seeds=1, random_state=seed)
        made = model.fit(records).forecast(tests, HORIZON)
        y, half = (np.stack([getattr(one, of)[:, 0] for one in made]) for of in ("y", "half_width"))
        return normal_scores((y, half / Z), truth)

    stationary = np.full_like(truth, y.mean()), np.full_like(truth, y.std())
    return {
        "exact law, known": lambda: normal_scores(exact(seen), truth),
        "`LatentSDEForecaster`, bands": of_bands,
        "`LatentSDEForecaster`, paths": of_paths,
        "`HeavyBallForecaster`": of_determined,
        "autoregression": lambda: normal_scores(autoregression(y, seen), truth),
        "stationary law": lambda: normal_scores(stationary, truth),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--epochs", type=int, default=60, help="of the latent SDE")
    given = parser.parse_args()
    print(header("Forecasts of an oscillator that noise moves"))
    found: dict[str, list[list[float]]] = {}
    for seed in given.seeds:
        for name, run in models_of(seed, given.epochs).items():
            began = time.process_time()
            crps, inside = run()
            seconds = time.process_time() - began
            leads = [float(crps[:, lead].mean()) for lead in (0, 4, 19, 39)]
            row = [*leads, float(crps.mean()), 100 * float(inside.mean()), 100 * float(inside[:, -20:].mean()), seconds]
            print(name, *(f"{x:.4g}" for x in row), flush=True)
            found.setdefault(name, []).append(row)
    names = ["model", *(f"CRPS {lead} ahead" for lead in (1, 5, 20, 40)), "mean", "inside 90 %", "of 21 to 40", "CPU s"]
    rows = [
        [name, *(f"{np.mean(x):.3g} ({min(x):.3g}–{max(x):.3g})" for x in zip(*of_seeds, strict=True))]
        for name, of_seeds in found.items()
    ]
    print("\nMeans (range) over seeds\n")
    print(table(names, rows))


if __name__ == "__main__":
    main()
