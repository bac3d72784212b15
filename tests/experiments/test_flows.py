"""Densities as experiments: data, sizes, baselines, and what is measured of a learned field."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hbode import HeavyBall
from hbode.experiments import EXPERIMENTS
from hbode.experiments.flows.densities import read
from hbode.experiments.flows.learned import learned
from hbode.models import parameter_count
from hbode.models.flows import ContinuousFlow, HeavyBallFlow
from hbode.timeseries import DataError


@pytest.mark.parametrize("name", ["ffjord-toy", "heavy-ball-flow"])
def test_flows_are_of_one_size_and_their_losses_are_negative_log_likelihoods(name):
    own = EXPERIMENTS[name]
    settings = replace(own.settings["short"], width=8)
    data = own.load(None, settings)
    torch.manual_seed(0)
    flows = [own.model(one, data, settings, False) for one in own.looks]
    counts = [parameter_count(flow) for flow in flows]
    assert counts[:2] == pytest.approx(counts[2:] * 2, rel=0.1)  # as near as a whole width gets
    batch = (data.test[0][:40],)
    for flow in flows:
        loss, measured = own.loss(flow.train(), batch)
        assert loss == -measured["log_likelihood"] and measured["nfe"]() == flow.stats.nfe
        with torch.no_grad():
            loss, measured = own.loss(flow.eval(), batch)
        assert loss == -measured["log_likelihood"] and measured["nfe_prox_bdf3"] > 0


def test_toy_densities_are_those_of_the_names():
    own = EXPERIMENTS["ffjord-toy"]
    parts = own.load("checkerboard", own.settings["short"]).parts
    assert [tuple(part[0].shape) for part in parts] == [(20_000, 2), (1000, 2), (2000, 2)]
    cells = (parts[0][0] / 2).floor().sum(-1)
    assert bool((cells % 2 == cells[0] % 2).all())  # squares of one colour alone
    with pytest.raises(DataError, match="--data must be one of"):
        own.load("pinwheels", own.settings["short"])


def test_rows_are_standardised_by_the_training_part_and_gaussians_are_fitted_to_it(tmp_path):
    own = EXPERIMENTS["heavy-ball-flow"]
    rows = np.random.default_rng(0).normal((3.0, -2.0), (0.5, 4.0), (5000, 2))
    np.savetxt(tmp_path / "rows.csv", rows, delimiter=",", header="a,b", comments="")
    np.save(tmp_path / "rows.npy", rows)
    data = own.load(tmp_path / "rows.csv", own.settings["short"])
    for x, y in zip(data.parts, own.load(tmp_path / "rows.npy", own.settings["short"]).parts, strict=True):
        torch.testing.assert_close(x[0], y[0], rtol=0, atol=1e-6)
    assert [len(part[0]) for part in data.parts] == [3000, 1000, 1000]
    torch.testing.assert_close(data.train[0].mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(data.train[0].std(0, correction=0), torch.ones(2), rtol=0, atol=1e-5)
    found = own.baselines(data)
    # Minus the entropy of two standard normal numbers; 5 standard deviations (1 nat a point) of 1,000 points.
    assert found["Gaussian"] == pytest.approx(-np.log(2 * np.pi * np.e), abs=5 / 1000**0.5)
    assert len(found) == 2


def test_what_is_no_table_of_numbers_is_told(tmp_path):
    np.savetxt(tmp_path / "few.csv", np.eye(3), delimiter=",")
    np.savetxt(tmp_path / "constant.csv", np.ones((60, 2)), delimiter=",")
    (tmp_path / "words.csv").write_text("a,b\n" + "1,two\n" * 60)
    for name in ("few", "constant", "words"):
        with pytest.raises(DataError, match="must hold 50 rows"):
            read(tmp_path / f"{name}.csv")
    (tmp_path / "broken.npy").write_text("no array")
    for name in ("broken.npy", "missing.csv"):
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path / name)


def test_stiffness_index_of_linear_fields():
    x = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    flow = ContinuousFlow(lambda t, h: h * h.new_tensor([-3.0, -7.0]), 2, t=(0.0, 2.0))
    found = learned(flow, x)
    assert found["stiffness"] == pytest.approx(14.0, rel=1e-5)
    # λ² + λ / 2 = -25: |λ| = 5.
    ball = HeavyBallFlow(HeavyBall(lambda t, h: -25.0 * h, gamma=0.5), 2, t=(0.0, 2.0))
    assert learned(ball, x)["stiffness"] == pytest.approx(10.0, rel=1e-4)
    assert found["nfe_dopri5"] > 0 and found["nfe_prox_bdf2"] > 0
