"""The cost of training, step by step, against the counts of the solves in it."""

from __future__ import annotations

import json
import math
import sys
import types

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from hbode import HeavyBall, hbodeint
from hbode.analysis.cost.recorder import CostRecorder
from hbode.models import ODERNN


class Counts:
    def __init__(self, nfe, nfe_backward=None, rejected=0):
        self.nfe, self.nfe_backward, self.rejected = nfe, nfe_backward, rejected


class Affine(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(4, 4)

    def forward(self, t, h):
        return self.dense(h)


def recorded(nfe, **values):
    recorder = CostRecorder()
    for i, count in enumerate(nfe):
        recorder.record(Counts(count, count - 1, i), **{name: kept[i] for name, kept in values.items()})
    return recorder


def test_a_training_loop_is_recorded(counted):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    field = counted(lambda t, h: net(h) - h)
    system = HeavyBall(field, 0.1, trainable=False)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    h0, t = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0.0, 2.0], dtype=torch.float64)
    recorder = CostRecorder()
    losses, calls = [], []
    for _ in range(5):
        before = field.calls
        sol = hbodeint(system, h0, t)
        loss = (sol.h[-1] - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.record(sol.stats, loss=loss)
        losses.append(float(loss.detach()))
        calls.append(field.calls - before)
    assert len(recorder) == 5
    assert recorder.values == {"loss": losses}
    assert [a + b for a, b in zip(recorder.nfe, recorder.nfe_backward, strict=True)] == calls
    assert all(type(value) is float for value in recorder.values["loss"])
    assert losses[-1] < losses[0]


def test_the_cost_of_a_model_is_recorded():
    system = HeavyBall(Affine())
    model = ODERNN(system, 4, 2).double()
    prediction = model(torch.linspace(0, 1, 5).double().expand(3, 5), torch.randn(3, 4, 2).double())
    prediction.forecast.square().mean().backward()
    recorder = CostRecorder()
    recorder.record(prediction.cost)
    assert recorder.nfe == [prediction.cost.nfe]
    assert recorder.nfe_backward == [prediction.cost.nfe_backward]
    assert recorder.nfe_backward[0] > 0


def test_costs_of_a_step_are_summed_and_samples_count_by_their_maximum():
    recorder = CostRecorder()
    recorder.record(Counts(10, 9, 1), Counts([5, 7, 6], None, [0, 2, 1]))
    assert (recorder.nfe, recorder.nfe_backward, recorder.rejected) == ([17], [9], [3])


def test_stats_of_samples_with_their_own_steps_are_recorded():
    sol = hbodeint(lambda t, h: -(h**3), torch.tensor([[0.1], [5.0]]), [0.0, 4.0], per_sample=True)
    recorder = CostRecorder()
    recorder.record(sol.stats)
    assert recorder.nfe == [max(sol.stats.nfe)]
    assert recorder.nfe_backward == [0]


def test_values_that_a_step_does_not_give_are_nan():
    recorder = CostRecorder()
    recorder.record(Counts(1))
    recorder.record(Counts(1), loss=torch.tensor([2.0], requires_grad=True))
    recorder.record(Counts(1), error=3)
    assert set(recorder.values) == {"loss", "error"}
    for name, kept in (("loss", 2.0), ("error", 3.0)):
        values = recorder.values[name]
        assert len(values) == 3
        assert [v for v in values if not math.isnan(v)] == [kept]


def test_means_are_of_blocks_and_leave_out_what_is_missing():
    recorder = recorded([10, 20, 30, 40, 50], loss=[1.0, math.nan, math.nan, math.nan, 5.0])
    means = recorder.means(2)
    assert means["nfe"] == [15.0, 35.0, 50.0]
    assert means["nfe_backward"] == [14.0, 34.0, 49.0]
    assert means["rejected"] == [0.5, 2.5, 4.0]
    assert means["loss"][0] == 1.0
    assert math.isnan(means["loss"][1])
    assert means["loss"][2] == 5.0
    assert CostRecorder().means(3) == {"nfe": [], "nfe_backward": [], "rejected": []}


def test_json_holds_everything_but_no_nan():
    recorder = recorded([10, 20], loss=[1.0, math.inf])
    read = json.loads(json.dumps(recorder.as_json(), allow_nan=False))
    assert read == {"nfe": [10, 20], "nfe_backward": [9, 19], "rejected": [0, 1], "values": {"loss": [1.0, None]}}


def test_a_data_frame_has_one_row_a_step(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=dict))
    frame = recorded([10, 20], loss=[1.0, 0.5]).to_dataframe()
    assert frame == {"nfe": [10, 20], "nfe_backward": [9, 19], "rejected": [0, 1], "loss": [1.0, 0.5]}


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        recorded([1]).to_dataframe()


