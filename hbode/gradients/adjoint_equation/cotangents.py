"""The states that a tape gave out, and where their cotangents enter the adjoint."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from ...solvers import Tape
from ..problem import Problem


class Rows(NamedTuple):
    """What the n rows of a tape show.

    Row i is a state at requested time `anchor[i]`, and comes after `passed[i]` updates. Rows `before[k]` and `after[k]`
    are the states on both sides of update k.
    """

    anchor: list[int]
    passed: list[int]
    before: list[int]
    after: list[int]

    @classmethod
    def of(cls, problem: Problem, tape: Tape, count: int) -> Rows:
        """Return what the rows of a tape, so many, show."""
        updates, requested = problem.plan.updates, problem.clock.times.shape[-1]
        anchors = [] if updates is None else updates.anchors.tolist()
        places = torch.cat(tape.rows.places).tolist() if tape.rows.places else list(range(count))
        row = {place: n for n, place in enumerate(places)}
        made = sum(place >= requested for place in places)
        return cls(
            [place if place < requested else anchors[place - requested] for place in places],
            list(accumulate(int(place >= requested) for place in places)),
            [row[anchor] for anchor in anchors[:made]],
            [row[requested + k] for k in range(made)],
        )


class Received(NamedTuple):
    """Cotangents of states, by where they enter the adjoint.

    Attributes
    ----------
    first
        Those of y0, and of the state after each update, (1 + K, *y). A state that is later by no more than the rounding
        of a time, `slack`, is that state.
    times, bars
        Those of the others, (n,) and (n, *y), in the order of the solve.
    passed, latest
        How many updates come before the last state that has a cotangent, and when that is: there the adjoint starts.
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
    sign = float(problem.clock.sign)
    starts = [values[0], *(values[rows.anchor[n]] for n in rows.after)]
    met: list[tuple[int, float, Tensor]] = []
    if rows_bar is not None:
        met += zip(rows.passed, [values[n] for n in rows.anchor], rows_bar, strict=True)
    if event_bar is not None:
        at = torch.cat(tape.events.t).tolist()
        keys = [sign * t for t in starts[1:]]
        met += zip([bisect_left(keys, sign * t) for t in at], at, event_bar, strict=True)
    if nodes_bar and nodes_bar[0] is not None:
        passed = accumulate((step.start == step.end for step in tape.steps), initial=0)
        met += zip(passed, [step.start.value for step in tape.steps], nodes_bar[0], strict=False)

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
