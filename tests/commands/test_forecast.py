"""`hbode forecast`, from arguments to files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from hbode.cli import main

COMMON = (
    "--seeds",
    1,
    "--model",
    "hbnode",
    "--hidden",
    0,
    "--degree",
    1,
    "--initial",
    12,
    "--evaluations",
    8,
    "--quiet",
)
RATE, OMEGA, GAMMA = 10.0, 1.7, 0.04


def run(*arguments: object) -> int:
    try:
        return main([*map(str, arguments)])
    except SystemExit as exit_:
        return int(exit_.code or 0)


def motion(t: np.ndarray) -> np.ndarray:
    return 20 * np.exp(-GAMMA * t) * np.cos(OMEGA * t)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    t = np.arange(240) / RATE
    drive = np.sin(0.9 * t)
    for name, rows in (("record.csv", slice(0, 200)), ("ahead.csv", slice(200, 240))):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["t (s)", "drive", "x (mm)"])
            table.writerows(zip(t[rows], drive[rows], motion(t[rows]), strict=True))
    return folder


def test_an_oscillation_goes_on(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--output", "x", "--horizon", 25, "--baselines", "linear", *COMMON)
    assert run("forecast", home / "record.csv", *options, "--out", tmp_path / "forecast") == 0
    files = {path.name for path in (tmp_path / "forecast").iterdir()}
    assert {"forecast.csv", "forecast.png", "report.md", "report.json", "model.json", "weights.safetensors"} <= files
    rows = list(csv.DictReader((tmp_path / "forecast" / "forecast.csv").open(encoding="utf-8")))
    t, x, low, high = (np.array([float(row[key]) for row in rows]) for key in list(rows[0])[:4])
    np.testing.assert_allclose(t, (200 + np.arange(25)) / RATE)
    # rk4 with 2 steps a sample: (ω Δt)^4 / 120 = 4e-7 a radian; the fit stops at relative gains of 1e-7.
    assert np.abs(x - motion(t)).max() < 1e-2 and (low <= x).all() and (x <= high).all()
    page = (tmp_path / "forecast" / "report.md").read_text(encoding="utf-8")
    assert "Forecast from what was before" in page and "forecast.png" in page
    report = json.loads((tmp_path / "forecast" / "report.json").read_text(encoding="utf-8"))
    assert report["test"]["runs"] > 5 and report["models"]["last value"]["joined"] > report["test"]["nrmse"]
    said = capsys.readouterr().out
    assert "inputs" not in said.split("rests at")[1].split("\n")[0] and "natural frequency" in said


def test_inputs_go_in_ahead(home: Path, tmp_path: Path) -> None:
    options = ("--output", "x", "--input", "drive", "--baselines", "none", *COMMON)
    ahead = ("--ahead", home / "ahead.csv", "--out", tmp_path / "forecast")
    assert run("forecast", home / "record.csv", *options, *ahead) == 0
    rows = list(csv.DictReader((tmp_path / "forecast" / "forecast.csv").open(encoding="utf-8")))
    assert len(rows) == 40


@pytest.mark.slow
def test_bands_from_noise_of_the_process(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--output", "x", "--horizon", 25, "--baselines", "linear", "--model", "latent-sde", "--degree", 1)
    assert run("forecast", home / "record.csv", *options, "--quiet", "--out", tmp_path / "forecast") == 0
    rows = list(csv.DictReader((tmp_path / "forecast" / "forecast.csv").open(encoding="utf-8")))
    assert len(rows) == 25 and all(float(row["x_low (mm)"]) < float(row["x_high (mm)"]) for row in rows)
    assert "LATENT-SDE" in capsys.readouterr().out


@pytest.mark.parametrize(
    "option, value", [("--states", 2), ("--seeds", 2), ("--readout", "linear"), ("--hidden", "8,8")]
)
def test_what_a_latent_sde_has_not_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: object
) -> None:
    given = ("--output", "x", "--model", "latent-sde", option, value, "--quiet", "--out", tmp_path / "forecast")
    assert run("forecast", home / "record.csv", *given) == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        (("--input", "drive"), "--input and --ahead go together"),
        (("--output", "x", "--ahead", "record.csv"), "--input and --ahead go together"),
        (("--output", "x", "--horizon", "0"), "must be a positive whole number"),
        (("--output", "x", "--initial", "190"), "too few rows"),
        (("--output", "y"), "no column 'y'"),
        (("--output", "x", "--encoding", "latin-one"), "encoding must be one that Python knows"),
    ],
)
def test_bad_input_is_said_in_a_line(
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(home)
    assert run("forecast", "record.csv", *COMMON, *options, "--out", tmp_path / "forecast") == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not list(tmp_path.iterdir())
