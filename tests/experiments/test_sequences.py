"""Experiments on long sequences: their data against what they must be, their models, and the command."""

import json

import pytest
import torch

from hbode.cli import main
from hbode.experiments import EXPERIMENTS
from hbode.experiments.sequences.models import network
from hbode.experiments.sequences.tasks import memories, sums, words
from hbode.models import parameter_count


def rng():
    return torch.Generator().manual_seed(0)


def test_sums_are_of_the_two_marked_numbers_one_in_each_half():
    x, y = sums(200, 31, rng())
    marks = x[..., 1] > 0
    assert marks[:, :15].sum(1).eq(1).all() and marks[:, 15:].sum(1).eq(1).all()
    torch.testing.assert_close(x[..., 0][marks].view(200, 2).sum(1, keepdim=True), y)
    assert x[..., 0].min() >= 0 and x[..., 0].max() <= 1


def test_memories_are_said_again_behind_the_mark():
    tokens, said = memories(5, 30, rng())
    assert tokens.shape == (5, 50) and said.shape == (5, 10)
    assert torch.equal(tokens[:, :10], said) and said.max() < 8
    assert tokens[:, 39].eq(9).all() and tokens[:, 10:39].eq(8).all() and tokens[:, 40:].eq(8).all()


def test_words_come_twice():
    tokens, said = words(5, 6, rng())
    assert tokens.shape == (5, 13) and tokens[:, [0, 7]].eq(9).all()
    assert torch.equal(tokens[:, 1:7], said) and torch.equal(tokens[:, 8:], said[:, :-1])


@pytest.mark.parametrize("name", [*EXPERIMENTS["copy"].looks])
def test_models_have_equal_sizes_and_see_no_later_sample(name):
    torch.manual_seed(0)
    whole = parameter_count(network("lstm", 3, 4, 24, False))
    model = network(name, 3, 4, 24, False).eval()
    assert parameter_count(model) == pytest.approx(whole, rel=0.25)  # heads and pairs of channels round widths
    x = torch.randn(2, 40, 3)
    later = torch.cat((x[:, :25], torch.randn(2, 15, 3)), 1)
    with torch.no_grad():
        y, z = model(x), model(later)
        assert y.shape == (2, 40, 4)
        torch.testing.assert_close(y[:, :25], z[:, :25], rtol=0, atol=1e-5)
        assert network(name, 3, 4, 24, True)(x).shape == (2, 4)


def test_pixels_are_permuted_alike_in_all_parts():
    settings = EXPERIMENTS["permuted-digits"].settings["short"]
    rows, mixed = (EXPERIMENTS[name].load(None, settings) for name in ("pixel-digits", "permuted-digits"))
    order = torch.randperm(64, generator=rng())
    for one, other in zip(rows.parts, mixed.parts, strict=True):
        assert one[0].shape[1:] == (64, 1) and torch.equal(one[0][:, order], other[0]) and torch.equal(one[1], other[1])


@pytest.mark.parametrize(
    "name", ["copy", "pixel-digits", *(pytest.param(x, marks=pytest.mark.slow) for x in ("adding", "duplication"))]
)
def test_command(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hbode.experiments.sequences.tasks.COUNTS", (60, 20, 20))
    out = tmp_path / "out"
    given = ["--epochs", "1", "--seeds", "1", "--models", "momentum-lstm,heavy-ball", "--jobs", "1", "--width", "8"]
    given += [] if name == "pixel-digits" else ["--length", "24"]
    assert main(["reproduce", name, *given, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "HEAVY-BALL" in said and "NFE" not in said and "epochs 1" in said
    found = json.loads((out / "results.json").read_text())
    assert found["settings"]["solver"] is None and len(found["trials"]) == 2
    assert (out / "training.png").exists()


@pytest.mark.parametrize(
    "given, message",
    [
        (["adding", "--tol", "1e-3"], "--tol has no meaning in adding: nothing is solved"),
        (["adding", "--no-compile"], "--compile has no meaning in adding: nothing is solved"),
        (["copy", "--nystrom", "dprkn8"], "--nystrom has no meaning in copy"),
        (["pixel-digits", "--length", "9"], "--length has no meaning in pixel-digits"),
        (["adding", "--models", "hbnode"], "--models must be some of lstm, gru, momentum-lstm"),
        (["adding", "--data", "x.npz"], "adding takes no --data"),
    ],
)
def test_what_has_no_meaning_is_refused(given, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *given]) == 2
    assert message in capsys.readouterr().err and not [*tmp_path.iterdir()]
