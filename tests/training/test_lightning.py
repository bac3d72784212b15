"""The engine of PyTorch Lightning makes the steps of the plain loop."""

import csv

import pytest
import torch
from torch import nn
from training.problems import layer, line, linear, noisy, ode_data, ode_loss, settings, squared

from hbode.training import Diverged, train

pytest.importorskip("lightning", reason="the extra hbode[train] is not installed")
from lightning.pytorch.loggers import CSVLogger

from hbode.training import Lightning

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:lightning")


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("loss", (squared, noisy))
def test_losses_are_those_of_the_plain_loop(loss):
    plain, model = linear(), linear()
    chosen = settings(patience=2, schedule=((2, 1e-3),))
    expected = train(plain, loss, line(), chosen, validation=line(7))
    found = train(model, loss, line(), chosen, validation=line(7), engine="lightning")
    # The same operations in the same order.
    assert (found.train, found.validation, found.best) == (expected.train, expected.validation, expected.best)
    assert found.learning_rate == expected.learning_rate
    assert torch.equal(weights(model), weights(plain))


def test_a_model_of_the_package_with_its_costs():
    plain, model = layer("dopri5", tolerance=1e-5), layer("dopri5", tolerance=1e-5)
    expected = train(plain, ode_loss, ode_data(), settings())
    found = train(model, ode_loss, ode_data(), settings(), engine=Lightning())
    assert found.train == expected.train and found.train["nfe_backward"][0] >= 6
    assert torch.equal(weights(model), weights(plain))


def test_early_stopping():
    x, y = line()
    found = train(linear(), squared, (x, y), settings(epochs=50, patience=3), validation=(x, -y), engine="lightning")
    assert (found.best, found.epochs) == (1, 4)


def test_checkpoints_are_of_either_engine(tmp_path):
    class Stop(Exception):
        pass

    def stop(epoch, history):
        raise Stop

    whole, model, file = linear(), linear(), tmp_path / "training.pt"
    expected = train(whole, noisy, line(), settings(), validation=line(7))
    for engine in ("lightning", "plain", "lightning"):
        with pytest.raises(Stop):
            train(model, noisy, line(), settings(), validation=line(7), checkpoint=file, engine=engine, progress=stop)
        nn.init.zeros_(model.weight)
    found = train(model, noisy, line(), settings(), validation=line(7), checkpoint=file, engine="lightning")
    assert (found.train, found.validation) == (expected.train, expected.validation)
    assert torch.equal(weights(model), weights(whole))


def test_loggers_get_what_was_measured(tmp_path):
    engine = Lightning(logger=CSVLogger(tmp_path, version=0))
    history = train(layer(), ode_loss, ode_data(), settings(epochs=2), validation=ode_data(3), engine=engine)
    with open(tmp_path / "lightning_logs" / "version_0" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for part in ("train", "validation"):
        for name, column in getattr(history, part).items():
            logged = [float(row[f"{part}_{name}"]) for row in rows if row[f"{part}_{name}"]]
            assert logged == pytest.approx(column, rel=1e-6)  # the trainer keeps float32


def test_errors():
    with pytest.raises(ValueError, match="max_epochs"):
        Lightning(max_epochs=3)
    with pytest.raises(Diverged, match="epoch 1"):
        train(linear(), squared, tuple(torch.inf * x for x in line()), settings(), engine="lightning")


def test_mixed_precision():
    losses = []
    for engine in ("plain", "lightning"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        data = tuple(x.float() for x in line())
        losses.append(train(model, squared, data, settings(precision="bf16-mixed"), engine=engine).train["loss"])
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_two_processes():
    steps = settings(epochs=1, batch=5, learning_rate=1.0, schedule="constant", clip=None, optimizer=torch.optim.SGD)
    alone, together = layer(), layer()
    one = train(alone, ode_loss, ode_data(), steps, validation=ode_data(3))
    two = train(together, ode_loss, ode_data(), steps, validation=ode_data(3), devices=2, engine="lightning")
    assert torch.allclose(weights(together), weights(alone), rtol=0, atol=1e-13)
    assert two.train["loss"] == pytest.approx(one.train["loss"], rel=1e-12)
    assert two.train["nfe_backward"] == one.train["nfe_backward"]
