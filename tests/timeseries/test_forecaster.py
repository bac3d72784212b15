"""Forecasts and interpolations by an identified law, against records whose future is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone

from hbode.timeseries import DataError, HeavyBallForecaster, Records
from hbode.timeseries.identification.bands import Bands, growing
from hbode.timeseries.identification.runs.simulation import simulate

RATES = (0.05, 1.3), (0.02, 2.1)
SETTINGS = {"model": "hbnode", "degree": 1, "hidden": 0, "initial": 20, "seeds": 1, "substeps": 4}


def truth(t):
    """Return two coupled damped oscillators, (T, 2)."""
    modes = np.stack([np.exp(-gamma * t) * np.cos(omega * t) for gamma, omega in RATES], -1)
    return modes @ np.array([[1.0, 0.4], [0.3, -1.0]])


def record(noise=0.0, rows=300):
    """Return rows at irregular times, a fifth of them dropped, a tenth of the values of the second channel missing."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.choice(np.arange(rows * 5 // 4), rows, replace=False)) / 8
    y = truth(t)
    y += noise * rng.normal(size=y.shape)
    y[rng.random(rows) < 0.1, 1] = np.nan
    return Records.from_arrays(t, y, outputs=["a (mm)", "b (mm)"])


@pytest.fixture(scope="module")
def fitted():
    return HeavyBallForecaster(**SETTINGS).fit(record())


def test_an_exact_law_forecasts_and_interpolates(fitted):
    records = record()
    (forecast,) = fitted.forecast(records, 40)
    step = records.median_step
    np.testing.assert_allclose(forecast.t, records[0].t[-1] + step * np.arange(1, 41))
    # rk4 with four steps a sample: (ω Δt / 4)^4 = 2e-5 a radian, of which the fitted rates take most.
    assert np.abs(forecast.y - truth(forecast.t)).max() < 1e-3
    (filled,) = fitted.interpolate(records)
    assert filled.y.shape == records[0].y.shape and np.abs(filled.y - truth(filled.t)).max() < 1e-3
    (rounded,) = fitted.interpolate(records, records[0].t * (1 + 1e-15))
    np.testing.assert_array_equal(rounded.y, filled.y)
    between = (records[0].t[:-1] + records[0].t[1:]) / 2
    (middle,) = fitted.interpolate(records, between)
    assert np.abs(middle.y - truth(between)).max() < 1e-3
    assert middle.members.shape == (1, len(between), 2)


def test_a_record_with_gaps_of_seconds_gives_the_law():
    """Two steps of rk4 across a gap of a period would blow up."""
    records = record()
    kept = np.ones(300, bool)
    kept[60:90] = kept[200:240] = False
    records = replace(records, runs=(records[0].take(np.flatnonzero(kept)),))
    assert np.diff(records[0].t).max() > 20 * records.median_step
    model = HeavyBallForecaster(**SETTINGS).fit(records)
    (forecast,) = model.forecast(records, 40)
    assert np.abs(forecast.y - truth(forecast.t)).max() < 1e-3
    (filled,) = model.interpolate(records, record()[0].t)  # 6 s of 300 rows without any, from 20 rows on both sides
    assert np.abs(filled.y - truth(filled.t)).max() < 1e-2


def test_one_time_far_ahead_is_simulated_as_finely_as_any(fitted):
    records = record()
    (many,) = fitted.forecast(records, 80)
    (one,) = fitted.forecast(records, times=many.t[-1:])
    # The steps between are placed otherwise: twice the error of each.
    np.testing.assert_allclose(one.y[0], many.y[-1], atol=2e-3)
    with pytest.raises(DataError, match="too long"):
        fitted.forecast(records, times=[1e9])


def test_forecasts_at_times_are_those_of_rows(fitted):
    records = record()
    (by_rows,) = fitted.forecast(records, 10)
    (by_times,) = fitted.forecast(records, times=by_rows.t)
    np.testing.assert_array_equal(by_rows.y, by_times.y)
    np.testing.assert_array_equal(by_rows.half_width, by_times.half_width)


def test_bands_grow_with_the_lead_and_hold_what_they_promise():
    records = record(noise=0.05, rows=400)
    model = HeavyBallForecaster(**SETTINGS).fit(records.rows(0, 300))
    floor = model.bands_.floor
    assert (np.diff(floor, axis=0) >= 0).all() and floor.shape[1] == 2
    rest = records[0].t[300:]
    (forecast,) = model.forecast(records.rows(0, 300), times=rest)
    assert (np.diff(forecast.half_width, axis=0) >= 0).all()
    inside = np.abs(forecast.y - truth(rest)) <= forecast.half_width
    assert inside.mean() > 0.9  # of the truth, which is nearer than measurements are


