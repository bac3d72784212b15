"""Two processes make the steps of one."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from training.problems import PartlyUsed, failing_beside, layer, line, linear, ode_data, ode_loss, settings, squared

from hbode.training import Diverged, train

SGD = torch.optim.SGD


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# A step of length 1 down the gradient is the gradient. 11 samples in batches of 11 and of 5: shards of 6 and 5, of 3
# and 2, and a last one of a single sample, which one process alone has.
@pytest.mark.parametrize(
    "method, gradient, tolerance",
    [
        ("rk4", "discrete_adjoint", 1e-13),
        pytest.param("dopri5", "discrete_adjoint", 1e-6, marks=pytest.mark.slow),
        pytest.param("dopri5", "continuous_adjoint", 1e-6, marks=pytest.mark.slow),
        pytest.param("dopri5", "backprop", 1e-6, marks=pytest.mark.slow),
    ],
)
def test_gradients_are_those_of_one_process(method, gradient, tolerance):
    steps = settings(epochs=1, batch=5, learning_rate=1.0, schedule="constant", clip=None, optimizer=SGD)
    alone, together = layer(method, gradient), layer(method, gradient)
    one = train(alone, ode_loss, ode_data(), steps, validation=ode_data(3))
    two = train(together, ode_loss, ode_data(), steps, validation=ode_data(3), devices=2)
    # rk4 takes the same steps for any samples: roundoff. Solvers at tolerances of 1e-10 choose theirs for a batch.
    assert float((weights(alone) - weights(layer(method))).norm()) > 0.1
    assert torch.allclose(weights(together), weights(alone), rtol=0, atol=tolerance)
    for name in ("train", "validation"):
        assert getattr(two, name)["loss"] == pytest.approx(getattr(one, name)["loss"], abs=tolerance)
    # Sizes of shards, weighted by samples: twice (3 · 3 + 2 · 2), and 1 · 1.
    assert two.train["samples"] == [pytest.approx((2 * (9 + 4) + 1) / 11, rel=1e-15)]
    if method == "rk4":  # as many evaluations for each sample, whoever makes them
        assert two.train["nfe"] == one.train["nfe"] and two.train["nfe_backward"] == one.train["nfe_backward"]


@pytest.mark.slow
def test_parameters_that_a_process_does_not_reach():
    x = torch.tensor([[1.0, 2.0], [-1.0, 0.5]], dtype=torch.float64)
    steps = settings(epochs=3, batch=2, clip=None, optimizer=partial(torch.optim.AdamW, weight_decay=0.1))
    model = PartlyUsed()
    history = train(model, squared, (x, x[:, :1]), steps, devices=2)
    # By hand: each sample trains the part that it reaches, and half of its gradient counts.
    theirs = PartlyUsed()
    optimizer = steps.optimizer(theirs.parameters(), lr=1e-2)
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = steps.rate(epoch)
        optimizer.zero_grad()
        sum(0.5 * squared(theirs, (one, one[:, :1])) for one in x.split(1)).backward()
        optimizer.step()
    assert torch.allclose(weights(model), weights(theirs), rtol=0, atol=1e-14)
    assert torch.equal(weights(model.never), weights(linear())) and history.epochs == 3


SCRIPT = """
import os, sys, torch
from training.problems import PartlyUsed, failing_beside, layer, line, linear, ode_data, ode_loss, settings, squared
from hbode.training import Diverged, train

rank, file, engine = int(os.environ["RANK"]), *sys.argv[1:]
model = layer()
if rank:  # the weights of the first process count
    torch.nn.init.zeros_(model.system.f.layers[0].weight)
history = train(model, ode_loss, ode_data(), settings(batch=5), validation=ode_data(3), engine=engine)
torch.save({"model": model.state_dict(), "loss": history.train["loss"]}, f"{file}.{rank}")
assert not torch.distributed.is_initialized()
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["plain", "lightning"])
def test_torchrun(tmp_path, engine):
    if engine == "lightning":
        pytest.importorskip("lightning", reason="the extra hbode[train] is not installed")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    subprocess.run(
        [*command, str(tmp_path / "script.py"), str(tmp_path / "result"), engine],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
        capture_output=True,
    )
    alone = layer()
    one = train(alone, ode_loss, ode_data(), settings(batch=5), validation=ode_data(3))
    for rank in range(2):
        found = torch.load(tmp_path / f"result.{rank}", weights_only=True)
        assert found["loss"] == pytest.approx(one.train["loss"], rel=1e-12)
        for name, x in alone.state_dict().items():
            assert torch.allclose(found["model"][name], x, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_processes(tmp_path):
    class Stop(Exception):
        pass

    def stop(epoch, history):
        if epoch == 2:
            raise Stop

    whole, model, file = linear(), linear(), tmp_path / "training.pt"
    expected = train(whole, squared, line(), settings(), validation=line(7))
    with pytest.raises(Stop):
        train(model, squared, line(), settings(), validation=line(7), checkpoint=file, devices=2, progress=stop)
    assert not torch.distributed.is_initialized() and "RANK" not in os.environ
    for devices in (2, 1):
        history = train(model, squared, line(), settings(), validation=line(7), checkpoint=file, devices=devices)
        assert history.train["loss"] == pytest.approx(expected.train["loss"], rel=1e-12)
        assert torch.allclose(weights(model), weights(whole), rtol=0, atol=1e-13)


@pytest.mark.slow
def test_what_happens_in_one_process_is_told_by_the_first():
    steps = settings(batch=5)
    with pytest.raises(RuntimeError, match="process 1 of the training: ArithmeticError: of the second"):
        train(linear(), failing_beside, line(), steps, devices=2)
    with pytest.raises(Diverged):
        train(linear(), squared, tuple(torch.inf * x for x in line()), steps, devices=2)


def test_what_cannot_be_sent_is_refused():
    with pytest.raises(TypeError, match="loss must be of a module"):
        train(linear(), lambda model, batch: squared(model, batch), line(), settings(), devices=2)
    with pytest.raises(ValueError, match="devices"):
        train(linear(), squared, line(), settings(), devices=0)
