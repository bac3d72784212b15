"""The jumps of a solution, of updates and of resets alike, and the slopes of it on both sides."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...solvers import Crossing, Tape
from ..problem import Problem


class Jump(NamedTuple):
    """A change of the state at a time, ``y⁺ = change(t, y⁻)``, after so many rows and events of a tape: `row`, `event`.

    The time is that of a requested one, `anchor`, or a zero of an event function, `crossing`. The step that ended there
    was to be of a `length`, if it was cut short.
    """

    t: float
    change: Callable[[Tensor, Tensor], Tensor]
    before: Tensor
    after: Tensor
    row: int
    event: int
    anchor: int | None = None
    crossing: Crossing | None = None
    length: float | None = None


def jumps_of(problem: Problem, tape: Tape, rows: Tensor, anchor: list[int], sides: list[tuple[int, int]]) -> list[Jump]:
    """Return the jumps of a solve, in order.

    Parameters
    ----------
    rows, anchor
        The rows of the tape, (n, *y), and which requested times they belong to.
    sides
        The rows that are the states before and after each update.
    """
    updates, times, found = problem.plan.updates, problem.clock.times.tolist(), list[Jump]()
    event_t, event_y = tape.events.joined(rows)
    sign = float(problem.clock.sign)
    met = [sign * t for t in event_t.tolist()]
    for k, (before, after) in enumerate(sides):
        if updates is None:
            break
        at = anchor[after]
        change = partial(updates.apply, torch.tensor(k, device=rows.device))
        found.append(Jump(times[at], change, rows[before], rows[after], after, bisect_right(met, sign * times[at]), at))
    for reset in tape.resets:
        behind = reset.event + len(reset.change.fired)
        states = event_y[reset.event], event_y[behind]
        found.append(
            Jump(reset.t, reset.change, *states, reset.row, behind, crossing=reset.crossing, length=reset.length)
        )
    return sorted(found, key=lambda jump: (jump.row, jump.crossing is None))  # an update comes last of those at a time