@pytest.mark.parametrize(
    "nfe, finding",
    [
        ([44] * 2 + [50] * 16 + [62] * 2, "Forward evaluations grew from 44 to 62 a step"),
        ([62] * 2 + [50] * 16 + [44] * 2, "Forward evaluations fell from 62 to 44 a step"),
        ([44] * 20, "Forward evaluations stayed at 44 a step"),
        ([7], "Forward evaluations stayed at 7 a step"),
    ],
)
def test_the_title_of_a_figure_says_how_evaluations_changed(nfe, finding):
    assert recorded(nfe).plot().get_suptitle() == finding


def test_a_figure_has_a_panel_for_evaluations_and_one_for_each_value(tmp_path):
    recorder = recorded([10, 20, 30, 40], loss=[1.0, 0.5, 0.02, math.nan], gamma=[0.1, -0.1, 0.2, 0.1])
    figure = recorder.plot(every=2)
    figure.savefig(tmp_path / "cost.png")
    assert isinstance(figure, Figure)
    counts, loss, gamma = figure.axes
    assert counts.get_ylabel() == "evaluations a step"
    assert [list(drawn.get_ydata()) for drawn in counts.get_lines()] == [[15, 35], [14, 34]]
    assert list(counts.get_lines()[0].get_xdata()) == [2, 4]
    assert (loss.get_ylabel(), loss.get_yscale()) == ("loss", "log")
    assert (gamma.get_ylabel(), gamma.get_yscale()) == ("gamma", "linear")
    assert gamma.get_xlabel() == "training step (means of 2)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "forward evaluations",
        "backward evaluations",
    ]
    looks = {(drawn.get_linestyle(), drawn.get_marker()) for drawn in counts.get_lines()}
    assert len(looks) == 2


def test_the_text_of_a_recorder_tells_its_length():
    assert repr(CostRecorder()) == "CostRecorder(0 steps)"
    assert repr(recorded([3, 5])) == "CostRecorder(2 steps, last nfe=5, nfe_backward=4)"


@pytest.mark.parametrize(
    "costs, values, error, message",
    [
        ((), {"loss": 1.0}, ValueError, "costs must be given, at least one"),
        ((3,), {}, TypeError, "costs must have nfe, nfe_backward, rejected; int has no nfe"),
        ((Counts(1),), {"nfe": 1.0}, ValueError, "values must not be called .* got nfe"),
        ((Counts(1),), {"loss": "low"}, TypeError, "loss must be a real number or a tensor with one, got 'low'"),
        ((Counts(1),), {"loss": torch.ones(2)}, TypeError, "loss must be a real number"),
        ((Counts(1),), {"loss": torch.ones((), dtype=torch.complex64)}, TypeError, "loss must be a real number"),
    ],
)
def test_records_that_do_not_fit_are_refused_and_leave_nothing(costs, values, error, message):
    recorder = CostRecorder()
    with pytest.raises(error, match=message):
        recorder.record(*costs, **values)
    assert len(recorder) == 0
    assert recorder.values == {}


@pytest.mark.parametrize("every", [0, 1.5])
def test_blocks_that_are_no_whole_number_are_refused(every):
    with pytest.raises(ValueError, match="every must be a whole number, at least 1"):
        recorded([1, 2]).means(every)


def test_an_empty_recorder_has_nothing_to_plot():
    with pytest.raises(ValueError, match="nothing to plot"):
        CostRecorder().plot()
