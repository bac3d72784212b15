"""Forecasts with bands that come from noise of the process, against laws that are known."""

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone

from hbode.timeseries import DataError, HeavyBallForecaster, LatentSDEForecaster, Records

K, GAMMA, SIGMA, NOISE = 1.3, 0.6, 0.5, 0.2
SETTINGS = {"degree": 1, "hidden": 0, "initial": 12, "epochs": 2, "paths": 300}


def record(rows=240):
    """Return rows at irregular times, some without a value, of an output in mm about 5."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.choice(np.arange(rows * 5 // 4), rows, replace=False)) / 2
    y = 5 + 3 * np.sin(0.8 * t + 0.1 * rng.normal(size=rows).cumsum()) + 0.1 * rng.normal(size=rows)
    y[100:103] = np.nan
    return Records.from_arrays(t, y, outputs=["x (mm)"])


@pytest.fixture(scope="module")
def fitted():
    return LatentSDEForecaster(**SETTINGS).fit(record())


@pytest.fixture(scope="module")
def known(fitted):
    """Return a forecaster with a law that is known, in standardised units."""
    model = deepcopy(fitted).set_params(paths=4000)
    (inner,) = model.members_
    with torch.no_grad():
        inner.system.f.linear.weight.fill_(-K)
        inner.system.f.linear.bias.zero_()
        inner.system.omega.fill_(math.log(GAMMA / (4 - GAMMA)))
        inner.log_diffusion.fill_(math.log(SIGMA))
        inner.log_noise.fill_(math.log(NOISE))
    return model


def test_far_ahead_the_paths_are_those_of_the_stationary_law(known):
    """Variance σ² / (2 γ k) + noise², normal: what the state was is forgotten, by e^(-γ t / 2) = e^-30."""
    records, tau = record(), known.scaling_.time_unit
    (forecast,) = known.forecast(records, times=records[0].t[-1] + tau * np.linspace(50, 100, 40))
    sd = known.scaling_.outputs.std[0] * math.sqrt(SIGMA**2 / (2 * GAMMA * K) + NOISE**2)
    # 4,000 paths: standard errors of 1.6 % for the mean and 1.9 % for the quantile, at 40 times
    assert abs(forecast.y.mean() - known.scaling_.outputs.mean[0]) < 0.05 * sd
    half = np.quantile(np.abs(forecast.members - forecast.y), 0.9, axis=0)
    assert half.mean() == pytest.approx(1.645 * sd, rel=0.05)
    assert forecast.members.shape == (4000, 40, 1)


def test_what_was_learned_is_said_in_units_of_the_record(known):
    tau, std = known.scaling_.time_unit, known.scaling_.outputs.std
    (mode,) = known.describe().modes
    assert mode.frequency == pytest.approx(math.sqrt(K) / (2 * math.pi * tau), rel=1e-10)
    assert mode.damping_ratio == pytest.approx(GAMMA / (2 * math.sqrt(K)), rel=1e-10)
    process, measurement = known.noise()
    np.testing.assert_allclose(process, SIGMA * std / tau**1.5, rtol=1e-10)
    np.testing.assert_allclose(measurement, NOISE * std, rtol=1e-10)


def test_a_seed_stands_for_training_and_paths(fitted):
    state = torch.random.get_rng_state()
    again = clone(fitted).fit(record())
    assert torch.equal(state, torch.random.get_rng_state())
    a, b = (model.forecast(record(), 5)[0] for model in (fitted, again))
    np.testing.assert_array_equal(a.members, b.members)
    other = clone(fitted).set_params(random_state=1).fit(record())
    assert (other.forecast(record(), 5)[0].members != a.members).all()


def test_bands_hold_their_share_of_what_was_held_out(fitted):
    """By the order statistic at or above 90 % of the scores: never less, when all origins count alike."""
    held = record().rows(192, 240)  # the last fifth
    ahead = (held.total_rows - 12) // 2
    inside = []
    for last in range(12, held.total_rows - ahead + 1):
        (forecast,) = fitted.forecast(held.rows(0, last), times=held[0].t[last : last + ahead])
        inside.append(np.abs(held[0].y[last : last + ahead] - forecast.y) <= forecast.half_width)
    assert np.mean(inside) >= 0.9


def test_bands_widen_with_the_paths_and_the_calibration(fitted):
    """q √(spread² + floor²), of the paths and of errors so many rows ahead; but as wide as 90 % of the paths need."""
    (forecast,) = fitted.forecast(record(), 10)
    bands = fitted.bands_
    expected = bands.quantile * np.sqrt(forecast.members.var(0) + bands.floor[:10] ** 2)
    own = np.quantile(np.abs(forecast.members - forecast.y), 0.9, axis=0)
    np.testing.assert_allclose(forecast.half_width, np.maximum(expected, own), rtol=1e-10)
    small = deepcopy(fitted)
    small.bands_ = replace(bands, quantile=0 * bands.quantile)
    np.testing.assert_allclose(small.forecast(record(), 10)[0].half_width, own, rtol=1e-10)
    assert (np.diff(bands.floor, axis=0) >= 0).all()


def test_free_runs_have_bands(fitted):
    simulated = fitted.simulate_with_bands(record())
    assert simulated.y[0].shape == simulated.half_width[0].shape == (240, 1)
    assert np.isfinite(simulated.half_width[0]).all() and np.isfinite(fitted.score(record(), 12))


def test_a_first_row_without_a_value(fitted):
    (forecast,) = fitted.forecast(record().rows(0, 113), 5)  # whose last 12 rows begin with two that are blank
    assert np.isfinite(forecast.y).all() and (forecast.half_width > 0).all()


def test_a_run_too_short_to_be_held_out_calibrates_nothing(fitted):
    """Its last fifth, 8 rows, holds no forecast from 12: the bands come from the other run alone."""
    short = replace(record(), runs=(*record().runs, *record().rows(0, 40).runs))
    model = clone(fitted).set_params(epochs=1).fit(short)
    assert model.bands_.floor.shape == fitted.bands_.floor.shape == (18, 1)


def test_saved_and_loaded(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"model.json", "weights.safetensors"}
    again = LatentSDEForecaster.load(tmp_path / "model")
    for of in ("members", "half_width"):
        np.testing.assert_array_equal(*(getattr(x.forecast(record(), 5)[0], of) for x in (again, fitted)))
    with pytest.raises(DataError, match="not a model of this version of hbode, and of this kind"):
        HeavyBallForecaster.load(tmp_path / "model")


def test_inputs_are_refused():
    t = np.arange(100.0)
    with pytest.raises(DataError, match="takes no inputs, got u: HeavyBallForecaster does"):
        LatentSDEForecaster().fit(Records.from_arrays(t, np.sin(t), np.cos(t)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"degree": 0}, "degree"),
        ({"hidden": -1}, "hidden"),
        ({"initial": 1}, "initial"),
        ({"paths": 1}, "paths"),
        ({"coverage": 1.0}, "coverage"),
        ({"validation": 0.0}, "validation"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"initial": 60}, "no run has 60 rows, and one more"),
        ({"initial": 300}, "too few rows"),
    ],
)
def test_errors(given, words):
    with pytest.raises(ValueError, match=words):
        LatentSDEForecaster(**given).fit(record())


def test_rows_without_any_value_are_no_place_to_start_from(fitted):
    run = record()[0]
    y = run.y.copy()
    y[-12:] = np.nan
    blank = replace(record(), runs=(replace(run, y=y),))
    with pytest.raises(DataError, match="'x' has 0 values in the last 12 rows"):
        fitted.forecast(blank, 5)
    with pytest.raises(DataError, match="no value in its first 12 rows"):
        fitted.simulate_with_bands(blank.rows(228, 240))
