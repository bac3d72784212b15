"""Identification: laws that are known are found again, from free runs alone."""

import functools
import json

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from hbode import CubicInput, HeavyBall, hbodeint
from hbode.timeseries import DataError, Records
from hbode.timeseries.identification import Bands, SystemIdentifier
from hbode.timeseries.identification.automatic import saturation
from hbode.timeseries.identification.bands import effective_size
from hbode.timeseries.identification.fitting.least_squares import LeastSquaresResult
from hbode.timeseries.identification.fitting.member import best_of
from hbode.timeseries.identification.laws.structures import Structure
from hbode.timeseries.identification.runs.derivatives import derivatives

OMEGA, GAMMA, CUBIC = 5.0, 0.6, 0.5


@functools.cache
def duffing(rows=240, seed=0, noise=0.0, rate=20.0):
    """Return a record of x'' + γ x' + ω² (x + c x³) = ω² F, x in mm around 2, solved to rounding between samples."""
    rng = np.random.default_rng(seed)
    t = np.arange(rows) / rate
    u = np.convolve(rng.normal(size=rows + 100), np.ones(10) / 10, "same")[:rows] * 3
    force = CubicInput(torch.from_numpy(t), torch.from_numpy(u).unsqueeze(1))
    ball = HeavyBall(lambda t, h, u: OMEGA**2 * (u - h - CUBIC * h**3), gamma=GAMMA, trainable=False)
    h0 = torch.zeros(1, dtype=torch.float64)
    sol = hbodeint(ball, h0, torch.from_numpy(t), inputs=force, rtol=1e-9, atol=1e-9, method="dprkn8")
    y = 2 + sol.h[:, 0].numpy() + noise * rng.normal(size=rows)
    return Records.from_arrays(t, y, u, outputs=["x (mm)"], inputs=["F (N)"])


SMALL = {"initial": 20, "seeds": 1, "evaluations": 12, "random_state": 3}


@pytest.fixture(scope="module")
def grey():
    """A grey box of six numbers, fitted to two thirds of a record without noise."""
    records = duffing()
    return SystemIdentifier("hbnode", degree=3, hidden=0, substeps=3, **SMALL).fit(records.rows(0, 160)), records


def test_a_duffing_oscillator_is_found_again(grey):
    model, records = grey
    found = model.describe()
    # At rest at 2 mm without force; the input at its mean shifts it a little.
    mean = float(model.scaling_.inputs.mean[0])
    x = found.equilibrium[0] - 2
    assert x + CUBIC * x**3 == pytest.approx(mean, abs=1e-4)
    stiffness = OMEGA**2 * (1 + 3 * CUBIC * x**2)
    # Three steps of rk4 a sample, ω dt = 0.08: relative errors of some (ω dt)⁴ / 120 = 3e-7 a step, and cubics of u.
    assert found.modes[0].frequency == pytest.approx(stiffness**0.5 / (2 * np.pi), rel=1e-4)
    assert found.modes[0].damping_ratio == pytest.approx(GAMMA / (2 * stiffness**0.5), rel=1e-3)
    curve = found.curves[0]
    inside = curve.inside.nonzero()[0][5:-5]
    exact = OMEGA**2 * (1 + 3 * CUBIC * (curve.position - 2) ** 2)
    assert np.abs(curve.stiffness / exact - 1)[inside].max() < 5e-3
    assert "natural frequency" in str(found) and "mm" in str(found)


def test_it_simulates_what_it_has_not_seen(grey):
    model, records = grey
    later = records.rows(160, None)
    assert model.score(later) > 99.9
    assert model.predict(later).shape == (80, 1)
    hidden = Records.from_arrays(later[0].t, np.where(np.arange(80)[:, None] < 20, later[0].y, np.nan), later[0].u)
    hidden = type(later)(hidden.runs, later.outputs, later.inputs, later.time)
    assert np.array_equal(model.simulate(hidden)[0], model.simulate(later)[0])  # outputs behind the first are not seen


