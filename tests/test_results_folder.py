"""A results folder is whole or not there, and no other folder is touched."""

import json
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from hbode.reporting.results_folder import OutputError, results_in


def results(target: Path) -> AbstractContextManager[Path]:
    return results_in(target, "hbode demo", "metrics.json")


def test_folder_appears_whole(tmp_path: Path) -> None:
    with results(tmp_path / "a" / "b") as folder:
        (folder / "metrics.json").write_text(json.dumps({"made_by": "hbode demo"}))
        assert not (tmp_path / "a" / "b").exists()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]
    with results(tmp_path / "a" / "b") as folder:  # ours: replaced
        (folder / "metrics.json").write_text(json.dumps({"made_by": "hbode demo", "n": 2}))
    assert json.loads((tmp_path / "a" / "b" / "metrics.json").read_text())["n"] == 2
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


def test_folder_keeps_the_former_result_when_a_run_fails(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with results(target) as folder:
        (folder / "metrics.json").write_text(json.dumps({"made_by": "hbode demo"}))

    def failing() -> None:
        with results(target) as folder:
            (folder / "metrics.json").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert "hbode demo" in (target / "metrics.json").read_text()


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="did not write"), results(tmp_path):
        pass
    with pytest.raises(OutputError, match="not a folder"), results(tmp_path / "thesis.txt"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
