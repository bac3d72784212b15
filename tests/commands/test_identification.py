"""`hbode fit` and `hbode simulate`, from arguments to files."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lsim

from hbode.cli import main
from hbode.commands import law
from hbode.reporting.style import Picture

FREQUENCY, DAMPING, ROWS, RATE, INITIAL = 0.8, 0.1, 360, 20.0, 10
FIGURES = {"simulation.png", "residual.png", "curves.png"}
COMMON = ("--seeds", 1, "--hidden", 0, "--degree", 1, "--initial", INITIAL, "--stretch", 80, "--evaluations", 8)


def run(*arguments: object) -> int:
    try:
        return main([*map(str, arguments)])
    except SystemExit as exit_:
        return int(exit_.code or 0)


def oscillator(path: Path, shift: float, names: tuple[str, str] = ("F (N)", "x (mm)"), until: int = ROWS) -> None:
    """Write the exact response of x'' + 2 ζ ω x' + ω² x = F to a smooth force; outputs end with row `until`."""
    t = np.arange(ROWS) / RATE
    fine = np.arange(20 * (ROWS - 1) + 1) / (20 * RATE)
    force, w = sum(np.sin(2 * math.pi * f * fine + shift * f) for f in (0.31, 0.77, 1.3, 2.1)), 2 * math.pi * FREQUENCY
    x = 100 * lsim(([1.0], [1.0, 2 * DAMPING * w, w**2]), force, fine)[1]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["t (s)", *names])
        for i in range(ROWS):
            table.writerow([t[i], force[20 * i], x[20 * i] if i < until else ""])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a record, another one, and a model fitted to the first 300 rows of the first."""
    folder = tmp_path_factory.mktemp("home")
    oscillator(folder / "record.csv", 0.0)
    oscillator(folder / "new.csv", 2.0)
    options = ("--input", "F", "--output", "x", "--train", ":300", "--quiet", "--baselines", "linear")
    assert run("fit", folder / "record.csv", *options, *COMMON, "--out", folder / "model") == 0
    return folder


def test_a_fit_finds_the_oscillator(home: Path) -> None:
    files = {path.name for path in (home / "model").iterdir()}
    assert files == {"model.json", "weights.safetensors", "report.md", "report.json", "comparison.png", *FIGURES}
    assert {path.name for path in home.iterdir()} >= {"model"} and not list(home.glob("*unfinished*"))
    report = json.loads((home / "model" / "report.json").read_text(encoding="utf-8"))
    (mode,) = report["learned"]["modes"]
    # rk4 with 2 steps a sample, ω dt = 0.126, and cubics between the inputs are exact to about 1e-5.
    assert mode["frequency"] == pytest.approx(FREQUENCY, rel=1e-3)
    assert mode["damping_ratio"] == pytest.approx(DAMPING, rel=1e-2)
    assert report["test"]["rows"] == 60 and report["test"]["nrmse"] < 1e-2
    assert {"HBNODE", "linear ARX", "linear state space"} <= report["models"].keys()
    page = (home / "model" / "report.md").read_text(encoding="utf-8")
    assert "the rows 0 to 299" in page and "natural frequency 0.8" in page


def test_a_fit_with_an_energy_shows_it(home: Path, tmp_path: Path) -> None:
    options = ("--input", "F", "--output", "x", "--train", ":300", "--quiet", "--baselines", "none", "--model", "port")
    assert run("fit", home / "record.csv", *options, *COMMON, "--out", tmp_path / "model") == 0
    assert {path.name for path in (tmp_path / "model").iterdir()} >= {"energy.png", *FIGURES}
    report = json.loads((tmp_path / "model" / "report.json").read_text(encoding="utf-8"))
    (damping,) = report["learned"]["energy"]["damping"]
    assert damping == pytest.approx([4 * math.pi * DAMPING * FREQUENCY], rel=1e-2)
    page = (tmp_path / "model" / "report.md").read_text(encoding="utf-8")
    assert page.startswith("# PORT of record.csv") and "energy.png" in page


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures empty, which take seconds."""
    monkeypatch.setattr(Picture, "savefig", lambda self, path, **_: path.touch())