def test_saved_and_loaded_it_is_the_same(grey, tmp_path):
    model, records = grey
    model.save(tmp_path / "model")
    again = SystemIdentifier.load(tmp_path / "model")
    a, b = (m.simulate_with_bands(records.rows(160, None)) for m in (model, again))
    assert np.array_equal(a.y[0], b.y[0]) and np.array_equal(a.half_width[0], b.half_width[0])
    assert again.get_params() == model.get_params()
    assert str(again.describe()) == str(model.describe())


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / "weights.safetensors").unlink(), "weights.safetensors is missing"),
        (lambda f: (f / "weights.safetensors").write_bytes(b"\x08\0\0\0"), "cannot be read"),
        (lambda f: (f / "model.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "model.json").write_text("{}"), "not a model of this version"),
        (
            lambda f: (f / "model.json").write_text(
                json.dumps({k: v for k, v in json.loads((f / "model.json").read_text()).items() if k != "scaling"})
            ),
            "not whole",
        ),
    ],
)
def test_files_that_are_no_model_are_refused(grey, tmp_path, spoil, message):
    grey[0].save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        SystemIdentifier.load(tmp_path)


@pytest.mark.slow
def test_a_known_part_is_taken_in_physical_units():
    records = duffing()

    def spring(t, x, v, u):
        return OMEGA**2 * (u - (x - 2) - CUBIC * (x - 2) ** 3)

    model = SystemIdentifier("hbnode", degree=1, hidden=0, known=spring, substeps=3, **SMALL).fit(records.rows(0, 160))
    assert model.score(records.rows(160, None)) > 99.9
    # What is left to learn is the damping.
    learned = model.members_[0].system.f.linear.weight.detach()[0] / model.scaling_.time_unit
    assert float(learned[1]) == pytest.approx(-GAMMA, rel=1e-2)


@pytest.mark.slow
def test_a_network_learns_the_stiffness_that_the_law_leaves_out():
    records = duffing(rows=600, noise=1e-3)
    plain, model = (
        SystemIdentifier("hbnode", degree=1, hidden=h, **{**SMALL, "evaluations": 40}).fit(records.rows(0, 450))
        for h in (0, 6)
    )
    later = records.rows(450, None)
    lost, left = 100 - plain.score(later), 100 - model.score(later)
    assert left < 0.2 * lost


@pytest.mark.slow
def test_hidden_states_are_found_too():
    """Two lags in a row, of which the second is seen through a square."""
    rng = np.random.default_rng(0)
    u = np.repeat(rng.uniform(0.5, 1.5, 60), 10)
    x = np.zeros((600, 2))
    for k in range(599):  # exact for an input that is held: small steps of the matrix exponential would be the same
        x[k + 1, 0] = u[k] + (x[k, 0] - u[k]) * np.exp(-0.2)
        x[k + 1, 1] = x[k, 1] + 0.1 * (x[k, 0] - x[k, 1])
    records = Records.from_arrays(None, x[:, 1] ** 2, u, rate=1.0)
    model = SystemIdentifier(
        "node", states=2, degree=1, hidden=0, readout="square", between="hold", substeps=1, seeds=1, initial=20
    ).fit(records.rows(0, 450))
    assert model.score(records.rows(450, None)) > 97


@pytest.mark.slow
def test_the_first_law_is_taken_where_it_is_good(tmp_path):
    records = duffing()
    model = SystemIdentifier(hidden=0, **SMALL).fit(records.rows(0, 160))
    assert model.chosen_.model == "hbnode" and model.chosen_.readout == "position" and len(model.members_) == 1
    model.save(tmp_path)
    again = SystemIdentifier.load(tmp_path)
    assert again.model == "hbnode"
    assert np.array_equal(again.simulate(records)[0], model.simulate(records)[0])


def test_a_value_that_comes_often_is_a_limit():
    y = np.minimum(np.sin(np.arange(500) / 7), 0.9)
    assert saturation(Records.from_arrays(None, y, y)) == (None, 0.9)


@pytest.mark.slow
def test_missing_outputs_and_several_runs_are_used():
    one, two = duffing(rows=160)[0], duffing(rows=200, seed=1)[0]
    y = one.y.copy()
    y[30:60] = np.nan
    records = Records.from_arrays([one.t, two.t], [y, two.y], [one.u, two.u])
    model = SystemIdentifier("hbnode", degree=3, hidden=0, substeps=3, **SMALL).fit(records)
    assert np.abs(model.simulate(records)[0] - one.y).max() < 1e-2


