"""Training by the plain loop: against closed forms, a loop written out, and itself interrupted."""

from functools import partial

import pytest
import torch
from torch import nn
from training.problems import layer, line, linear, noisy, ode_data, ode_loss, settings, squared

from hbode.training import CheckpointError, Diverged, TrainingSettings, solver_costs, train
from hbode.training.batches import Samples

SGD = torch.optim.SGD


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_steps_are_those_of_a_loop_written_out():
    x, y = line()
    ours, theirs = linear(), linear()
    history = train(ours, squared, (x, y), settings(), seed=5)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 16)
    rng, losses = torch.Generator().manual_seed(5), []
    for _ in range(4):
        total = 0.0
        for rows in torch.randperm(20, generator=rng).split(6):
            loss = squared(theirs, (x[rows], y[rows]))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        losses.append(total / 20)
    # The schedule in closed form, there by a recursion: roundoff of 16 steps of size 1e-2, in float64.
    assert torch.allclose(weights(ours), weights(theirs), rtol=0, atol=1e-13)
    assert history.train["loss"] == pytest.approx(losses, rel=1e-12)
    assert history.best == history.epochs == 4 and history.validation == {} and ours.training


def test_gradient_descent_reaches_the_least_squares_solution():
    x, y = line(30)
    model = linear()
    # Condition number of x'x below 3: full steps shrink the error by more than a half each.
    train(
        model,
        squared,
        (x, y),
        settings(epochs=100, batch=30, learning_rate=0.3, schedule="constant", clip=None, optimizer=SGD),
    )
    exact = torch.linalg.lstsq(torch.cat((x, torch.ones(30, 1, dtype=x.dtype)), 1), y).solution
    assert torch.allclose(weights(model), exact[:, 0], atol=1e-10)


@pytest.mark.parametrize(
    "form", (lambda x, y: (x, y), lambda x, y: {"x": x, "y": y}, lambda x, y: torch.cat((x, y), 1))
)
def test_data_keep_their_form(form):
    x, y = line()

    def loss(model, batch):
        if isinstance(batch, torch.Tensor):
            batch = batch[:, :2], batch[:, 2:]
        elif isinstance(batch, dict):
            batch = batch["x"], batch["y"]
        return squared(model, batch)

    plain = train(linear(), squared, (x, y), settings())
    assert train(linear(), loss, form(x, y), settings()).train == plain.train


def test_learning_rates():
    rate = TrainingSettings(learning_rate=1e-3, schedule=((2, 1e-4), (3, 1e-5))).rate
    assert [rate(e) for e in (0, 1.99, 2, 2.5, 3, 9)] == [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5]
    cosine = TrainingSettings(epochs=4, learning_rate=2.0).rate
    assert [cosine(e) for e in (0, 2, 4)] == pytest.approx([2.0, 1.0, 0.0], abs=1e-15)
    assert TrainingSettings(learning_rate=0.5, schedule="constant").rate(7) == 0.5
    history = train(linear(), squared, line(), settings(schedule=((1, 1e-3), (3, 1e-4))))
    assert history.learning_rate == pytest.approx([1e-2, 1e-3, 1e-3, 1e-4], rel=1e-15)


def test_clipped_steps_have_the_length_of_the_limit():
    model, start = linear(), weights(linear())
    train(model, squared, line(), settings(epochs=1, batch=20, learning_rate=1.0, clip=1e-3, optimizer=SGD))
    assert float((weights(model) - start).norm()) == pytest.approx(1e-3, rel=1e-3)  # torch divides by norm + 1e-6


def test_measured_numbers_are_means_over_samples():
    history = train(layer("dopri5", tolerance=1e-5), ode_loss, ode_data(), settings(epochs=1, batch=8))
    assert history.train["samples"] == [pytest.approx((8 * 8 + 3 * 3) / 11)]
    # dopri5 evaluates six times a step, and once to start; the discrete adjoint walks the same steps.
    assert history.train["nfe"][0] >= 7 and history.train["nfe_backward"][0] >= 6
    assert set(history.train) == {"loss", "samples", "nfe", "nfe_backward", "rejected"}


