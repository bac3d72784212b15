"""Rows and lines of several jobs."""

import io
import logging

import pytest

from hbode.progress import jobs
from hbode.progress.jobs import Board, run_all


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(report, steps: int) -> int:
    for done in range(1, steps + 1):
        report(done, f"error {1 / done:.2f}")
    return steps


def show(monkeypatch, stream: io.StringIO, processes: int = 1) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    with Board(["NODE", "HBNODE"], 3, "epochs") as board:
        assert run_all(work, [(board.reporter(0), 3), (board.reporter(1), 2)], processes) == [3, 2]
    return stream.getvalue()


@pytest.fixture
def told():
    before = jobs.LOGGER.level
    jobs.LOGGER.setLevel(logging.INFO)
    yield
    jobs.LOGGER.setLevel(before)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_rows_end_in_their_places(told, monkeypatch, processes):
    last = show(monkeypatch, Terminal(), processes).split("\x1b[2A")[-1]
    rows = [row.removeprefix("\r\x1b[K") for row in last.split("\n")[:2]]
    assert rows[0].startswith("NODE   ") and rows[0].endswith("3/3 epochs  error 0.33")
    assert rows[1].startswith("HBNODE ") and rows[1].endswith("2/3 epochs  error 0.50")
    assert last.endswith("\n")


def test_without_a_terminal_there_are_lines(told, monkeypatch):
    text = show(monkeypatch, io.StringIO())
    assert text.endswith("epochs: NODE 3/3 (error 0.33); HBNODE 2/3 (error 0.50)\n") and "\x1b" not in text


def test_nothing_is_shown_unless_asked(monkeypatch):
    assert show(monkeypatch, Terminal()) == ""