@pytest.mark.slow
def test_an_interrupted_fit_goes_on(tmp_path, monkeypatch):
    from hbode.timeseries.identification import checkpoints

    records = duffing(rows=150).rows(0, 120)
    settings = {**SMALL, "seeds": 2, "evaluations": 4, "hidden": 2}
    whole = SystemIdentifier("hbnode", **settings).fit(records)
    fit_member = checkpoints.fit_member

    def killed(*args):
        if args[4] == 4:
            raise KeyboardInterrupt
        return fit_member(*args)

    monkeypatch.setattr(checkpoints, "fit_member", killed)
    with pytest.raises(KeyboardInterrupt):
        SystemIdentifier("hbnode", checkpoint=tmp_path, **settings).fit(records)
    seeds = []
    monkeypatch.setattr(checkpoints, "fit_member", lambda *args: seeds.append(args[4]) or fit_member(*args))
    again = SystemIdentifier("hbnode", checkpoint=tmp_path, **settings).fit(records)
    assert seeds == [4]
    assert [one.validation for one in again.fits_] == [one.validation for one in whole.fits_]


@pytest.mark.slow
def test_seeds_in_processes_are_those_of_one_process():
    records = duffing(rows=150)
    settings = {**SMALL, "seeds": 2, "evaluations": 4, "hidden": 2}
    one, two = (SystemIdentifier("hbnode", jobs=jobs, **settings).fit(records) for jobs in (1, 2))
    # Another number of threads may sum in another order.
    assert np.allclose(one.simulate(records)[0], two.simulate(records)[0], rtol=1e-6)


def test_it_has_the_habits_of_an_estimator(grey):
    from sklearn.base import clone
    from sklearn.exceptions import NotFittedError

    copy = clone(grey[0])
    assert copy.get_params() == grey[0].get_params() and not hasattr(copy, "members_")
    assert copy.set_params(hidden=3).hidden == 3
    with pytest.raises(NotFittedError):
        copy.simulate(grey[1])


def test_bands_cover_what_they_promise():
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.5, 2.0, (4000, 1))
    error = rng.normal(size=(4000, 1)) * np.sqrt(spread**2 + 1)
    bands = Bands.calibrated(0.9, error[:2000], np.zeros((2000, 1)), spread[:2000])
    inside = np.abs(error[2000:]) <= bands.half_width(spread[2000:], np.ones(2000))
    # A share of 2,000 has a standard deviation of .0067, the order statistic of the calibration the same.
    assert abs(inside.mean() - 0.9) < 5 * 0.0067 * 2**0.5
    assert Bands.from_json(json.loads(json.dumps(bands.as_json()))).quantile == bands.quantile


def test_bands_cover_where_neighbouring_errors_are_alike():
    """An autoregression of coefficient 0.97: 200 samples say as much as (1 - 0.97²) / (1 + 0.97²) 200 = 6 squares."""
    rng, n = np.random.default_rng(0), 200
    inside = []
    for _ in range(300):
        error = lfilter([1.0], [1.0, -0.97], rng.normal(size=2 * n + 200))[200:, None]
        bands = Bands.calibrated(0.9, error[:n], np.zeros((n, 1)), np.zeros((n, 1)))
        inside.append(np.mean(np.abs(error[n:]) <= bands.half_width(np.zeros((n, 1)), np.ones(n))))
    # Shares of such a series have a deviation of 0.15, their mean one of 0.01. With order statistics of 200: 0.85.
    assert 0.87 < np.mean(inside) < 0.96
    assert effective_size(rng.normal(size=2000)) == pytest.approx(2000, rel=0.2)
    assert effective_size(np.repeat(rng.normal(size=200), 10)) == pytest.approx(200, rel=0.3)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"model": "arma"}, "model must be one of"),
        ({"readout": "log"}, "readout must be one of"),
        ({"unit": "sine"}, "unit must be one of"),
        ({"between": "septic"}, "between must be one of"),
        ({"degree": 0}, "degree must be at least 1"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"validation": 1.5}, "validation must be a share"),
        ({"keep": "all"}, "keep must be"),
    ],
)
def test_settings_are_checked_before_any_work(settings, message):
    with pytest.raises(ValueError, match=message):
        SystemIdentifier(**{"model": "hbnode", **settings}).fit(duffing(rows=100))


def test_records_are_checked_by_name(grey):
    model, records = grey
    run = records[0]
    with pytest.raises(DataError, match="needs at least one input"):
        SystemIdentifier().fit(Records.from_arrays(run.t, run.y))
    with pytest.raises(DataError, match="too few rows"):
        SystemIdentifier().fit(records.rows(0, 40))
    with pytest.raises(DataError, match=r"fitted to the outputs x .mm., got x"):
        model.simulate(Records.from_arrays(run.t, run.y, run.u, outputs=["x"]))
    with pytest.raises(ValueError, match="initial must be from 0 to 10"):
        model.simulate(records.rows(0, 10))


