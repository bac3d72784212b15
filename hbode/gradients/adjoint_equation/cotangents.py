"""The states that a tape gave out, and where their cotangents enter the adjoint."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from ...solvers import Tape
from ..problem import Problem
from .jumps import Jump, jumps_of


class Rows(NamedTuple):
    """The rows of a tape, (n, *y), the requested time, `anchor`, that each is the state at, and the jumps."""

    states: Tensor
    anchor: list[int]
    jumps: list[Jump]

    @classmethod
    def of(cls, problem: Problem, tape: Tape, states: Tensor) -> Rows:
        """Return what the rows of a tape are."""
        updates, requested = problem.plan.updates, problem.clock.times.shape[-1]
        due = [] if updates is None else updates.anchors.tolist()
        places = torch.cat(tape.rows.places).tolist() if tape.rows.places else list(range(len(states)))
        row = {place: n for n, place in enumerate(places)}
        made = sum(place >= requested for place in places)
        sides = [(row[due[k]], row[requested + k]) for k in range(made)]
        anchor = [place if place < requested else due[place - requested] for place in places]
        return cls(states, anchor, jumps_of(problem, tape, states, anchor, sides))

    @property
    def passed(self) -> list[int]:
        """How many jumps come before each row."""
        return passed([jump.row for jump in self.jumps], len(self.states))

    def between(self, number: int, times: Sequence[float]) -> list[tuple[float, Tensor]]:
        """Return the states, with their times, after so many jumps and before the next one, both sides included."""
        behind, ahead = self.jumps[:number][-1:], self.jumps[number : number + 1]
        within = slice(behind[0].row if behind else 0, ahead[0].row if ahead else None)
        rows = [(times[n], y) for n, y in zip(self.anchor[within], self.states[within], strict=True)]
        return [*((j.t, j.after) for j in behind), *rows, *((j.t, j.before) for j in ahead)]


class Received(NamedTuple):
    """Cotangents of states, by where they enter the adjoint.

    Attributes
    ----------
    first
        Those of y0, and of the state after each jump, (1 + K, *y). A state that is later by no more than the rounding
        of a time, `slack`, is that state.
    times, bars
        Those of the others, (n,) and (n, *y), in the order of the solve.
    passed, latest
        How many jumps come before the last state that has a cotangent, and when that is: there the adjoint starts.
    """

    first: Tensor
    times: list[float]
    bars: Tensor
    slack: float
    passed: int
    latest: float


def received(problem: Problem, tape: Tape, rows: Rows, cotangents: Sequence[Tensor | None]) -> Received:
    """Return what the states received: as rows, at events, and as nodes of dense output."""
    rows_bar, _, event_bar, *nodes_bar = cotangents
    y0, values = problem.y0, problem.clock.times.tolist()
    starts = [values[0], *(jump.t for jump in rows.jumps)]
    met: list[tuple[int, float, Tensor]] = []
    if rows_bar is not None:
        met += zip(rows.passed, [values[n] for n in rows.anchor], rows_bar, strict=True)
    if event_bar is not None:
        at = tape.events.joined(rows.states)[0].tolist()
        met += zip(passed([jump.event for jump in rows.jumps], len(at)), at, event_bar, strict=True)
    if nodes_bar and nodes_bar[0] is not None:
        between = accumulate((step.start == step.end for step in tape.steps), initial=0)
        met += zip(between, [step.start.value for step in tape.steps], nodes_bar[0], strict=False)

    if met:
        alive = torch.stack([bar.any() for _, _, bar in met]).tolist()
        met = [entry for entry, kept in zip(met, alive, strict=True) if kept]
    met.sort(key=lambda entry: (entry[0], abs(entry[1] - values[0])))
    slack = 8 * math.ulp(max((abs(t) for _, t, _ in met), default=0.0) + abs(values[0]))
    first = y0.new_zeros((len(starts), *y0.shape))
    inside: list[tuple[float, Tensor]] = []
    latest = values[0]
    for n, t, bar in met:
        if abs(t - starts[n]) <= slack:
            first[n] += bar
            latest = starts[n]
        else:
            inside.append((t, bar))
            latest = t
    bars = torch.stack([bar for _, bar in inside]) if inside else first[:0]
    return Received(first, [t for t, _ in inside], bars, slack, met[-1][0] if met else 0, latest)


def passed(starts: Sequence[int], size: int) -> list[int]:
    """Return how many of the places `starts`, in order, are not behind each of so many places."""
    return [bisect_right(starts, n) for n in range(size)]
