"""`hbode diagnose`, from arguments to files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hbode.cli import main

FIELDS = """
import torch
from torch import nn
from hbode import FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.drop = nn.Dropout(0.5)
    def forward(self, t, h):
        return torch.tanh(self.linear(self.drop(h)))

inner = Net()
def closed(t, h): return inner(t, h)
def field(t, h): return -torch.sin(h)
node = FirstOrder(field)
sonode = SecondOrder(lambda t, h, m: -h - m)
ghbnode = GeneralizedHeavyBall(field)
def coupled(t, h): return h.mean(0) - h
def blows_up(t, h): return 10 * h**3
def at_once(t, h): raise KeyError("no\\nsuch")
def later(t, h):
    if t > 0.3:
        raise LookupError("too late\\nfor this")
    return -h
def by_value(t, h):
    if t > 0.3:
        raise ValueError("out of range")
    return -h
def cuts(t, h): return -h[..., :1]
def stopped(t, h):
    if t > 0.3:
        raise KeyboardInterrupt
    return -h
"""
FAST = ("--times", 3, "--methods", "dopri5", "--repeats", 1, "--rtol", 1e-3)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "fields.py").write_text(FIELDS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures, which take most of the time of a small run."""
    monkeypatch.setattr("hbode.analysis.reports.diagnosis_result.Diagnosis.figures", lambda _: {})


def run(target: str, *arguments: object) -> int:
    try:
        return main(["diagnose", target, *map(str, arguments)])
    except SystemExit as exit_:
        return int(exit_.code or 0)


def report(folder: str = "hbode-diagnosis") -> dict[str, object]:
    found: dict[str, object] = json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))
    return found


def test_a_whole_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savetxt("h.csv", np.array([[1.0, 0.5], [0.2, -0.4], [0.0, 0.3]]), delimiter=",")
    options = ("--momentum", "3x2", "--until", -1, "--unit", "s", "--formats", "svg,png", "--out", "out")
    assert run("fields.py:Net", "--state", "h.csv", *options, *FAST) == 0
    names = {f"{name}.{kind}" for name in ("stiffness", "spectrum", "cost", "comparison") for kind in ("svg", "png")}
    assert {path.name for path in Path("out").iterdir()} == names | {"report.json", "report.md"}
    assert sorted(path.name for path in here.iterdir()) == ["fields.py", "h.csv", "out"]
    found = report("out")
    assert found["asked"] == {
        "target": "fields.py:Net",
        "state": "h.csv",
        "momentum": "3x2",
        "until": -1.0,
        "times": 3,
        "system": "HeavyBall",
        "methods": "dopri5",
        "repeats": 1,
        "rtol": 1e-3,
        "unit": "s",
        "device": "cpu",
    }
    assert found["stiffness"]["samples"] == 3 and found["stiffness"]["span"] == 1.0  # type: ignore[index]
    assert found["profile"]["dtype"] == "float32"  # type: ignore[index]  # that of the model, not of the file
    assert "-1" in Path("out/report.md").read_text(encoding="utf-8")
    out, err = capsys.readouterr()
    assert "The fastest mode" in out and "Report: out/ (report.json, report.md" in out
    assert err.splitlines()[0] == "Solving by dprkn6 at tolerance 0.001 …" and err.splitlines()[-1] == "Drawing …"


@pytest.mark.usefixtures("undrawn")
def test_a_former_report_is_replaced_and_a_foreign_folder_is_not(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    former = Path("hbode-diagnosis")
    former.mkdir()
    for name, text in (("report.json", '{"made_by": "hbode diagnose"}'), ("old.png", "")):
        (former / name).write_text(text, encoding="utf-8")
    assert run("fields.py:field", "--state", "1", *FAST) == 0
    assert report()["asked"]["state"] == "1" and not (former / "old.png").exists()  # type: ignore[index]
    capsys.readouterr()
    assert run("fields.py:field", "--state", "1", "--out", here) == 2
    said = capsys.readouterr().err
    assert "did not write" in said and said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "target, dtype, expected",
    [("closed", None, "float32"), ("closed", "float64", "float64"), ("node", None, "float64")],
)
def test_the_dtype_is_that_of_what_the_field_reaches(here: Path, target: str, dtype: str | None, expected: str) -> None:
    asked = () if dtype is None else ("--dtype", dtype)
    assert run(f"fields.py:{target}", "--state", "1,2", *asked, *FAST) == 0
    assert report()["profile"]["dtype"] == expected  # type: ignore[index]