def test_states_are_at_least_as_many_as_positions_that_are_read():
    with pytest.raises(ValueError, match="states must be at least 2"):
        Structure(outputs=2, inputs=1, states=1)


def test_the_best_of_several_starts_is_kept(grey):
    model = grey[0].members_[0]
    drawn, weight = iter((3.0, 1.0, 2.0, 1.005)), next(model.parameters())
    before = weight.detach().clone()

    def fit():
        error = next(drawn)
        weight.data.fill_(error)
        return LeastSquaresResult(validation=[9.0, error])

    try:
        assert best_of(model, fit, 3).validation[-1] == 1.0 and bool((weight == 1.0).all())
        drawn = iter((1.0, 1.005, 0.5))  # two that came to the same minimum are enough
        assert best_of(model, fit, 3, alike=0.01).validation[-1] == 1.0 and next(drawn) == 0.5
    finally:
        weight.data.copy_(before)


@pytest.mark.parametrize("readout", ["position", pytest.param("linear", marks=pytest.mark.slow)])
def test_a_description_is_of_outputs_in_their_units(readout):
    """y' = 3 - 0.5 y + u: a rest at y = 6 + 2 E[u], a rate of 0.5 1/s; curves are of positions alone."""
    t = np.arange(400) / 5
    u = np.sin(0.6 * t) + 1
    y = np.empty((400, 1))
    y[0] = 4
    for k in range(399):
        v, last = np.linspace(u[k], u[k + 1], 200), y[k, 0]
        for now in v:
            last += (3 - 0.5 * last + now) / 1000
        y[k + 1] = last
    states = {"position": None, "linear": 1}[readout]
    model = SystemIdentifier(
        "node", states=states, degree=1, hidden=0, readout=readout, between="linear", initial=20, seeds=1
    ).fit(Records.from_arrays(t, y, u, outputs=["level (V)"]))
    found = model.describe()
    # The record is made by Euler steps of 1 ms, which shift rates by 0.05 %.
    assert found.equilibrium == pytest.approx(6 + 2 * u.mean(), rel=1e-2)
    assert found.modes[0].time_constant == pytest.approx(2.0, rel=1e-2)
    assert len(found.curves) == (readout == "position")
    assert "inputs at their mean" in str(found)
    if readout == "position":
        assert found.curves[0].stiffness == pytest.approx(0.5, rel=1e-2)
        assert "rate of return along level: 0.4" in str(found) or "rate of return along level: 0.5" in str(found)
        assert "1/s for" in str(found)


def test_derivatives_at_irregular_times_are_exact_for_cubics():
    rng = np.random.default_rng(3)
    t = np.cumsum(rng.uniform(0.02, 0.3, 80))
    y = np.stack((1 + 2 * t - 0.3 * t**2 + 0.01 * t**3, 5 - t), -1)
    run = Records.from_arrays(t, y)[0]
    found = derivatives(run, 9)
    expected = y[4:-4], np.stack((2 - 0.6 * t + 0.03 * t**2, -1 + 0 * t), -1)[4:-4]
    curvature = np.stack((-0.6 + 0.06 * t, 0 * t), -1)[4:-4]
    # Normal equations of condition 1e3 squared, values of ten, divided by a reach of half squared: 1e-8 at most.
    for x, of in zip(found[:3], (*expected, curvature), strict=True):
        assert np.abs(x - of).max() < 1e-6


def test_long_noisy_stretches_do_not_end_whole_periods_off():
    """Twenty periods at irregular times, noise of 1 %: fitted to the noise, at the rates that made them."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.choice(np.arange(1000), 600, replace=False)) / 10
    u = np.zeros((600, 1))
    u[:, 0] = np.sin(0.11 * t)
    y = np.exp(-t / 50) * np.sin(1.5 * t) + 0.01 * rng.normal(size=600)
    model = SystemIdentifier("hbnode", hidden=0, initial=30, seeds=1, between="linear").fit(
        Records.from_arrays(t, y, u)
    )
    mode = model.describe().modes[0]
    assert mode.frequency == pytest.approx((1.5**2 + 1 / 50**2) ** 0.5 / (2 * np.pi), rel=1e-2)
    assert mode.damping_ratio == pytest.approx(1 / (50 * 1.5), rel=0.1)
