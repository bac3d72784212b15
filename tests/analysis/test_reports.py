"""The shape that all results of the analysis share: text, Markdown, JSON, a table of pandas, a figure, HTML."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from hbode import FirstOrder, HeavyBall, hbodeint
from hbode.analysis import (
    CostRecorder,
    Inputs,
    compare,
    diagnose,
    gradient_decay,
    gradient_flow,
    profile,
    scaling,
    sequence_gradient,
    stiffness,
)
from hbode.reporting.report import Report

H0 = torch.tensor([[1.0, -0.5], [0.3, 0.8]], dtype=torch.float64)
TIMES = torch.linspace(0.0, 1.0, 3, dtype=torch.float64)
QUICK: dict[str, Any] = {"tolerance": 1e-3, "repeats": 1, "unit": "ms"}


def results() -> dict[str, Report]:
    ball = HeavyBall(lambda t, h: -torch.sin(h), 0.3, trainable=False)
    sol = hbodeint(ball, H0, TIMES, dense=True)
    recorder = CostRecorder()
    recorder.record(sol.stats, loss=1.0)
    ladder: dict[str, Any] = {"methods": ["dopri5"], "tolerances": [1e-3]}
    return {
        "stiffness": stiffness(ball, sol, unit="ms"),
        "profile": profile(ball, (H0, TIMES), repeats=1, memory=False, unit="ms", **ladder),
        "comparison": compare(ball.f, Inputs(H0, TIMES), **QUICK),
        "diagnosis": diagnose(ball, (H0, TIMES), **QUICK, **ladder),
        "gradient flow": gradient_flow(ball, sol, unit="ms"),
        "gradient decay": gradient_decay(sol, lambda h, m: h.sum(), unit="ms"),
        "sequence gradient": sequence_gradient(torch.nn.GRU(2, 4), torch.randn(40, 2, 2), points=3),
        "scaling": scaling(lambda L: lambda t, h: -L * h, (2.0, 8.0), (H0, TIMES), tolerance=1e-3, unit="ms"),
        "recorder": recorder,
    }


FOUND = results()


@pytest.mark.parametrize("name", FOUND)
def test_every_result_is_read_in_the_same_ways(name: str) -> None:
    found = FOUND[name]
    rows = found.table()
    assert len({len(row) for row in rows}) == 1 and len(rows) > 1
    for text in (found.summary(), found.markdown(), found._repr_html_()):
        assert all(row[0].replace("|", "") in re.sub(r"\\?\|", "", text) for row in rows)
    assert str(found) == repr(found)
    json.dumps(found.as_json(), allow_nan=False)
    pandas = pytest.importorskip("pandas")
    table = found.to_dataframe()
    assert isinstance(table, pandas.DataFrame) and list(table) == list(found.columns()) and len(table) >= 1
    figure = found.plot()
    assert isinstance(figure, Figure)
    figure.savefig(io.BytesIO())


@pytest.mark.parametrize("name", ["stiffness", "profile", "comparison", "gradient flow", "gradient decay"])
def test_units_belong_to_the_result_and_reach_its_axes(name: str) -> None:
    labels = [axis.get_label_text() for panel in FOUND[name].plot().axes for axis in (panel.xaxis, panel.yaxis)]
    assert any("(ms)" in label for label in labels) and not any("time units" in label for label in labels)


def test_html_shows_what_was_given_as_text() -> None:
    found = compare({"<b>": FirstOrder(lambda t, h: -h)}, (H0, TIMES), tolerance=1e-3, repeats=1)
    assert "<b>" not in found._repr_html_() and "&lt;b&gt;" in found._repr_html_()
