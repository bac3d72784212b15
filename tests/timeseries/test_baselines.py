"""The contract of all simulators, and linear systems that are recovered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone

from hbode.models import parameter_count
from hbode.timeseries import DataError, Records, Run
from hbode.timeseries.baselines import LinearARX, LinearStateSpace, LSTMSimulator, Persistence
from hbode.timeseries.baselines.linear import LinearSystem, linear_states
from hbode.timeseries.scores import simulation_scores

MODELS = {
    "last": Persistence(),
    "mean": Persistence("mean"),
    "arx": LinearARX(orders=(1, 2)),
    "state space": LinearStateSpace(orders=(1, 2), horizon=5, refinements=3),
    "lstm": LSTMSimulator(hidden=3, initial=5, stretch=20, steps=4, checks=2),
}
INITIAL = 5


def system(seed: int = 0, n: int = 3, outputs: int = 2, inputs: int = 2) -> LinearSystem:
    """Return a stable system with drift and offset; the moduli of its eigenvalues are 0.9."""
    rng = np.random.default_rng(seed)
    a, b, c, d = (rng.normal(size=s) for s in ((n, n), (n, inputs), (outputs, n), (outputs, inputs)))
    return LinearSystem(0.9 * np.linalg.qr(a)[0], b, c, d, np.zeros(n), rng.normal(size=outputs))


def records(model: LinearSystem, rows=(150, 120), seed: int = 1, missing: float = 0.0, step: float = 0.1) -> Records:
    rng = np.random.default_rng(seed)
    inputs = [rng.normal(size=(n, model.d.shape[1])) for n in rows]
    outputs = [model.outputs(u, rng.normal(size=len(model.a))) for u in inputs]
    for y in outputs:
        y[rng.random(y.shape) < missing] = np.nan
    return Records.from_arrays(None, outputs, inputs, rate=1 / step)


def looped(model: LinearSystem, u, x):
    """The definition, sample by sample."""
    y = []
    for now in u:
        y.append(model.c @ x + model.d @ now + model.offset)
        x = model.a @ x + model.b @ now + model.drift
    return np.array(y)


@pytest.mark.parametrize("rows", [1, 2, 3, 10, 97, 100])
def test_chunks_equal_the_loop_over_samples(rows):
    model = replace(system(), drift=np.array([0.1, -0.2, 0.3]))
    rng = np.random.default_rng(rows)
    u, x0 = rng.normal(size=(rows, 2)), rng.normal(size=3)
    np.testing.assert_allclose(model.outputs(u, x0), looped(model, u, x0), rtol=0, atol=1e-12)
    free = np.einsum("tjn,n->tj", model.free(rows), x0)
    still = replace(model, drift=np.zeros(3), offset=np.zeros(2))
    np.testing.assert_allclose(free, looped(still, 0 * u, x0), rtol=0, atol=1e-12)


def test_states_of_a_pure_delay_are_exact():
    """A is one Jordan block, which no modal form can step."""
    u = np.arange(1.0, 31.0)
    x = linear_states(np.eye(4, k=-1), np.outer(u, np.eye(4)[0]), np.zeros(4))
    np.testing.assert_array_equal(x[:, 3], np.concatenate((np.zeros(4), u[:-4])))


@pytest.mark.parametrize("name", MODELS)
def test_only_the_first_outputs_are_seen(name):
    data = records(system(), missing=0.0)
    model = clone(MODELS[name]).fit(data)
    simulated = model.simulate(data, initial=INITIAL)
    hidden = replace(
        data, runs=tuple(Run(r.t, np.where(np.arange(len(r))[:, None] < INITIAL, r.y, 7e7), r.u) for r in data)
    )
    for run, one, other in zip(data, simulated, model.simulate(hidden, initial=INITIAL), strict=True):
        assert one.shape == run.y.shape and np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one[:INITIAL], run.y[:INITIAL])
    expected = simulation_scores([run.y for run in data], simulated, INITIAL).joined_fit
    assert model.score(data, initial=INITIAL) == expected
    assert model.parameters_ > 0


@pytest.mark.parametrize("name", MODELS)
def test_a_clone_has_the_parameters_and_gives_the_same_numbers(name):
    model, data = MODELS[name], records(system())
    copy = clone(model)
    assert copy.get_params() == model.get_params() and copy is not model
    first = copy.fit(data).simulate(data, initial=INITIAL)
    again = clone(copy).fit(data).simulate(data, initial=INITIAL)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    values = {"hold": "mean", "orders": (3,), "hidden": 7}
    key = next(key for key in values if key in model.get_params())
    assert copy.set_params(**{key: values[key]}).get_params()[key] == values[key]


@pytest.mark.parametrize("name", MODELS)
def test_missing_outputs_are_left_out_and_filled(name):
    data = records(system(), rows=(400, 300), missing=0.01)
    y = data[0].y.copy()
    y[0] = np.nan  # within the initial rows
    y[1:INITIAL] = 0.5
    data = replace(data, runs=(replace(data[0], y=y), *data.runs[1:]))
    for one in clone(MODELS[name]).fit(data).simulate(data[:1], initial=INITIAL):
        assert np.isfinite(one).all()


@pytest.mark.parametrize("name", MODELS)
def test_wrong_use_is_refused_by_name(name):
    data = records(system())
    model = clone(MODELS[name])
    with pytest.raises(ValueError, match="must be fitted"):
        model.simulate(data, initial=INITIAL)
    model.fit(data)
    with pytest.raises(ValueError, match="initial"):
        model.simulate(data, initial=-1)
    with pytest.raises(ValueError, match="initial"):
        model.simulate(data, initial=121)
    with pytest.raises(DataError, match="outputs y1, y2, got y1"):
        model.simulate(data.select(["y1"], ["u1", "u2"]), initial=INITIAL)
    with pytest.raises(DataError, match="inputs u1, u2, got u1"):
        model.simulate(data.select(["y1", "y2"], ["u1"]), initial=INITIAL)


@pytest.mark.parametrize("name", ["arx", "state space", "lstm"])
def test_inputs_must_be_there_and_complete(name):
    data = records(system())
    if name == "state space":  # the others go on from what was
        with pytest.raises(DataError, match="at least one input"):
            clone(MODELS[name]).fit(data.select(["y1"]))
    u = data[0].u.copy()
    u[3, 1] = np.nan
    with pytest.raises(DataError, match="1 of 'u2' are missing"):
        clone(MODELS[name]).fit(replace(data, runs=(replace(data[0], u=u),)))


@pytest.mark.parametrize("name", ["arx", "state space"])
def test_irregular_rows_and_other_steps_are_refused_by_name(name):
    data = records(system())
    bent = replace(data, runs=tuple(replace(run, t=run.t + 1e-4 * run.t**2) for run in data))
    with pytest.raises(DataError, match=f"{type(MODELS[name]).__name__} needs rows that are one step apart"):
        clone(MODELS[name]).fit(bent)
    model = clone(MODELS[name]).fit(data)
    with pytest.raises(DataError, match=r"a step of 0\.1, got 0\.2"):
        model.simulate(records(system(), step=0.2), initial=INITIAL)


def test_persistence_holds_what_was_last_known():
    y = np.array([[1.0, 5.0], [2.0, np.nan], [3.0, 7.0], [4.0, 8.0]])
    data = Records.from_arrays(None, y)
    np.testing.assert_array_equal(Persistence().fit(data).simulate(data, 2)[0][2:], [[2.0, 5.0]] * 2)
    np.testing.assert_allclose(
        Persistence("mean").fit(data).simulate(data, 2)[0][1:], [[2, 20 / 3], *[[2.5, 20 / 3]] * 2]
    )
    with pytest.raises(ValueError, match="hold"):
        Persistence("first").fit(data)


def test_arx_recovers_an_arx_system_to_rounding():
    """Two outputs of order 2: the free run of 1,000 new samples from data without noise."""
    rng = np.random.default_rng(2)
    a1, a2, b0, b2 = (scale * rng.normal(size=(2, 2)) for scale in (0.25, 0.25, 1.0, 1.0))

    def run(rows):
        u, y = rng.normal(size=(rows, 2)), np.zeros((rows, 2))
        for k in range(rows):
            y[k] = (
                a1 @ y[k - 1] + a2 @ y[k - 2] + b0 @ u[k] + b2 @ u[k - 2] + [1.0, -3.0] if k > 1 else rng.normal(size=2)
            )
        return y, u

    train = Records.from_arrays(None, *map(list, zip(run(300), run(200), strict=True)))
    test = Records.from_arrays(None, *map(list, zip(run(1000))))
    model = LinearARX(orders=(1, 2)).fit(train)
    assert model.order_ == 2 and model.parameters_ == 2 * (2 * 4 + 2 + 1)
    scores = simulation_scores([test[0].y], model.simulate(test, 2), 2)
    # Rounding of the regression, amplified by the condition of the data and by 1 / (1 - 0.9).
    assert scores.nrmse.max() < 1e-11


@pytest.mark.parametrize("refinements", [0, 20])
@pytest.mark.parametrize("inputs, outputs", [(1, 1), (2, 3)])
def test_state_space_recovers_a_system_to_rounding(inputs, outputs, refinements):
    true = system(3, 4, outputs, inputs)
    model = LinearStateSpace(orders=(2, 3, 4), horizon=8, refinements=refinements).fit(records(true, (500, 300)))
    assert model.order_ == 4
    test = records(true, (1000,), seed=9)
    scores = simulation_scores([test[0].y], model.simulate(test, 20), 20)
    assert scores.nrmse.max() < 1e-8
    poles = [np.sort_complex(np.linalg.eigvals(a)) for a in (model.system_.a, true.a)]
    np.testing.assert_allclose(*poles, rtol=0, atol=1e-8)


def test_refinement_lowers_the_simulation_error_and_reaches_the_bound_of_the_noise():
    true = system(5, 2, 1, 1)
    clean, noisy = records(true, (2000,), seed=1), records(true, (2000,), seed=1)
    noise = np.random.default_rng(0).normal(size=(2000, 1)) * 0.3 * clean[0].y.std()
    noisy = replace(noisy, runs=(replace(noisy[0], y=noisy[0].y + noise),))
    errors, fits = [], []
    for refinements in (0, 20):
        model = LinearStateSpace(orders=(2,), horizon=8, refinements=refinements).fit(noisy)
        y = model.system_.outputs(model.scaling_.inputs.to_standard(clean[0].u), _best_start(model, noisy))
        y = model.scaling_.outputs.from_standard(y)
        fits.append(np.sqrt(np.mean((y - noisy[0].y) ** 2)))
        errors.append(np.sqrt(np.mean((y - clean[0].y) ** 2)) / noise.std())
    # 6 numbers and 2 of the state are fitted to 2,000 samples: √(8 / 2000) = 0.063 of the noise remains on average.
    assert fits[1] < fits[0] and errors[1] < 2 * np.sqrt(8 / 2000)


def _best_start(model, data):
    return model.system_.initial_state(
        model.scaling_.inputs.to_standard(data[0].u), model.scaling_.outputs.to_standard(data[0].y)
    )


@pytest.mark.parametrize(
    "model, words",
    [
        (LinearARX(orders=()), "orders"),
        (LinearARX(orders=(0, 1)), "orders"),
        (LinearARX(orders=(1, 2), validation=0.0), "validation"),
        (LinearARX(orders=(60,)), "order 60"),
        (LinearStateSpace(orders=(9,), horizon=5), "orders"),
        (LinearStateSpace(orders=(1,), horizon=40), "horizon=40"),
        (LSTMSimulator(steps=0), "steps"),
        (LSTMSimulator(initial=200), "initial=200"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(model, words):
    with pytest.raises(ValueError, match=words):
        model.fit(records(system()))


def test_arx_needs_complete_rows_to_start_from():
    data = records(system())
    with pytest.raises(DataError, match="initial=1"):
        LinearARX(orders=(2,)).fit(data).simulate(data, initial=1)


@pytest.mark.parametrize("size", [200, 1000, 5000])
def test_lstm_has_the_size_that_was_asked_for(size):
    data = records(system())
    model = LSTMSimulator.of_size(size, data, steps=1, initial=5, stretch=10).fit(data)
    assert model.parameters_ == parameter_count(model.net_)
    per_unit = 8 * model.hidden + 4 * 9 + 2  # the derivative of 4 h (h + 7 + 2) + 2 (h + 1) by h
    assert abs(model.parameters_ - size) <= per_unit / 2 + 8


@pytest.mark.slow
def test_lstm_learns_a_lag_of_irregular_rows_far_better_than_the_mean():
    rng = np.random.default_rng(0)

    def lag(rows):
        dt = rng.uniform(0.5, 1.5, rows)
        u = np.repeat(rng.normal(size=rows // 5), 5)
        y = np.zeros(rows)
        for k in range(1, rows):
            y[k] = u[k - 1] + (y[k - 1] - u[k - 1]) * np.exp(-dt[k] / 5)
        return Records.from_arrays(np.cumsum(dt), y, u)

    train, test = lag(2000), lag(1000)
    model = LSTMSimulator(hidden=12, initial=20, stretch=60, steps=400).fit(train)
    assert Persistence("mean").fit(train).score(test, 20) == pytest.approx(0, abs=2)
    assert model.score(test, 20) > 80