@pytest.mark.usefixtures("undrawn")
def test_an_exported_program_with_a_fixed_batch_is_diagnosed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Field(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)

        def forward(self, t: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.linear(h)) * torch.cos(t)

    torch.export.save(torch.export.export(Field(), (torch.zeros(()), torch.zeros(4, 2))), "model.pt2")
    assert run("model.pt2", "--state", "4x2", "--system", "node", *FAST) == 0
    found = report()
    assert found["stiffness"]["system"] == "FirstOrder" and not found["stiffness"]["notes"]  # type: ignore[index]
    capsys.readouterr()
    assert run("model.pt2", "--state", "3x2", "--out", "other", *FAST) == 2
    said = capsys.readouterr().err
    assert "at t = 0 and h of shape (3, 2), float32, it raised" in said and said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_samples_that_interact_are_one_sample_when_asked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fields.py:coupled", "--state", "3x2", *FAST) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("pass --no-batch")
    assert not Path("hbode-diagnosis").exists()
    assert run("fields.py:coupled", "--state", "3x2", "--no-batch", *FAST) == 0
    assert report()["stiffness"]["samples"] is None  # type: ignore[index]


@pytest.mark.parametrize(
    "target, arguments, code, message",
    [
        ("missing", ("--state", "1,2"), 2, "TARGET fields.py:missing: there is no missing in fields.py"),
        ("field", ("--state", "no.npy"), 2, "--state no.npy: there is no such file"),
        ("field", ("--state", "1,2", "--weights", "w.pt"), 2, "--weights w.pt: needs a TARGET that is a module"),
        ("Net", ("--state", "1,2", "--weights", "w.pt"), 2, "--weights w.pt: there is no such file"),
        ("field", ("--state", "1,2", "--momentum", "1"), 2, "--momentum 1: must have the shape of --state, (2,), got"),
        ("node", ("--state", "1", "--momentum", "1"), 2, "--momentum 1: must not be given, a FirstOrder system has no"),
        ("node", ("--state", "1", "--methods", "dprkn6"), 2, "--methods: method 'dprkn6' integrates"),
        ("Net", ("--state", "1,2,3"), 2, "h of shape (3,), float32, it raised RuntimeError: mat1 and mat2 shapes"),
        ("sonode.f", ("--state", "1"), 2, "raised TypeError: <lambda>() missing 1 required positional argument: 'm'"),
        ("cuts", ("--state", "1,2"), 2, "raised ValueError: func must return the shape of h, (2,), got (1,)"),
        ("at_once", ("--state", "1"), 2, "TARGET fields.py:at_once: at t = 0 and h of shape (1,), float64, it raised"),
        (
            "later",
            ("--state", "1"),
            1,
            "TARGET fields.py:later: during the run it raised LookupError: too late for this",
        ),
        (
            "by_value",
            ("--state", "1"),
            1,
            "TARGET fields.py:by_value: during the run it raised ValueError: out of range",
        ),
        ("blows_up", ("--state", "1"), 1, "TARGET fields.py:blows_up: STEP_UNDERFLOW at t = "),
        ("stopped", ("--state", "1"), 130, "interrupted; nothing was written"),
        ("field", (), 2, "the following arguments are required: --state"),
        ("field", ("--state", "1", "--until", "0"), 2, "argument --until: must be a number other than zero, got '0'"),
        ("field", ("--state", "1", "--until", "inf"), 2, "argument --until: must be a number other than zero"),
        ("field", ("--state", "1", "--times", "1"), 2, "argument --times: must be at least 2"),
        ("field", ("--state", "1", "--times", "x"), 2, "argument --times: must be a positive whole number, got 'x'"),
        ("field", ("--state", "1", "--methods", "foo"), 2, "argument --methods: must be names out of euler,"),
        ("field", ("--state", "1", "--formats", "gif"), 2, "argument --formats: must be names out of png,svg,pdf"),
        ("field", ("--state", "1", "--rtol", "2"), 2, "argument --rtol: must be a number between 0 and 1, got '2'"),
        ("field", ("--state", "1", "--dtype", "float16"), 2, "argument --dtype: invalid choice: 'float16'"),
        ("field", ("--state", "1", "--system", "lstm"), 2, "argument --system: invalid choice: 'lstm'"),
        ("field", ("--state", "1", "--device", "abacus"), 2, "'abacus' cannot be used"),
        ("field", ("--state", "1", "--repeats", "0"), 2, "argument --repeats: must be a positive whole number"),
        ("field", ("--state", "1", "--out", "fields.py"), 2, "fields.py: exists and is not a folder"),
    ],
)
def test_every_error_is_one_line_and_leaves_no_files(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    target: str,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    assert run(f"fields.py:{target}", *arguments) == code
    out, err = capsys.readouterr()
    said = [line for line in err.splitlines() if not line.endswith("…")]  # beside the stages of the run
    assert len(said) == 1 and said[0].startswith("hbode diagnose: error: ") and message in said[0]
    assert out == "" and [path.name for path in here.iterdir()] == ["fields.py"]


@pytest.mark.slow
def test_a_disk_that_is_full_is_told(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hbode.analysis.reports.diagnosis_result.Diagnosis.save", full)
    assert run("fields.py:field", "--state", "1", *FAST) == 2
    assert "--out hbode-diagnosis: cannot be written (No space left on device)" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["fields.py"]


def test_help_tells_what_a_target_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert "model.pt2" in shown and "--no-batch" in shown and "50 eps" in shown
