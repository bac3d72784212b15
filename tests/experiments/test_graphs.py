"""Nodes as samples: data, baselines, the time of the read-out, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hbode.cli import main
from hbode.experiments import EXPERIMENTS, Splits
from hbode.experiments.graphs.baselines import label_propagation, linear_of_features
from hbode.experiments.graphs.data import block_model, digit_neighbours
from hbode.experiments.runner import digest
from hbode.timeseries import DataError

CORA = Path(__file__).parents[2] / "../shared/data/cora.npz"
GRAND = EXPERIMENTS["grand"]
SHORT = replace(GRAND.settings["short"], width=8, span=4.0)


def file_of_a_path(folder: Path, **other: object) -> Path:
    """Six documents in a row, 0 to 5, the first three of one class."""
    x = np.eye(6, 4) + np.eye(6, 4, -3)
    indptr = np.concatenate(([0], np.count_nonzero(x, 1).cumsum()))
    arrays = {
        "feat_data": np.ones(indptr[-1], np.float32),
        "feat_indices": np.nonzero(x)[1],
        "feat_indptr": indptr,
        "feat_shape": np.array(x.shape),
        "edges": np.stack((np.arange(5), np.arange(1, 6)), 1),
        "labels": np.array([0, 0, 0, 1, 1, 1]),
        "train_idx": np.array([0, 5]),
        "val_idx": np.array([1, 4]),
        "test_idx": np.array([2, 3]),
    }
    arrays |= other
    np.savez(folder / "path.npz", **{name: x for name, x in arrays.items() if x is not None})
    return folder / "path.npz"


def test_a_file_of_a_graph(tmp_path):
    data = GRAND.load(file_of_a_path(tmp_path), SHORT)
    assert [part[0].tolist() for part in data.parts] == [[0, 5], [1, 4], [2, 3]]
    assert [part[1].tolist() for part in data.parts] == [[0, 1], [0, 1], [0, 1]]
    x, edges = data.shared
    assert x.tolist() == (np.eye(6, 4) + np.eye(6, 4, -3)).tolist() and edges.shape == (2, 10)
    assert {*zip(*edges[:, :5].tolist(), strict=True)} == {(b, a) for a, b in zip(*edges[:, 5:].tolist(), strict=True)}
    with pytest.raises(DataError, match="there is no edges"):
        GRAND.load(file_of_a_path(tmp_path, edges=None), SHORT)
    (tmp_path / "none.npz").write_text("no archive")
    with pytest.raises(DataError, match="cannot be read"):
        GRAND.load(tmp_path / "none.npz", SHORT)


def test_labels_spread_along_a_path(tmp_path):
    data = GRAND.load(file_of_a_path(tmp_path), SHORT)
    assert label_propagation(data) == 1
    assert label_propagation(replace_edges(data, torch.zeros(2, 0, dtype=torch.int64))) == 0.5  # all nodes stay at 0


def replace_edges(data: Splits, edges: torch.Tensor) -> Splits:
    return replace(data, shared=(data.shared[0], edges))


def test_drawn_graphs():
    data = block_model()
    x, edges = data.shared
    assert [len(part[0]) for part in data.parts] == [50, 150, 800] and x.shape == (1000, 50)
    assert edges.shape[1] / 1000 == pytest.approx(6.0, abs=0.4)  # 3,000 edges: their number has a deviation of 55
    y = torch.zeros(1000, dtype=torch.int64)
    for nodes, labels in data.parts:
        y[nodes] = labels
    within = (y[edges[0]] == y[edges[1]]).double().mean()
    assert within == pytest.approx((6 + 1.3 * 6**0.5) / 12, abs=0.05)  # five deviations of a share of 3,000
    digits = digit_neighbours()
    assert sum(len(part[0]) for part in digits.parts) == 1797
    assert linear_of_features(digits, 2) > 0.9


def test_what_samples_share_decides_a_training(tmp_path):
    data = GRAND.load(file_of_a_path(tmp_path), SHORT)
    other = replace_edges(data, data.shared[1][:, :-1])
    assert digest(SHORT, data, False) == digest(SHORT, data, False) != digest(SHORT, other, False)


@pytest.mark.parametrize("name", [*GRAND.looks])
def test_the_read_out_is_where_the_validation_is_best(name, tmp_path):
    data = GRAND.load(file_of_a_path(tmp_path), SHORT)
    torch.manual_seed(0)
    model = GRAND.model(name, data, SHORT, False).eval()
    times, accuracies = GRAND.show(model, data)
    assert times[-1] == 4.0 and len(times) == 20
    for _ in range(2):  # what was settled before has no part in it
        GRAND.settle(model, data)
        assert model.solve.layer.t[1] == pytest.approx(float(times[accuracies.argmax()]))
        loss, measured = GRAND.loss(model, data.validation)
        assert measured["accuracy"] == pytest.approx(float(accuracies.max()))
        assert measured["error"] == 1 - measured["accuracy"] and loss.requires_grad


@pytest.mark.parametrize("name", ["grand", "grand-digits"])
def test_command(name, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["--epochs", "1", "--seeds", "1", "--span", "2", "--width", "8", "--jobs", "1", "--out", str(out)]
    data = ["--data", str(file_of_a_path(tmp_path))] if name == "grand" else ["--models", "graph-heavy-ball"]
    method = ["--nystrom", "dprkn8", "--method", "prox_bdf2"] if name == "grand" else []
    assert main(["reproduce", name, *given, *data, *method]) == 0
    said = capsys.readouterr().out
    assert "GRAPH-HEAVY-BALL" in said and "label propagation" in said and "span 2" in said
    found = json.loads((out / "results.json").read_text())
    assert all(one["nfe"] > 0 and not one["failure"] for one in found["trials"])
    assert found["settings"]["span"] == 2.0 and (out / f"{name}.png").exists()
    if method:
        assert any("method of the GRAPH-HEAVY-BALL dprkn8 (None)" in line for line in found["remarks"])


def test_a_span_means_nothing_elsewhere(capsys):
    assert main(["reproduce", "point-cloud", "--span", "3"]) != 0
    assert "--span has no meaning in point-cloud" in capsys.readouterr().err


@pytest.mark.skipif(not CORA.exists(), reason="measured data lie beside the project")
def test_cora():
    data = GRAND.load(CORA, SHORT)
    assert [len(part[0]) for part in data.parts] == [140, 500, 1000]
    assert data.shared[0].shape == (2708, 1433) and data.shared[1].shape == (2, 2 * 5278)
    assert [part[1].bincount().numel() for part in data.parts] == [7, 7, 7]