def columns(path: Path) -> dict[str, np.ndarray]:
    with path.open(encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    return dict(zip(head, np.array(rows, float).T, strict=True))


def test_a_simulation_of_a_new_force(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", home / "model", home / "new.csv", "--out", tmp_path / "y.csv") == 0
    made, measured = columns(tmp_path / "y.csv"), columns(home / "new.csv")
    assert list(made) == ["t (s)", "x (mm)", "x_low (mm)", "x_high (mm)"]
    np.testing.assert_allclose(made["x (mm)"], measured["x (mm)"], atol=1e-2 * measured["x (mm)"].std())
    assert (made["x_low (mm)"] < made["x (mm)"]).all() and (made["x (mm)"] < made["x_high (mm)"]).all()
    assert {path.name for path in (tmp_path / "y-report").iterdir()} == {"report.md", "report.json", *FIGURES}
    report = json.loads((tmp_path / "y-report" / "report.json").read_text(encoding="utf-8"))
    inside = (made["x_low (mm)"] <= measured["x (mm)"]) & (measured["x (mm)"] <= made["x_high (mm)"])
    assert report["test"]["outputs"]["x (mm)"]["band_coverage"] == pytest.approx(inside[INITIAL:].mean())
    assert "% in the 90 % band" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_columns_of_other_names_and_outputs_that_end(home: Path, tmp_path: Path) -> None:
    """Only the first outputs are used: the same numbers, and no report without a measurement."""
    assert run("simulate", home / "model", home / "new.csv", "--out", tmp_path / "a.csv") == 0
    oscillator(tmp_path / "other.csv", 2.0, ("shaker", "gauge"), until=INITIAL)
    options = ("--input", "shaker", "--output", "gauge")
    assert run("simulate", home / "model", tmp_path / "other.csv", *options, "--out", tmp_path / "b.csv") == 0
    a, b = columns(tmp_path / "a.csv"), columns(tmp_path / "b.csv")
    assert list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)
    assert not (tmp_path / "b-report").exists()


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_fit_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hbode.timeseries.identification import checkpoints

    real, seeds = checkpoints.fit_member, []

    def interrupted(*arguments: object) -> object:
        seeds.append(arguments[4])
        if len(seeds) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(checkpoints, "fit_member", interrupted)
    options = ("--input", "F", "--quiet", "--baselines", "none", *COMMON, "--seeds", 2, "--jobs", 1, "--evaluations", 2)
    again = ("fit", home / "record.csv", *options, "--out", tmp_path / "model")
    assert run(*again) == 130
    said = capsys.readouterr().err
    assert "model.unfinished" in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model.unfinished"]
    assert run(*again) == 0
    assert seeds == [0, 1, 1] and [path.name for path in tmp_path.iterdir()] == ["model"]
    assert "did not see" in (tmp_path / "model" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "options, message",
    [
        (("--input", "G"), "no column 'G'"),
        (("--input", "F", "--train", ":900"), "there are 360 rows"),
        (("--input", "F", "--train", "9:3"), "rows A:B"),
        (("--input", "F", "--train", ":300", "--test", "200:320"), "shares rows"),
        (("--input", "F", "--train", ":300", "--test", "300:303"), "too few rows"),
        (("--input", "F", "--train", ":15"), "too few rows"),
        (("--input", "F", "--hidden", "-1"), "at least 0"),
        (("--input", "F", "--limits", "3:1"), "LOW:HIGH"),
        (("--input", "F", "--states", "1", "--output", "x,t"), "states must be at least 2"),
        ((), "--input"),
    ],
)
def test_fits_that_are_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    shutil.copy(home / "record.csv", tmp_path / "record.csv")
    if "x,t" in options:  # without a column of times, t is a channel like others
        text = (tmp_path / "record.csv").read_text(encoding="utf-8").replace("t (s)", "z")
        (tmp_path / "record.csv").write_text(text, encoding="utf-8")
        options = (*options[:-1], "x,z")
    assert run("fit", tmp_path / "record.csv", *options, "--out", tmp_path / "model") == 2
    refused(tmp_path, capsys, message, ["record.csv"])


def refused(folder: Path, capsys: pytest.CaptureFixture[str], message: str, left: list[str]) -> None:
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and "Traceback" not in said
    assert sorted(path.name for path in folder.iterdir()) == left


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "old, new, options, message",
    [
        ("x (mm)", "y (mm)", (), "no column 'x'"),
        ("x (mm)", "x (m)", (), "is in m, the model was fitted to x (mm)"),
        ("t (s)", "z", (), "--rate"),
        ("", "", ("--input", "F,x"), "the model has 1, F (N)"),
        ("", "", ("--rows", ":4000"), "360 rows"),
        ("", "", ("--rows", ":8"), "too few rows, 8"),
        ("", "", ("--out", "y.txt"), ".csv"),
        ("", "", ("--out", "new.csv"), "is DATA itself"),
        ("", "", ("--initial", "1"), "at least 2"),
    ],
)
def test_simulations_that_are_refused(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("new.csv").write_text((home / "new.csv").read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    assert run("simulate", home / "model", "new.csv", "--out", "y.csv", *options) == 2
    refused(tmp_path, capsys, message, ["new.csv"])


def test_no_first_outputs(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oscillator(tmp_path / "new.csv", 2.0, until=1)
    assert run("simulate", home / "model", tmp_path / "new.csv", "--out", tmp_path / "y.csv") == 2
    refused(tmp_path, capsys, "'x' has 1 values in the first 10 rows", ["new.csv"])


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: (folder / "model.json").unlink(), "model.json is missing"),
        (lambda folder: (folder / "model.json").write_text('{"format": "x"}', encoding="utf-8"), "not a model"),
        (lambda folder: cut(folder / "weights.safetensors"), "not whole"),
        (lambda folder: cut(folder / "model.json"), "not whole"),
        (shutil.rmtree, "no model"),
    ],
)
def test_models_that_are_not_whole(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: object, message: str
) -> None:
    model = tmp_path / "a" / "model"
    shutil.copytree(home / "model", model)
    spoil(model)  # type: ignore[operator]
    (tmp_path / "out").mkdir()
    assert run("simulate", model, home / "new.csv", "--out", tmp_path / "out" / "y.csv") == 2
    refused(tmp_path / "out", capsys, message, [])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def test_choices_are_those_of_the_library() -> None:
    """The parser names them without importing scikit-learn."""
    from hbode.timeseries.identification.laws.structures import READOUTS, STRUCTURES
    from hbode.timeseries.simulation import BASELINES

    assert set(law.MODELS) - {"auto"} <= set(STRUCTURES) and set(law.READOUTS) <= set(READOUTS)
    assert law.BASELINES == BASELINES