def test_validation_chooses_the_weights_and_stops():
    x, y = line()
    model, wrong, kept = linear(), (x, -y), []
    # The better the model, the worse it does on the opposite: the first epoch is the best.
    history = train(
        model,
        squared,
        (x, y),
        settings(epochs=50, patience=3),
        validation=wrong,
        progress=lambda epoch, history: kept.append(weights(model).clone()),
    )
    assert history.best == 1 and history.epochs == len(kept) == 4
    assert torch.equal(weights(model), kept[0])
    with torch.no_grad():
        assert float(squared(model, wrong)) == pytest.approx(history.validation["loss"][0], rel=1e-13)


def test_another_number_may_choose():
    def loss(model, batch):
        return squared(model, batch), {"negative": -squared(model, batch).detach()}

    history = train(linear(), loss, line(), settings(monitor="negative"), validation=line())
    assert history.best == 1 and history.validation["negative"] == [-x for x in history.validation["loss"]]
    with pytest.raises(ValueError, match="monitor"):
        train(linear(), loss, line(), settings(monitor="positive"), validation=line())


def test_random_numbers_come_from_the_seed_and_leave_the_state_outside():
    model = linear()
    before = torch.random.get_rng_state()
    first = train(model, noisy, line(), settings(), seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    again = train(linear(), noisy, line(), settings(), seed=1)
    other = train(linear(), noisy, line(), settings(), seed=2)
    assert first.train == again.train != other.train


@pytest.mark.parametrize("schedule", ("cosine", ((2, 1e-3),)))
def test_an_interrupted_training_goes_on_to_the_same_numbers(tmp_path, schedule):
    chosen, validation = settings(epochs=6, schedule=schedule), line(7)
    whole = linear()
    expected = train(whole, noisy, line(), chosen, validation=validation)

    class Stop(Exception):
        pass

    def stop(epoch, history):
        if epoch in (2, 3):
            raise Stop

    model, file = linear(), tmp_path / "new" / "training.pt"
    for _ in range(2):
        with pytest.raises(Stop):
            train(model, noisy, line(), chosen, validation=validation, checkpoint=file, progress=stop)
        nn.init.zeros_(model.weight)  # the file has all that is needed
    history = train(model, noisy, line(), chosen, validation=validation, checkpoint=file)
    # The same operations on the same numbers.
    assert torch.equal(weights(model), weights(whole))
    assert (history.train, history.validation, history.best) == (expected.train, expected.validation, expected.best)
    # What is done is only read.
    again = linear()
    assert train(again, noisy, line(), chosen, validation=validation, checkpoint=file) == history
    assert torch.equal(weights(again), weights(whole))
    assert [path.name for path in file.parent.iterdir()] == ["training.pt"]


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    file = tmp_path / "training.pt"
    train(linear(), squared, line(), settings(), checkpoint=file)
    again = partial(train, linear(), squared, line(), checkpoint=file)
    with pytest.raises(CheckpointError, match=r"settings 'learning_rate' is 0\.01 there and 0\.1 here"):
        again(settings(learning_rate=0.1))
    with pytest.raises(CheckpointError, match="settings 'optimizer' is Adam there and SGD here"):
        again(settings(optimizer=SGD))
    with pytest.raises(CheckpointError, match="settings 'seed' is 0 there and 3 here"):
        again(settings(), seed=3)
    with pytest.raises(CheckpointError, match="settings 'samples' is 20 there and 21 here"):
        train(linear(), squared, line(21), settings(), checkpoint=file)
    with pytest.raises(CheckpointError, match="shapes 'weight'"):
        train(nn.Linear(2, 3).double(), squared, line(), settings(), checkpoint=file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="no training that goes on"):
        again(settings())


def test_a_checkpoint_runs_no_code(tmp_path):
    file = tmp_path / "training.pt"
    torch.save({"model": nn.Linear(1, 1)}, file)
    with pytest.raises(CheckpointError):
        train(linear(), squared, line(), settings(), checkpoint=file)


def test_divergence_is_an_error():
    x, y = line()
    with pytest.raises(Diverged, match="epoch 1"):
        train(linear(), squared, (x, y.index_fill(0, torch.tensor([3]), torch.inf)), settings())


@pytest.mark.parametrize(
    "name, changes",
    [
        ("epochs", {"epochs": 0}),
        ("batch", {"batch": 2.0}),
        ("learning_rate", {"learning_rate": 0.0}),
        ("clip", {"clip": -1.0}),
        ("patience", {"patience": 0}),
        ("schedule", {"schedule": "linear"}),
        ("schedule", {"schedule": ((3, 0.1), (2, 0.2))}),
        ("schedule", {"schedule": ((3, -0.1),)}),
        ("precision", {"precision": "16"}),
        ("validation_batch", {"validation_batch": 0}),
    ],
)
def test_settings_are_checked(name, changes):
    with pytest.raises(ValueError, match=name):
        TrainingSettings(**changes)


@pytest.mark.parametrize(
    "error, name, changes",
    [
        (TypeError, "model", {"model": abs}),
        (ValueError, "model", {"model": nn.Tanh()}),
        (TypeError, "loss", {"loss": None}),
        (TypeError, "loss", {"loss": lambda model, batch: 1.0}),
        (TypeError, "loss", {"loss": lambda model, batch: model(batch[0])}),
        (ValueError, "loss", {"loss": lambda model, batch: (squared(model, batch), {"loss": 1.0})}),
        (ValueError, "loss", {"loss": lambda model, batch: (squared(model, batch), {str(batch[0][0]): 1.0})}),
        (TypeError, "batches", {"batches": torch.utils.data.TensorDataset(*line())}),
        (ValueError, "batches", {"batches": (torch.ones(3), torch.ones(4))}),
        (ValueError, "validation", {"validation": torch.ones(0, 2)}),
        (TypeError, "settings", {"settings": {}}),
        (ValueError, "validation", {"settings": settings(patience=2)}),
        (ValueError, "engine", {"engine": "fast"}),
    ],
)
def test_arguments_are_checked(error, name, changes):
    given = {"model": linear(), "loss": squared, "batches": line(), "settings": settings()} | changes
    first = [given.pop(name) for name in ("model", "loss", "batches", "settings")]
    with pytest.raises(error, match=name):
        train(*first, **given)


def test_mixed_precision_is_near_full_precision():
    def float_line():
        return tuple(x.float() for x in line())

    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).state_dict()
    losses = []
    for precision in ("full", "bf16-mixed"):
        model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        model.load_state_dict(start)
        history = train(model, squared, float_line(), settings(precision=precision))
        losses.append(history.train["loss"])
        assert all(p.dtype == torch.float32 for p in model.parameters())
    # bfloat16 has eight bits, and the loss is a square.
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