def test_errors_by_lead_are_those_of_a_random_walk():
    """The mean square after l steps is l; leads within a factor of 1.25 count together."""
    rng = np.random.default_rng(1)
    walks = rng.normal(size=(2000, 50)).cumsum(1)
    found = growing(walks.reshape(-1, 1), np.tile(np.arange(1, 51), 2000))[:, 0]
    lead = np.arange(1, 51)
    # Means of 2,000 squares are off by 3 %, and the window by 2.5 % in the middle, by up to 12 % at its ends.
    assert (np.abs(found / np.sqrt(lead) - 1) < 0.25).all()
    bands = Bands.calibrated(
        0.9, walks.reshape(-1, 1), np.zeros((100_000, 1)), np.zeros((100_000, 1)), 1.0, np.tile(lead, 2000)
    )
    assert Bands.from_json(json.loads(json.dumps(bands.as_json()))).floor.tolist() == bands.floor.tolist()
    wide = bands.half_width(np.zeros((3, 1)), np.array([0.5, 1.0, 90.0]))[:, 0]
    assert wide[0] == wide[1] < wide[2] == bands.half_width(np.zeros((1, 1)), np.array([50]))[0, 0]


def test_inputs_that_are_known_ahead():
    t = np.arange(400) / 8
    u = np.sin(0.03 * t**2)
    y = np.zeros(400)
    v = 0.0
    for k in range(399):  # y'' = -0.2 y' - y + u, by small steps of Euler, symplectic
        y[k + 1] = y[k]
        for s in range(50):
            now = u[k] + (u[k + 1] - u[k]) * s / 50
            v += (now - y[k + 1] - 0.2 * v) / 400
            y[k + 1] += v / 400
    records = Records.from_arrays(t, y, u)
    model = HeavyBallForecaster(**SETTINGS, between="linear").fit(records.rows(0, 300))
    (forecast,) = model.forecast(records.rows(0, 300), ahead=records.rows(300, 400))
    # The steps of Euler are of first order: 1/400 of the amplitude, about one.
    assert np.abs(forecast.y[:, 0] - y[300:]).max() < 0.02
    with pytest.raises(ValueError, match="ahead must give the inputs u"):
        model.forecast(records.rows(0, 300), 10)
    with pytest.raises(DataError, match="ahead must have the inputs of training and 1 runs"):
        model.forecast(records.rows(0, 300), ahead=Records.from_arrays(t, y))


def test_runs_are_simulated_side_by_side_as_alone(fitted):
    whole = fitted.scaling_.to_standard(record())
    runs = [whole[0].take(slice(a, a + n)) for a, n in ((0, 40), (50, 60), (120, 40), (200, 60))]
    together = simulate(fitted.members_[0], replace(whole, runs=tuple(runs)), "cubic", 20, np.inf)
    for run, y in zip(runs, together, strict=True):
        (alone,) = simulate(fitted.members_[0], replace(whole, runs=(run,)), "cubic", 20, np.inf)
        assert np.abs(alone - y).max() < 1e-6  # the estimates of both end at moves of 1e-9


def test_saved_and_cloned(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    again = HeavyBallForecaster.load(tmp_path / "model")
    np.testing.assert_array_equal(again.forecast(record(), 5)[0].y, fitted.forecast(record(), 5)[0].y)
    np.testing.assert_array_equal(again.bands_.floor, fitted.bands_.floor)
    assert clone(fitted).get_params()["initial"] == 20


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "just one of horizon, times and ahead"),
        ({"horizon": 5, "times": [100.0]}, "just one of horizon, times and ahead"),
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"times": [1.0]}, "times must increase from behind the end of run 0"),
        ({"times": [90.0, 80.0]}, "times must increase from behind the end of run 0"),
    ],
)
def test_what_is_asked_for_is_checked(fitted, given, message):
    with pytest.raises(ValueError, match=message):
        fitted.forecast(record(), **given)


def test_pieces_without_values_are_no_place_to_start_from(fitted):
    records = record()
    y = records[0].y.copy()
    y[100:130] = np.nan
    gappy = replace(records, runs=(replace(records[0], y=y),))
    model = HeavyBallForecaster(**SETTINGS).fit(gappy)
    (forecast,) = model.forecast(gappy, 20)
    assert np.abs(forecast.y - truth(forecast.t)).max() < 1e-3
    with pytest.raises(DataError, match="'a' has 0 values in the last 20 rows of run 0"):
        model.forecast(gappy.rows(0, 130), 20)


def test_other_records_are_refused(fitted):
    with pytest.raises(ValueError, match="times must increase within"):
        fitted.interpolate(record(), [-1.0])
    with pytest.raises(DataError, match="was fitted to the outputs"):
        fitted.forecast(Records.from_arrays(np.arange(30.0), np.ones(30)), 5)
