"""The command, from arguments to files."""

import json
import logging
import math
import shutil
import subprocess
from pathlib import Path

import pytest

import hbode
from hbode.cli import main
from hbode.progress.jobs import LOGGER
from hbode.timeseries import DemoSettings, ForecastSettings, make_dataset
from hbode.timeseries.forecast import load

FIGURES = {"forecast.png", "nfe.png", "loss.png", "stiffness.png", "comparison.png", "scaling.png"}
SHORT = ("--epochs", 1, "--jobs", 1, "--window", 12, "--horizon", 4)
FILES = {"metrics.json", "summary.md", *FIGURES}


OF_FORECASTS = {
    "time": "t",
    "columns": "x",
    "delimiter": ",",
    "window": "8",
    "horizon": "2",
    "epochs": "1",
    "rtol": "0.1",
    "gradient": "backprop",
    "device": "cpu",
}


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "record.csv"
    rows = [f"{0.1 * i},{math.sin(0.3 * i)},{math.cos(0.5 * i) + 2}" for i in range(340)]
    path.write_text("time,Force (N),x\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def run(*arguments: object) -> int:
    try:
        return main(["demo", *map(str, arguments)])
    except SystemExit as exit_:
        return int(exit_.code or 0)


def test_a_whole_run(record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("--data", record, "--out", out, "--seed", 3, *SHORT, "--models", "node,ghbnode") == 0
    assert {p.name for p in out.iterdir()} == FILES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "record.csv"]
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert list(metrics["models"]) == ["node", "ghbnode"]
    sizes = [model["parameters"] for model in metrics["models"].values()]
    assert max(sizes) <= 1.04 * min(sizes)
    ghb = metrics["models"]["ghbnode"]
    assert 0 < ghb["gamma"] < 1 and ghb["xi"] > 0 and ghb["test"]["mse"] > 0
    assert ghb["nfe_forward_per_batch"] > 0 and ghb["nfe_backward_per_batch"] > 0
    assert len(ghb["history"]["loss"]) == 1
    assert ghb["stiffness"]["largest"] > 0 and ghb["stiffness"]["index"] > 0
    powers = metrics["stiff_valley"]["scaling"]["systems"]
    assert abs(powers["node"]["powers of L"]["rate"] - 1) < 0.05
    assert abs(powers["hbnode"]["powers of L"]["rate"] - 0.5) < 0.05
    assert metrics["settings"]["seed"] == 3 and metrics["persistence"]["mse"] > 0
    assert {"hbode", "torch"} <= metrics["versions"].keys() and metrics["machine"]["cpu_count"] >= 1
    printed = capsys.readouterr().out
    assert "GHBNODE" in printed and "last value" in printed
    page = (out / "summary.md").read_text(encoding="utf-8")
    assert "| NODE |" in page and all(f"({name})" in page for name in FIGURES)


def test_a_file_is_read_as_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred rows with decimal commas, two columns of times, text, and an hour without a record."""
    path = tmp_path / "log.txt"
    rows = [
        f"{0.1 * i + 3600 * (i > 30):.1f}\t{i}\tok\t{math.sin(0.3 * i):.4f}\t{math.cos(i):.4f}".replace(".", ",")
        for i in range(100)
    ]
    path.write_text("t\ttime\tstate\tx\ty\n" + "\n".join(rows) + "\n", encoding="utf-8")
    told: list[ForecastSettings] = []
    monkeypatch.setattr("hbode.commands.demo.run_forecast", lambda settings, started: told.append(settings))
    options = ("--time", "t", "--columns", "x,y", "--delimiter", r"\t", "--window", 8, "--horizon", 3)
    assert run("--data", path, *options) == 0
    with pytest.warns(UserWarning, match="gap") as warned:
        data = make_dataset(load(told[0]), told[0].protocol, 0)
    assert "3600.1 s after line 32" in str(warned[0].message) and "windows with long gaps" in str(warned[1].message)
    assert [c.name for c in data.records.outputs] == ["x", "y"] and data.records.total_rows == 100
    assert data.train.x.shape[1:] == (11, 2) and data.protocol.observed == 8
    # An hour is no part of the mean gap; a tenth of the samples are dropped.
    assert data.scaling.time_unit == pytest.approx(0.1 / 0.9, rel=0.1)
    assert float(data.train.t.max()) < 30


@pytest.mark.slow
def test_processes_learn_the_same(record: Path, tmp_path: Path) -> None:
    errors = []
    for jobs in (1, 2):
        out = tmp_path / f"out{jobs}"
        options = ("--epochs", 1, "--models", "node,hbnode", "--jobs", jobs)
        assert run("--data", record, "--out", out, *options) == 0
        found = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["models"]
        errors.append([found[name]["test"]["mse"] for name in ("node", "hbnode")])
    # Sums may be split over another number of threads.
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("a,b\nx,y\n", "column 'a' holds text, line 2"),
        ("a\n" + "1\n2\n" * 200 + "NaN\n", "column 'a' misses 1 values"),
        ("a\n" + "1\n2\n" * 20, "too short: 40 rows"),
        ("t,a\n0,1\n0,2\n", "line 3: times must increase"),
        ("a\n" + "1\n" * 400, "'a' does not vary"),
        ("a,b\n1,2\n1,2,3\n", "line 3: 3 cells"),
    ],
)
def test_bad_data(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    assert run("--data", path, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and "Traceback" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["bad.csv"]


def test_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data", tmp_path / "none.csv", "--out", tmp_path / "out") == 2
    assert "no such file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_foreign_folder_is_left_alone(record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data", record, "--out", tmp_path) == 2
    assert "did not write" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["record.csv"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--epochs", "0"), "positive whole number"),
        (("--rtol", "x"), "between 0 and 1"),
        (("--models", "node,lstm"), "node,sonode,hbnode,ghbnode"),
        (("--seed", "-1"), "whole number from 0"),
        (("--device", "abacus"), "cannot be used"),
        (("--delimiter", "::"), "one character"),
        (("--window", "0"), "positive whole number"),
        (("--nonsense",), "unrecognized arguments"),
        *(((f"--{name}", value), f"--{name} is for the forecast of a record") for name, value in OF_FORECASTS.items()),
    ],
)
def test_bad_arguments(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_the_demo_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[DemoSettings] = []
    monkeypatch.setattr("hbode.commands.demo.run_demo", lambda settings, started: told.append(settings))
    assert run("--models", "hbnode,node", "--seed", 7, "--jobs", 3, "--out", tmp_path / "x") == 0
    assert told == [DemoSettings(("hbnode", "node"), tmp_path / "x", 7, 3)]


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "--data" in capsys.readouterr().out


def test_hbode_alone_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "identify a driven system" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"hbode {hbode.__version__}\n"


@pytest.mark.parametrize("option, lines", [("--quiet", 1), ("--verbose", 4)])
def test_how_much_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str], option: str, lines: int) -> None:
    assert run("--data", tmp_path / "none.csv", option) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.splitlines()[-1].startswith("hbode demo: error: ")
    assert said.err.count("\n") == 1 if lines == 1 else "Traceback" in said.err


@pytest.mark.parametrize("options, shown", [((), True), (("--quiet",), False)])
def test_progress_is_shown_unless_quiet(monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], shown: bool) -> None:
    seen: list[bool] = []
    look = lambda settings, started: seen.append(LOGGER.isEnabledFor(logging.INFO))
    monkeypatch.setattr("hbode.commands.demo.run_demo", look)
    assert run(*options) == 0 and seen == [shown]
    assert not LOGGER.isEnabledFor(logging.INFO)


COMPLETED = {
    ("hbode", "re"): {"reproduce"},
    ("hbode", "fit", "--mo"): {"--model"},
    ("hbode", "fit", "--model", "h"): {"hbnode"},
    ("hbode", "reproduce", "point"): {"point-cloud"},
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("words", COMPLETED)
def test_completion_of_bash(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    script += f'\nCOMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _hbode; echo "${{COMPREPLY[@]}}"'
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert set(ended.stdout.split()) == COMPLETED[words] and ended.stderr == ""


@pytest.mark.parametrize("shell, line", [("zsh", "bashcompinit"), ("fish", "-l model -r -f -a 'auto hbnode")])
def test_completion_of_other_shells(shell: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert line in capsys.readouterr().out