def test_mixed_precision_of_a_field_inside_a_solve():
    found = []
    for precision in ("full", "bf16-mixed"):
        model = layer("dopri5", tolerance=1e-2).float()
        data = tuple(x.float() for x in ode_data())
        found.append(train(model, ode_loss, data, settings(precision=precision)).train)
    # Eight bits of the field are finer than the tolerance.
    assert found[1]["loss"] != found[0]["loss"] and found[1]["loss"] == pytest.approx(found[0]["loss"], rel=0.05)
    assert max(found[1]["nfe"]) <= 2 * max(found[0]["nfe"])


def test_solver_costs_sum():
    one, two = layer(), layer()
    one(ode_data()[0]), two(ode_data()[0])
    both = solver_costs(one.stats, two.stats)
    assert both["nfe"]() == one.stats.nfe + two.stats.nfe and both["nfe_backward"]() == 0


def test_small_batches_of_samples():
    data = Samples("batches", torch.arange(5.0))
    shards = list(data.shards(torch.tensor([4, 3, 2, 1, 0]), 2, torch.device("cpu")))
    assert [shard.data.tolist() for shard in shards] == [[4, 3], [2, 1], [0]]
    assert [(shard.samples, shard.share) for shard in shards] == [(2, 1.0), (2, 1.0), (1, 1.0)]
