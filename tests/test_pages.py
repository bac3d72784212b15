"""The pages of docs/ do what they say: all their code runs, in order, and what it makes is as told."""

import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from hbode.cli import main
from hbode.models import PUBLISHED

DOCS = Path(__file__).resolve().parents[1] / "docs"


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of what a page has to copy."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```(python|console)\n(.*?)^```", text, re.M | re.S)


def command(line: str) -> None:
    """Run a line of a console, but what installs."""
    program, *arguments = shlex.split(line)
    if program == "hbode":
        assert main(arguments) == 0
    elif program == "python":
        paths = os.pathsep.join((str(DOCS.parent), os.environ.get("PYTHONPATH", "")))
        subprocess.run([sys.executable, *arguments], env=os.environ | {"PYTHONPATH": paths}, check=True, timeout=300)
    else:
        assert program == "pip"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs a page in an empty folder, with its commands if asked, and returns its names.

    Code that begins by the name of a file, ``# model.py``, is written there and not run.
    """
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)

    def run(page: str, commands: bool = False) -> dict[str, Any]:
        names: dict[str, Any] = {}
        for language, code in blocks(page):
            file = re.match(r"# (\w+\.py)\n", code)
            if file:
                Path(file[1]).write_text(code, encoding="utf-8")
            elif language == "python":
                exec(compile(code, page, "exec"), names)
            elif commands:
                for line in code.splitlines():
                    command(line)
        return names

    return run


OWN = {
    "clustering",
    "flows",
    "forecasting",
    "graphs",
    "identification",
    "layers",
    "sequences",
    "stochastic",
    "training",
}
"""Pages that have tests of their own below."""
WHOLE = sorted(
    name
    for path in DOCS.rglob("*.md")
    if (name := path.relative_to(DOCS).with_suffix("").as_posix()) not in OWN
    and "_build" not in path.parts
    and any(language == "python" for language, _ in blocks(f"{name}.md"))
)
"""Pages whose code says by itself what is right, in that it runs."""
LONG = ("howto/compiling",)


@pytest.mark.parametrize("page", [pytest.param(p, marks=pytest.mark.slow) if p in LONG else p for p in WHOLE])
def test_the_code_of_a_page_runs(run, page, recwarn):
    names = run(f"{page}.md")
    assert page != "tutorial" or names["error"] < 0.8 * names["still"]
    assert not [str(w.message) for w in recwarn if w.filename.startswith(str(DOCS))]


def test_what_pages_promise(run):
    fall = run("howto/events.md")["sol"]
    assert fall.updates.after.m.shape == (2, 1)
    stiff = run("howto/stiff.md")
    assert stiff["explicit"].stats.stiffness > 0.9 and stiff["sol"].stats.nfe < 0.1 * stiff["explicit"].stats.nfe


def test_layers(run):
    names = run("layers.md")
    assert names["states"].shape == (5, 16, 6)
    assert names["images"].shape == (2, 8, 12, 12)
    assert names["paths"].shape == (20, 16, 3, 2)
    assert torch.equal(~names["said"].reconstruction.isnan().any(-1), names["whole"])


def test_all_published_systems_are_on_the_page_of_layers():
    text = (DOCS / "layers.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in PUBLISHED)


def test_sequences(run):
    assert run("sequences.md")["published"].settings["momentum"] == 0.6


def test_stochastic(run):
    """A variance of 2,000 samples is off by 1/sqrt(1,000) = 3.2 % (one standard deviation), as is the bias of steps."""
    names = run("stochastic.md")
    assert names["temperature"].item() == pytest.approx(0.225, rel=0.2)
    assert 0.2 < names["crossed"].item() < 0.8
    assert 0 < names["error"].item() < 0.2
    assert names["sigma"].item() ** 2 / 1.6 == pytest.approx(0.1, rel=0.25)
    assert names["draws"].shape == (100, 16, 4, 1) and (names["low"] < names["high"]).all()


def test_flows(run):
    names = run("flows.md")
    assert names["log_p"].shape == (100,) and names["points"].shape == (1000, 2)
    assert names["drawn"].shape == (5, 10, 2) and names["scores"].shape == (5, 10)
    assert min(names["cost"]) > 0


def test_graphs(run):
    names = run("graphs.md")
    assert names["smooth"].shape == (5, 8) and names["path"].shape == (9, 5, 8)
    assert torch.allclose(names["again"], names["smooth"], atol=1e-5)
    assert names["weights"].shape == names["graph"].sources.shape
    assert names["counts"][0] < names["counts"][1]


def test_training(run):
    history = run("training.md")["history"]
    assert history.validation["loss"][history.best - 1] < 0.5 * history.validation["loss"][0]
    assert min(history.train["nfe"]) > 0 and Path("training.pt").is_file()


def test_clustering(run):
    names = run("clustering.md")
    assert adjusted_rand_score(names["truth"], names["model"].labels_) == 1
    assert names["variables"].labels_.tolist() == [0, 0, 0, 1, 1]
    assert np.allclose(names["back"], names["sensors"], atol=1e-12, rtol=0)
    assert names["regimes"].labels_.tolist() == [0] * 10 + [1] * 10 + [2] * 10


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in WHOLE if any(kind == "console" for kind, _ in blocks(f"{p}.md"))])
def test_the_commands_of_a_page_run(run, page):
    run(f"{page}.md", commands=True)


@pytest.mark.slow
def test_forecasting(run):
    """Noise of 0.01; over a hundred rows ahead, and over the gap, a fitted law adds about as much."""
    names = run("forecasting.md", commands=True)
    assert names["error"] < 0.03 and names["inside"] > 0.7
    assert np.abs(names["gap"]).max() < 0.03
    assert all(Path("forecast", file).is_file() for file in ("forecast.csv", "report.md", "forecast.png"))


@pytest.mark.slow
def test_identification(run):
    names = run("identification.md", commands=True)
    # Drag makes the damping 0.3 + 0.3 |v|, up to 1.8: a constant is in between, and what the grey box misses.
    assert names["mode"].frequency == pytest.approx(3 / (2 * math.pi), rel=0.1)
    assert 0.3 < names["damping"] < 1.8
    grey, corrected = (100 - names[model].score(names["test"]) for model in ("grey", "corrected"))
    assert corrected < 0.6 * grey
    assert 0.4 < names["inside"] <= 1
    assert (names["loaded"].predict(names["test"]) == names["again"].predict(names["test"])).all()
    assert all(Path(file).is_file() for file in ("model/report.md", "simulated.csv", "energy.png"))
