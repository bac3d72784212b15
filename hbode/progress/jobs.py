"""Several jobs, and how far each has come: a row for each on a terminal, elsewhere lines every few seconds."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from ..lazy import optional

T = TypeVar("T")

LOGGER = logging.getLogger("hbode")
"""Progress is shown where this logger is enabled for INFO, which the `hbode` command sees to."""
SECONDS = 5.0
"""Between two lines where nobody watches a terminal."""
FRAME = 0.2
"""Seconds between two pictures on a terminal."""
WIDTH = 24


@dataclass(frozen=True)
class Reporter:
    """What a job, in whatever process, tells how far it has come: ``reporter(done, "error 0.1")``."""

    path: Path | None = None

    def __call__(self, done: int, note: str = "") -> None:
        if self.path is not None:
            part = self.path.with_suffix(".part")
            part.write_text(f"{done} {note}", encoding="utf-8")
            os.replace(part, self.path)


class Board:
    """Shows jobs while they run: a context manager, from which each job takes its `reporter`.

    Jobs leave what they tell in files, and this process alone writes, so that rows stay in their places and end whole.

    Parameters
    ----------
    labels
        Of the jobs.
    total
        How many of its units each has to do.
    unit
        Of them, as in "3/30 epochs".
    """

    def __init__(self, labels: Sequence[str], total: int, unit: str) -> None:
        self.labels, self.total, self.unit = list(labels), total, unit
        self.shown = LOGGER.isEnabledFor(logging.INFO)
        self.terminal = sys.stderr.isatty()
        self.drawn = 0
        self.last = ""

    def reporter(self, job: int) -> Reporter:
        """Return what the job of that number is to tell."""
        return Reporter(Path(self.folder.name) / str(job)) if self.shown else Reporter()

    def __enter__(self) -> Board:
        if self.shown:
            self.folder = tempfile.TemporaryDirectory(prefix="hbode-")
            self.started, self.stop = time.perf_counter(), threading.Event()
            self.thread = threading.Thread(target=self._watch, daemon=True)
            self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.shown:
            self.stop.set()
            self.thread.join()
            self._draw()
            self.folder.cleanup()

    def _watch(self) -> None:
        while not self.stop.wait(FRAME if self.terminal else SECONDS):
            self._draw()

    def _read(self, job: int) -> tuple[int, str]:
        try:
            done, _, note = (Path(self.folder.name) / str(job)).read_text(encoding="utf-8").partition(" ")
        except FileNotFoundError:
            return 0, ""
        return int(done), note

    def _draw(self) -> None:
        """Write the rows again in their places, or a line of what has changed."""
        states = [self._read(job) for job in range(len(self.labels))]
        if self.terminal:
            wide = max(map(len, self.labels))
            rows = [f"\x1b[{self.drawn}A" if self.drawn else ""]
            for label, (done, note) in zip(self.labels, states, strict=True):
                filled = WIDTH * done // self.total
                bar = "█" * filled + "·" * (WIDTH - filled)
                rows.append(f"\r\x1b[K{label:{wide}} {bar} {done}/{self.total} {self.unit}  {note}\n")
            sys.stderr.write("".join(rows))
            self.drawn = len(states)
        else:
            text = "; ".join(
                f"{label} {done}/{self.total}{note and f' ({note})'}"
                for label, (done, note) in zip(self.labels, states, strict=True)
                if done
            )
            if text and text != self.last:
                seconds = time.perf_counter() - self.started
                sys.stderr.write(f"[{seconds:.0f} s] {self.unit}: {text}\n")
                self.last = text
        sys.stderr.flush()


def run_all(function: Callable[..., T], calls: Sequence[tuple[Any, ...]], jobs: int) -> list[T]:
    """Return what the calls return, `jobs` at a time in processes with one thread each; one job stays in this one."""
    if jobs <= 1 or len(calls) == 1:
        return [function(*call) for call in calls]
    joblib = optional("joblib")
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        work = (joblib.delayed(function)(*call) for call in calls)
        found: list[T] = joblib.Parallel(n_jobs=min(jobs, len(calls)))(work)
    return found
