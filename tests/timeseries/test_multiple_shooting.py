"""Training by gradients: laws that are known are found, batches are functions of seed and step, trainings go on."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from hbode import SecondOrder
from hbode.models.continuous import NeuralStateSpace, PositionReadout
from hbode.timeseries import DataError, Records
from hbode.timeseries.identification import Force, SystemIdentifier
from hbode.timeseries.identification.fitting.multiple_shooting import (
    GradientSettings,
    Windows,
    fit_by_gradients,
    horizon_share,
    masked_error,
    read_training,
)
from hbode.timeseries.identification.runs.encoder import encode, encoded, set_encoder
from hbode.timeseries.identification.runs.stretches import stretches

STIFFNESS, DAMPING, RATE = 1.3, 0.4, 0.25
"""Of h'' + d h' + k h = u in normalised time, and the time from one sample to the next."""


def held_states(rows, seed=0):
    """Return u (T,), held between samples, and the states (T, 2) of the oscillator, exact at the samples."""
    rng = np.random.default_rng(seed)
    u = np.repeat(rng.normal(size=rows // 5 + 1), 5)[:rows]
    a = np.array([[0.0, 1.0, 0.0], [-STIFFNESS, -DAMPING, 1.0], [0.0, 0.0, 0.0]])
    step = expm(a * RATE)
    x = np.zeros((rows, 2))
    for k in range(rows - 1):
        x[k + 1] = step[:2, :2] @ x[k] + step[:2, 2] * u[k]
    return u, x


def record(rows=300, seed=0):
    u, x = held_states(rows, seed)
    return Records.from_arrays(np.arange(rows) * RATE, x[:, 0], u)


def linear_model(samples=4, seed=0, stiffness=1.0, damping=0.2, gain=0.8):
    """Return a linear oscillator with an encoder, whose numbers are not yet those of the record."""
    torch.manual_seed(seed)
    model = NeuralStateSpace(SecondOrder(Force(1, 1, degree=1, hidden=0)), PositionReadout(1), 1, substeps=1).double()
    with torch.no_grad():
        model.system.f.linear.weight.copy_(torch.tensor([[-stiffness, -damping, gain]]))
    return with_encoder(model, samples)


def with_encoder(model, samples):
    """Give it the encoder by least squares on exact states."""
    u, x = held_states(300)
    windows = [torch.from_numpy(z).unfold(0, samples, 1).unsqueeze(2) for z in (x[:, 0], u)]
    torch.manual_seed(0)
    set_encoder(model, samples, *windows, torch.from_numpy(x[samples - 1 :]))
    return model


QUICK = GradientSettings(steps=40, batch=4, learning_rate=2e-2, stretch=20, every=10)


def test_the_encoder_of_a_linear_system_is_exact():
    model = linear_model()
    other, states = record(seed=5), held_states(300, seed=5)[1]
    given = stretches(other, 50, "hold", stride=10)
    with torch.no_grad():
        found, behind = encode(model, given)
    at = [start + 3 for _, start in given.place]
    # Two numbers from four samples of a linear map: exact but for the conditioning of the windows, with noiseless rows
    # a ratio of singular values of some 1e3, and what rcond = 1e-8 cuts off.
    assert np.abs(found[:, :, 0].numpy().T - states[at]).max() < 1e-6
    assert behind.y.shape[1] == 47 and float(behind.t[0]) == 0.0


@pytest.mark.slow
def test_a_known_oscillator_is_found_by_adam():
    model = linear_model()
    settings = GradientSettings(steps=400, batch=8, learning_rate=3e-2, stretch=30, every=50)
    result = fit_by_gradients(model, record(), settings, between="hold")
    k, d, b = (-1, -1, 1) * model.system.f.linear.weight.detach().numpy()[0]
    # One step of rk4 a sample, ω dt = 0.29: its relative errors of frequency and damping are (ω dt)⁴ / 120 = 6e-5 and
    # (ω dt)⁵ / (72 ζ ω dt) = 6e-4. Adam ends within its last steps, 2 % of the rate, 6e-4 each.
    assert (k, d, b) == pytest.approx((STIFFNESS, DAMPING, 1.0), abs=2e-2)
    assert min(result.validation) < 1e-4 and len(result.train) <= 400


def test_horizons_grow_to_whole_stretches():
    shares = [horizon_share(step / 100) for step in range(100)]
    assert shares == sorted(shares) and shares[0] == 0.1 and shares[-1] == 1.0 and len(set(shares)) == 3


def test_a_batch_is_a_function_of_seed_and_step():
    windows = Windows(record(), 4, "hold")
    (a, _), (b, _), (c, _) = (windows.draw(key, 5, 20) for key in ((1, 7), (1, 7), (1, 8)))
    assert torch.equal(a.y, b.y) and torch.equal(a.u, b.u) and not torch.equal(a.y, c.y)
    assert a.y.shape == (5, 24, 1) and a.u.shape[:2] == (24, 5)


def test_batches_are_cut_from_the_records():
    given = record()
    windows = Windows(given, 4, "hold", dtype=torch.float64)
    drawn, target = windows.draw((0, 0), 6, 20)
    rows = {tuple(row) for row in np.lib.stride_tricks.sliding_window_view(given[0].y[:, 0], 24)}
    assert all(tuple(row) in rows for row in drawn.y[:, :, 0].tolist())
    assert torch.equal(target, drawn.y[:, 4:])


def test_short_runs_are_padded_and_held_out_rows_not_trained_on():
    t = np.arange(30) * RATE
    records = Records.from_arrays([t, t[:10]], [np.sin(t), np.cos(t[:10])], [t, t[:10]])
    held = np.zeros(40, bool)
    held[35:] = True
    windows = Windows(records, 4, "linear", held)
    seen = [windows.draw((0, step), 8, 20) for step in range(20)]
    short = [(y, target) for given, of in seen for y, target in zip(given.y, of, strict=True) if y[10:].isnan().all()]
    assert short and all(target[1:].isnan().all() and not target[:1].isnan().any() for _, target in short)


def test_missing_outputs_are_not_looked_at():
    model, given = linear_model(), stretches(record(), 40, "hold")
    with torch.no_grad():
        y = encoded(model, given)[1:].transpose(0, 1)
    spoiled = given.y[:, 4:].clone()
    spoiled[:, ::2] = torch.nan
    assert float(masked_error(y, spoiled)) == float((y - spoiled)[:, 1::2].square().mean())
    assert float(masked_error(y, torch.full_like(y, torch.nan))) == 0.0
    whole = record()
    gaps = np.where(np.arange(300)[:, None] % 40 < 8, np.nan, whole[0].y)
    result = fit_by_gradients(model, Records.from_arrays(whole[0].t, gaps, whole[0].u), QUICK, between="hold")
    assert np.isfinite(result.train).all() and result.validation[-1] < 0.5


def test_a_run_that_is_too_short_for_the_encoder_is_named():
    t = np.arange(30) * RATE
    records = Records.from_arrays([t, t[:4]], [t, t[:4]], [t, t[:4]])
    with pytest.raises(DataError, match=r"run 1 has 4 rows: the encoder reads 4, so that at least 5 are needed"):
        Windows(records, 4, "linear")
    gaps = np.where(np.arange(30) % 3 == 0, np.nan, t)
    with pytest.raises(DataError, match="no 4 rows in succession"):
        Windows(Records.from_arrays(t, gaps, t), 4, "linear")


def test_a_model_without_an_encoder_is_refused():
    model = NeuralStateSpace(SecondOrder(Force(1, 1)), PositionReadout(1), 1)
    with pytest.raises(ValueError, match="model must have an encoder"):
        fit_by_gradients(model, record(), QUICK)


@pytest.mark.parametrize("at", [15, 31])
def test_an_interrupted_training_goes_on_to_the_same_losses(tmp_path, at, monkeypatch):
    whole = fit_by_gradients(linear_model(), record(), QUICK, between="hold", seed=3)
    place = tmp_path / "one.training"
    draw = Windows.draw

    def interrupted(self, key, *sizes):
        if key[1] == at:
            raise KeyboardInterrupt
        return draw(self, key, *sizes)

    monkeypatch.setattr(Windows, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_by_gradients(linear_model(), record(), QUICK, between="hold", seed=3, checkpoint=place)
    monkeypatch.undo()
    assert len(read_training(place)["train"]) == at // 10 * 10
    model = linear_model()
    resumed = fit_by_gradients(model, record(), QUICK, between="hold", seed=3, checkpoint=place)
    assert resumed.train == pytest.approx(whole.train, rel=1e-6) and len(whole.train) == 40
    assert resumed.validation == pytest.approx(whole.validation, rel=1e-6)


@pytest.mark.parametrize("spoil", [b"PK\3\4", b""])
def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path, spoil):
    place = tmp_path / "one.training"
    place.write_bytes(spoil)
    with pytest.raises(DataError, match=r"one\.training: no training that goes on"):
        fit_by_gradients(linear_model(), record(), QUICK, between="hold", checkpoint=place)


def test_batches_that_run_away_end_the_training():
    model = linear_model(stiffness=-1e6)
    with pytest.raises(RuntimeError, match="ran away; try a smaller learning_rate"):
        fit_by_gradients(model, record(), QUICK, between="hold")


SETTINGS = {"degree": 1, "initial": 6, "seeds": 1, "substeps": 1, "between": "hold", "compile": False}
SETTINGS |= {"stretch": 30, "validation": 0.2}


@pytest.mark.slow
def test_the_identifier_trains_large_models_by_gradients_and_saves_their_encoder(tmp_path):
    given = record()
    model = SystemIdentifier("hbnode", hidden=(16, 16), steps=30, batch=4, evaluations=5, **SETTINGS)
    model = model.fit(given.rows(0, 200))
    assert list(model.fits_[0].stages) == ["linear law and polynomial", "by gradients"]
    assert model.members_[0].encoder.samples == 6
    model.save(tmp_path)
    later = given.rows(200, None)
    again = SystemIdentifier.load(tmp_path)
    assert again.get_params() == model.get_params() and again.hidden == (16, 16)
    assert np.array_equal(again.simulate(later)[0], model.simulate(later)[0])
    # the law is found by least squares before, and the network is small
    assert model.score(later) > 95
    assert model.score(later, initial=4) > 90  # fewer than the encoder reads


@pytest.mark.slow
def test_small_models_trained_by_adam_are_finished_by_least_squares():
    given = record()
    model = SystemIdentifier("hbnode", hidden=0, optimizer="adam", steps=30, batch=4, evaluations=10, **SETTINGS)
    model.fit(given.rows(0, 200))
    assert list(model.fits_[0].stages) == ["linear law and polynomial", "by gradients", "with network"]
    assert model.members_[0].encoder is None and model.score(given.rows(200, None)) > 99


@pytest.mark.parametrize(
    "given, message",
    [
        ({"optimizer": "sgd"}, "optimizer must be one of auto, least_squares, adam, got 'sgd'"),
        ({"hidden": (8, 0)}, "hidden must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        SystemIdentifier("hbnode", **given).fit(record())
