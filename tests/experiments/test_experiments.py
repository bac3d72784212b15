"""The experiments of the paper: their data and models against what they must be, and the runner on a small one."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hbode.cli import main
from hbode.experiments import EXPERIMENTS, MODELS, Experiment, Settings, Splits, reproduce
from hbode.experiments.baselines import constant, linear
from hbode.experiments.images import in_order
from hbode.experiments.initialisation import Driven
from hbode.experiments.point_cloud import nested_spheres
from hbode.experiments.report import spread, verdict
from hbode.experiments.walker2d import lagged
from hbode.experiments.walker2d import windows as walks
from hbode.models import SolverSettings, parameter_count
from hbode.timeseries import DataError
from hbode.training import TrainingSettings

DATA = Path(__file__).parents[2] / "../shared/data"
FAST = SolverSettings("dopri5", 1e-3, 1e-3)


def quick(name: str, **training: object) -> Settings:
    """Return the short settings of an experiment, for one epoch at loose tolerances."""
    own = EXPERIMENTS[name].settings["short"]
    trained = own.training and replace(own.training, epochs=1, **training)  # type: ignore[arg-type]
    return replace(own, training=trained, solver=FAST, seeds=1)


# data and models -----------------------------------------------------------------------------------------------------


def test_point_clouds_lie_evenly_in_their_disc_and_ring():
    x, label = nested_spheres(30_000, torch.Generator().manual_seed(1))
    radius, inside = x.norm(dim=1), label[:, 0] < 0
    assert inside.sum() == 10_000 and label[~inside].eq(1).all()
    assert radius[inside].max() <= 0.5 + 1e-6 and 1 - 1e-6 <= radius[~inside].min() <= radius.max() <= 1.5 + 1e-6
    # Even in area: half of a disc lies within 1/√2 of its radius. 5 standard deviations of a share of 10,000.
    assert abs((radius[inside] < 0.5 / 2**0.5).double().mean() - 0.5) < 0.025
    assert x.mean(0).abs().max() < 0.04  # radii of 1.2, 30,000 points: 0.005 and less


def test_models_have_the_published_sizes():
    """568 and 567 are what the published notebooks print; their GHBNODE and SONODE keep a ξ and a γ differently."""
    cloud = EXPERIMENTS["point-cloud"]
    data = cloud.load(None, quick("point-cloud"))
    counts = [parameter_count(cloud.model(name, data, quick("point-cloud"), False)) for name in MODELS]
    assert counts == [525, 567, 527, 568, 569]
    # Widths of 92, 64, 50, 50 and 45 in the published script; about 85,000 parameters.
    images, full = EXPERIMENTS["images"], EXPERIMENTS["images"].settings["full"]
    digits = in_order(np.zeros((10, 28, 28)), np.zeros(10), (0.4, 0.6), "")
    for name, published in zip(MODELS, (92, 64, 50, 50, 45), strict=True):
        model = images.model(name, digits, full, False)
        assert abs(model[0].system.f.second.out_channels - published) <= 1
        assert parameter_count(model) == pytest.approx(85_000, rel=0.02)


def plane(tmp_path: Path, rows: int = 900) -> Path:
    path = tmp_path / "plane.csv"
    head = '"Force","Voltage","Acceleration1","Acceleration2","Acceleration3","Fs",'
    lines = [f"{i},{2 * i},{3 * i},{-i},{5 * i},{400 if i == 0 else ''}," for i in range(rows)]
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_plane_windows_are_of_kept_rows_and_forecast_the_rows_that_follow(tmp_path):
    rows = 900
    data = EXPERIMENTS["plane-vibration"].load(plane(tmp_path, rows), quick("plane-vibration"))
    number = np.arange(rows)
    ends = []
    for t, x, ahead in data.parts:
        assert t.shape[1:] == (72,) and x.shape[1:] == (64, 5) and ahead.shape[1:] == (8, 5)
        # Standardised rows are affine in the number of the row, which is thus known from every value; float32.
        row, future = ((y * number.std() + number.mean()).double() for y in (x[..., 0], ahead[..., 0]))
        torch.testing.assert_close(t[:, :64], row - row[:, :1], rtol=0, atol=1e-3)
        torch.testing.assert_close(t[:, 64:], future - row[:, :1], rtol=0, atol=1e-3)
        torch.testing.assert_close(future.diff(), torch.ones_like(future[:, 1:]), rtol=0, atol=1e-3)
        assert (t.diff() > 0.5).all() and (t[:, :64].diff() > 1.5).any()  # in order, some rows missing
        torch.testing.assert_close(x[..., 3], -x[..., 0])
        ends += [*zip(row[:, 0], row[:, -1], strict=True)]
    assert all(a < b for (_, a), (b, _) in pairwise(ends))  # no row is seen twice
    kept = np.random.RandomState(1)
    kept.standard_normal((rows, 5))
    first = np.sort(kept.choice(rows - 100, int(0.9 * (rows - 100)), replace=False))[:64]
    torch.testing.assert_close(data.train[0][0, :64], torch.tensor(first - first[0]).double())


def test_walker_windows(tmp_path):
    run = np.arange(400.0)[:, None] * np.ones(17)
    t, x, after = walks([run, -run], np.random.default_rng(0))
    torch.testing.assert_close(after[..., 0].abs(), x[..., 0].abs() + 1)  # the next row, kept or not
    gap = x[..., 0].abs().diff(dim=1)
    torch.testing.assert_close(64 * t.diff()[:, 1:], gap.double())  # the time before an observation passes after it
    assert set(gap.unique().tolist()) >= {1.0, 2.0} and t[:, 0].eq(0).all()
    rows = lagged((t, x, after), 3)
    torch.testing.assert_close(rows[:, 5], torch.cat((x[:, 5], x[:, 4], x[:, 3]), -1))
    torch.testing.assert_close(rows[:, 0], x[:, 0].repeat(1, 3))


def test_images_are_read_and_split_in_order(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 8, 8), np.uint8), np.arange(40) % 10
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    data = EXPERIMENTS["images"].load(tmp_path / "own.npz", quick("images"))
    assert [len(part[0]) for part in data.parts] == [32, 4, 4] and "Not the official protocol" in data.notes[0]
    torch.testing.assert_close(data.test[0][:, 0], torch.tensor(images[36:] / 255).float())
    official = {"x_train": images[:24], "y_train": labels[:24], "x_test": images[24:], "y_test": labels[24:]}
    np.savez(tmp_path / "official.npz", **official)
    data = EXPERIMENTS["images"].load(tmp_path / "official.npz", quick("images"))
    assert [len(part[0]) for part in data.parts] == [22, 2, 16] and data.test[1].tolist() == labels[24:].tolist()
    np.savez(tmp_path / "wrong.npz", pictures=images)
    with pytest.raises(DataError, match="must hold images and labels"):
        EXPERIMENTS["images"].load(tmp_path / "wrong.npz", quick("images"))


@pytest.mark.parametrize("name", ["node", "hbnode"])
def test_driven_linear_fields_follow_their_exact_solution(name):
    """h' = a h + b u + c, and h'' + γ h' = a h + b u + c, for constant u: an exponential, an oscillation."""
    torch.manual_seed(0)
    model = Driven(name, None, SolverSettings("dopri5", 1e-9, 1e-9)).double()
    dense, start, u = model.system.f.layers[0], 0.7, 0.4
    with torch.no_grad():
        dense.weight.copy_(torch.tensor([[-0.3, 0.2]]))
        dense.bias.fill_(0.1)
        if name == "hbnode":
            model.velocity.weight.fill_(0.5)
        got = model(torch.full((20, 1), u).double(), torch.tensor([[start]]).double())
    rest, t = (0.2 * u + 0.1) / 0.3, torch.arange(20.0, dtype=torch.float64)
    if name == "node":
        exact = (rest + (start - rest) * (-0.3 * t).exp()).abs()
    else:
        gamma = float(model.system.gamma.detach())
        omega = (0.3 - gamma**2 / 4) ** 0.5
        sine, cosine, decay = (omega * t).sin(), (omega * t).cos(), (-gamma * t / 2).exp()
        a, b = start - rest, (0.5 + gamma / 2 * (start - rest)) / omega
        h = rest + decay * (a * cosine + b * sine)
        m = decay * ((b * omega - a * gamma / 2) * cosine - (a * omega + b * gamma / 2) * sine)
        exact = (h**2 + m**2).sqrt()
    # Local tolerances of 1e-9 on some 100 steps of a problem that amplifies nothing.
    torch.testing.assert_close(got, exact, rtol=0, atol=1e-6)


def test_linear_baseline_is_exact_where_the_data_are_linear_and_chooses_its_order():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 60, 4, generator=rng)
    parts = [(part, (part[:, 1:2] - 2 * part[:, 3:] + 0.5)) for part in x]
    data = Splits(*parts)
    assert linear(data, lambda part, order: part[0][:, :order], [1, 4]) < 1e-10  # squares of errors of float32
    assert constant(data) > 1


# table ---------------------------------------------------------------------------------------------------------------


def test_no_ranking_within_the_spread():
    assert verdict({"node": [1.0], "hbnode": [0.1]}, False) == "A single seed has no spread: no ranking."
    assert verdict({"hbnode": [1.0, 2.0]}, False) == "One model alone: no ranking."
    wide = {"node": [1.0, 2.0], "hbnode": [0.9, 1.9]}
    assert verdict(wide, False).startswith("No clear difference between the models")
    three = {"node": [3.0, 3.1], "sonode": [1.02, 1.3], "hbnode": [1.0, 1.2]}
    assert verdict(three, False) == "Lowest mean: HBNODE; no clear difference from SONODE."
    assert verdict(three, True) == "Highest mean: NODE, by more than the spread over seeds."
    assert spread([1.0]) == "1" and spread([1.0, 3.0]) == "2.0 ± 1.4" and spread([]) == "–"


# runner --------------------------------------------------------------------------------------------------------------


class Toy(Experiment):
    """A line through points; counts how often the test part is looked at, and can be interrupted."""

    name, title, label = "toy", "Toy", "MSE"
    settings = {"full": Settings(TrainingSettings(9, 4, 0.1, "constant", validation_batch=8), FAST, 3)}
    published = {"published": {"node": ".5"}}
    notes = ("A note.",)

    def __init__(self, interrupt: int = 0) -> None:
        self.interrupt, self.calls, self.tested = interrupt, 0, 0

    def load(self, data, settings):
        x = torch.linspace(-1, 1, 24).reshape(3, 8, 1)
        return Splits(*((part, 2 * part + 1) for part in x), notes=("Another note.",))

    def model(self, name, data, settings, code):
        return nn.Linear(1, 1)

    def loss(self, model, batch):
        self.calls += 1
        if self.calls == self.interrupt:
            raise KeyboardInterrupt
        x, y = batch
        self.tested += bool((x > 1 / 3).any())
        return (model(x) - y).square().mean(), {"nfe": 3.0, "nfe_backward": lambda: 2.0}

    def baselines(self, data):
        return {"mean": constant(data)}


def run(toy: Toy, out: Path, **options: object) -> dict:
    settings = replace(toy.settings["full"], training=replace(toy.settings["full"].training, epochs=6), seeds=2)
    return reproduce(toy, settings, out, models=("node", "hbnode"), say=lambda _: None, **options)


def test_runner_tests_once_and_reports(tmp_path):
    toy = Toy()
    found = run(toy, tmp_path / "out")
    assert [(one["model"], one["seed"]) for one in found["trials"]] == [
        ("node", 0), ("hbnode", 0), ("node", 1), ("hbnode", 1)
    ]  # fmt: skip
    differ = sum(one["history"]["best"] != 6 for one in found["trials"])
    assert toy.tested == len(found["trials"]) + differ  # with the weights that were chosen, and the last where others
    for one in found["trials"]:
        assert one["nfe"] == 3 and one["nfe_backward"] == 2 and len(one["history"]["train"]["loss"]) == 6
        best = one["history"]["validation"]["loss"].index(min(one["history"]["validation"]["loss"]))
        assert one["history"]["best"] == best + 1
    assert found == json.loads((tmp_path / "out/results.json").read_text())
    page = (tmp_path / "out/summary.md").read_text()
    for text in ("epochs 6 (9)", "A note.", "Another note.", "| NODE |", "| mean |", ".5", "±"):
        assert text in page, text
    assert (tmp_path / "out/training.png").exists() and not (tmp_path / "out.unfinished").exists()


def test_interrupted_runs_go_on_to_the_same_numbers(tmp_path):
    whole = run(Toy(), tmp_path / "whole")
    # 2 training batches and 1 of validation an epoch, then one or two tests: the second trial stops in its third epoch.
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        run(Toy(interrupt=28), tmp_path / "parts")
    assert not (tmp_path / "parts").exists() and len([*(tmp_path / "parts.unfinished").iterdir()]) == 2
    rest = run(Toy(), tmp_path / "parts")
    for one, other in zip(whole["trials"], rest["trials"], strict=True):
        assert one["chosen"] == other["chosen"] and one["last"] == other["last"]
        assert one["history"]["train"] == other["history"]["train"]


def test_failed_models_are_named_and_do_not_stop_others(tmp_path):
    class Failing(Toy):
        def model(self, name, data, settings, code):
            model = nn.Linear(1, 1)
            with torch.no_grad():
                model.weight.mul_(torch.nan if name == "node" else 1)
            return model

    found = run(Failing(), tmp_path / "out")
    assert [bool(one["failure"]) for one in found["trials"]] == [True, False, True, False]
    assert "2, 2 failed" in (tmp_path / "out/summary.md").read_text()
    with pytest.raises(RuntimeError, match="node: the loss became nan"):
        reproduce(Failing(), Toy.settings["full"], tmp_path / "none", models=("node",), say=lambda _: None)


# command -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["point-cloud", "images"])
def test_command_on_data_of_its_own(name, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["--epochs", "1", "--seeds", "1", "--tol", "0.1", "--models", "node,hbnode", "--jobs", "1"]
    given += ["--nystrom", "dprkn6"] if name == "point-cloud" else ["--published-code"]
    data = []
    if name == "images":
        np.savez(tmp_path / "own.npz", images=np.eye(4)[None].repeat(20, 0), labels=np.arange(20) % 2)
        data = ["--data", str(tmp_path / "own.npz")]
    assert main(["reproduce", name, *given, *data, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "HBNODE" in said and "A single seed has no spread" in said and "epochs 1" in said
    found = json.loads((out / "results.json").read_text())
    asked = "method of the HBNODE dprkn6 (dopri5)" if name == "point-cloud" else "systems as in the published code"
    assert any(asked in line for line in found["remarks"])
    assert all(one["nfe"] > 0 and one["nfe_backward"] > 0 for one in found["trials"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plane-vibration", "walker2d", "initialisation"])
def test_command_on_files(name, tmp_path, capsys):
    if name == "plane-vibration":
        data = plane(tmp_path)
    elif name == "walker2d":
        data = tmp_path
        for part in ("train", "valid", "test"):
            x = np.sin(np.arange(120)[:, None] / (3 + np.arange(17))).astype(np.float32)
            np.savez(data / f"walker2d_{part}.npz", x=x, lengths=np.array([120]))
    else:
        data = tmp_path / "silverbox.csv"
        lines = [f"{np.sin(k / 5):.4f},{np.cos(k / 5):.4f}," for k in range(70)]
        data.write_text("\n".join(['"V1","V2",', *lines]) + "\n")
    given = ["--data", str(data), "--seeds", "1", "--tol", "0.01", "--jobs", "1"]
    given += [] if name == "initialisation" else ["--epochs", "1"]
    assert main(["reproduce", name, *given, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert all(model.upper() in said for model in MODELS) and "failed" not in said
    assert (tmp_path / "out/results.json").exists()
    if name == "walker2d":
        assert "1 of the 300 training files" in said


@pytest.mark.parametrize(
    "given, message",
    [
        (["plane-vibration"], "plane-vibration needs --data: plane_vibration.csv, with the columns"),
        (["point-cloud", "--data", "x.csv"], "point-cloud takes no --data"),
        (["walker2d", "--data", "nowhere"], "walker2d_train.npz"),
        (["images", "--data", "nowhere.npz"], "nowhere.npz"),
        (["point-cloud", "--nystrom", "dprkn8", "--published-code"], "--nystrom is for the formulas"),
        (["initialisation", "--batch", "8"], "--batch has no meaning in initialisation: nothing is trained"),
        (["walker2d", "--length", "8"], "--length has no meaning in walker2d: its sequences are as long as they are"),
        (["point-cloud", "--width", "8"], "--width has no meaning in point-cloud: its models have sizes"),
    ],
)
def test_data_that_cannot_be_had_are_named(given, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *given]) == 2
    assert message in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_too_short_records_are_refused(tmp_path, capsys):
    assert (
        main(["reproduce", "plane-vibration", "--data", str(plane(tmp_path, 300)), "--out", str(tmp_path / "o")]) == 2
    )
    assert "has 300 rows, too few" in capsys.readouterr().err


def test_models_are_checked(capsys):
    assert main(["reproduce", "point-cloud", "--models", "lstm"]) == 2
    assert "must be some of node, anode" in capsys.readouterr().err


@pytest.mark.skipif(not DATA.exists(), reason="measured data lie beside the project")
def test_measured_data():
    plane_data = EXPERIMENTS["plane-vibration"].load(DATA / "plane_vibration.csv", quick("plane-vibration"))
    assert [len(part[0]) for part in plane_data.parts] == [509, 254, 254]  # 73,628 · 0.9 / 4 / 65 windows a quarter
    walker = EXPERIMENTS["walker2d"].load(DATA, quick("walker2d"))
    assert walker.notes == ("Trained on 60 of the 300 training files of the paper.",)
    assert walker.test[2].shape[1:] == (64, 17)
    digits = EXPERIMENTS["images"].load(DATA / "mnist_t10k.npz", quick("images"))
    assert [len(part[0]) for part in digits.parts] == [8000, 1000, 1000]
    u, y = EXPERIMENTS["initialisation"].load(DATA / "silverbox.csv", quick("initialisation")).train
    assert u.shape == y.shape == (64, 1)
