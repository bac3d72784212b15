"""Training and errors."""

import numpy as np
import pytest
import torch

from hbode.models import ODERNN, SolverSettings, make_system
from hbode.timeseries import (
    Protocol,
    Records,
    Task,
    TrainSettings,
    forecast_error,
    learn,
    make_dataset,
    persistence,
    predict,
    train,
)
from hbode.timeseries.evaluation import typical_window
from hbode.timeseries.learners import learn_all


def dataset():
    t = np.arange(400) / 10.0
    values = np.stack((np.sin(t), np.cos(1.3 * t)), 1)
    return make_dataset(Records.from_arrays(t, values), Protocol(observed=6, forecast=3, max_train=64), 0)


def task(epochs: int = 6, name: str = "hbnode") -> Task:
    return Task(name, 6, 6, SolverSettings(), TrainSettings(epochs=epochs, batch=32), 0, "cpu")


def test_training_lowers_the_error_and_is_reproducible() -> None:
    data = dataset()
    first = learn(task(), data)
    again = learn(task(), data)
    assert first.failure is None and first.error is not None and again.error is not None
    assert first.error == again.error
    history = first.history
    assert history.loss[-1] < 0.9 * history.loss[0]
    assert [len(values) for values in vars(history).values()] == [6] * len(vars(history))
    # dopri5: six evaluations a step and one at the start, at least one step in each of the six solves.
    assert min(history.nfe_forward) >= 7 * 6 and min(history.nfe_backward) >= 7 * 6
    assert 0 < (first.gamma or 0) < 1 and first.xi is None
    assert first.forecast is not None and first.forecast.shape == (len(data.test), 3, 2)


@pytest.mark.slow
def test_models_side_by_side_are_those_one_by_one() -> None:
    tasks, data = [task(2, name) for name in ("node", "hbnode", "ghbnode")], dataset()
    for alone, beside in zip(learn_all(tasks, data, 1), learn_all(tasks, data, 2), strict=True):
        assert alone.task == beside.task and alone.error is not None and beside.error is not None
        # float32, two epochs of six steps; another number of threads sums in another order.
        assert beside.error.mse == pytest.approx(alone.error.mse, rel=1e-3)


def test_the_best_epoch_is_kept() -> None:
    data = dataset()
    torch.manual_seed(0)
    # Noise cannot be forecast: the more a model learns of the waves, the worse it does here.
    data.validation.x.normal_()
    model = ODERNN(make_system("node", 6, 6), 6, 2)
    history = train(model, data, TrainSettings(epochs=6, batch=32), 0)
    assert min(history.validation_forecast) < history.validation_forecast[-1]
    error = forecast_error(predict(model, data.validation, 6), data.validation.x[:, 6:])
    assert error.mse == pytest.approx(min(history.validation_forecast), rel=1e-5)


def test_a_failure_is_reported_and_not_raised() -> None:
    data = dataset()
    data.train.x[0, 0, 0] = float("inf")
    learned = learn(task(epochs=1), data)
    assert learned.error is None and learned.failure


def test_errors_by_hand() -> None:
    truth = torch.tensor([[[1.0], [2.0]], [[-1.0], [-2.0]]])
    found = forecast_error(torch.zeros_like(truth), truth)
    assert found.mse == 2.5 and found.relative == 1.0
    assert found.by_step == [1.0, 4.0] and found.by_channel == [2.5]


def test_persistence_keeps_the_last_value() -> None:
    data = dataset()
    kept = persistence(data.test, 6)
    assert kept.shape == (len(data.test), 3, 2)
    assert torch.equal(kept[:, 2], data.test.x[:, 5])


def test_typical_window_is_the_median() -> None:
    truth = np.zeros((3, 2, 1))
    assert typical_window([np.array([3.0, 1.0, 2.0])[:, None, None] + truth], truth) == 2
