"""Where the adjoint takes the forward solution from: the tape's interpolants, or a second solve backwards."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...solvers import Carry, Clock, Field, Method, Node, Plan, Tape, solve
from .transposed import States


class Interpolated:
    """The dense output of a tape whose interpolants were kept, with its direction of time."""

    def __init__(self, method: Method, tape: Tape, sign: float) -> None:
        self.method, self.tape, self.sign = method, tape, sign
        self.starts = [self.sign * t for t in tape.t]

    @torch.no_grad()
    def states(self, times: Sequence[float], end: float) -> Tensor:
        """Return the states at times within the tape, in the direction of time, shape (n, *y)."""
        owners = [max(bisect_right(self.starts, self.sign * t) - 1, 0) for t in times]
        blocks = []
        for owner in dict.fromkeys(owners):
            start, span = self.tape.t[owner], self.tape.dt[owner]
            theta = [(t - start) / span for t, mine in zip(times, owners, strict=True) if mine == owner]
            blocks.append(self._read(self.tape.interpolants[owner], theta))
        return torch.cat(blocks)

    def _read(self, stages: Any, theta: list[float]) -> Tensor:
        at = torch.tensor(theta, dtype=torch.float64, device=self.tape.carry[0].device)
        return self.method.interpolate(stages, at)


class SolvedBackwards:
    """The solution solved once more, from its end back, as far as it is asked for; what was passed is forgotten.

    It starts afresh from a known state, an output of the forward solve, wherever that solves little twice: errors of
    the way back, which damping amplifies, then do not add up.
    """

    def __init__(
        self,
        method: Method,
        field: Field,
        plan: Plan,
        points: Sequence[float],
        known: Sequence[tuple[float, Tensor]],
        sign: float,
    ) -> None:
        self.method, self.field, self.points, self.sign = method, field, points, sign
        self.plan = replace(plan, keep_interpolants=True)
        self.times, self.rows = zip(*known, strict=True)
        self.reached = self.times[-1]
        self.carry: Carry = (self.rows[-1],)
        self.windows: list[Interpolated] = []

    @torch.no_grad()
    def states(self, times: Sequence[float], end: float) -> Tensor:
        """Return the states at times in the direction of the forward solve, shape (n, *y).

        What is later than `end` is not asked for again.
        """
        if times[0] != self.reached and (not self.windows or not self._covers(self.windows[-1], times[0])):
            self._solve_to(times[0], end)
        if not self.windows:
            return self.carry[0].expand(len(times), *self.carry[0].shape)
        while len(self.windows) > 1 and self._covers(self.windows[1], end):
            del self.windows[0]
        backwards = list(reversed(times))
        split = [next(i for i, w in enumerate(self.windows) if self._covers(w, t)) for t in backwards]
        blocks = [
            window.states([t for t, owner in zip(backwards, split, strict=True) if owner == i], end)
            for i, window in enumerate(self.windows)
            if i in split
        ]
        return torch.cat(blocks).flip(0)

    def _solve_to(self, t: float, end: float) -> None:
        """Add a window that goes back to t, or one in place of all that goes back from a known state at `end`."""
        plan = self.plan
        if self.windows:
            longest = max(abs(dt) for dt in self.windows[-1].tape.dt)
            plan = replace(plan, control=replace(plan.control, first_step=longest))
        at = bisect_left([self.sign * time for time in self.times], self.sign * end)
        if at < len(self.times) and abs(self.times[at] - self.reached) <= 0.5 * abs(self.reached - t):
            self.reached, self.carry, self.windows = self.times[at], (self.rows[at],), []
        fresh = len(self.carry) == 1 or self.reached in plan.jumps
        start: Carry | None = None if fresh else self.carry
        times = torch.tensor([self.reached, t], dtype=torch.float64, device=self.carry[0].device)
        plan = replace(plan, stops=stops_between((self.reached, t), self.points))
        tape = solve(self.method, self.field, self.carry[0], Clock.of(times), plan, start)
        (ended,) = tape.outcomes
        if ended.status.failed:
            raise RuntimeError(
                f"solving backwards failed at t = {ended.t:.6g} with {ended.status.name}, as damped systems do "
                "over long spans; take the state from the tape (adjoint_state='interpolating')"
            )
        self.windows.append(Interpolated(self.method, tape, -self.sign))
        self.reached, self.carry = t, tape.carry

    def _covers(self, window: Interpolated, t: float) -> bool:
        tape = window.tape
        ends = (tape.t[0], tape.t[-1] + tape.dt[-1], self.reached if window is self.windows[-1] else tape.t[0])
        inside: bool = min(ends) <= t <= max(ends)
        return inside


class BetweenJumps:
    """A solution that jumps, in parts between them: a step at hand is in the part that its end is in.

    Jumps come after what ends at their times.

    Parameters
    ----------
    jumps
        The times of the jumps, in the order of the solve.
    part
        Returns the part after so many of them. It is asked for one after the other, the last one first.
    sign
        The direction of the solve.
    """

    def __init__(self, jumps: Sequence[float], part: Callable[[int], States], sign: float) -> None:
        self.keys, self.part, self.sign = [sign * t for t in jumps], part, sign
        self.here: tuple[int, States] | None = None

    def states(self, times: Sequence[float], end: float) -> Tensor:
        """Return the states at times in order, none after the end of the step at hand, shape (n, *y)."""
        number = bisect_left(self.keys, self.sign * end)
        if self.here is None or self.here[0] != number:
            self.here = number, self.part(number)
        return self.here[1].states(times, end)


def parts_between_jumps(tape: Tape, lengths: Sequence[float | None]) -> list[Tape]:
    """Return the steps of a tape with interpolants between its jumps, which have none.

    Their lengths are those of the interpolants: `lengths` has that of the step which each jump cut short.
    """
    parts, first, stages, ends = [], 0, list[Any](), iter((*lengths, None))
    for interpolant in (*tape.interpolants, None):
        if interpolant is not None:
            stages.append(interpolant)
            continue
        last, length = first + len(stages), next(ends)
        dt = tape.dt[first:last] if length is None else [*tape.dt[first : last - 1], length]
        parts.append(replace(tape, t=tape.t[first:last], dt=dt, interpolants=stages))
        first, stages = last, []
    return parts


def stops_between(grid: Sequence[float], points: Sequence[float]) -> tuple[Node, ...]:
    """Return the stops of a solve by Clock.of(grid): its later times and the points inside, in order."""
    start, end = grid[0], grid[-1]
    low, high = min(start, end), max(start, end)
    anchors = {t: n for n, t in enumerate(grid)}
    inside = sorted({t for t in (*grid, *points) if low < t < high}, reverse=end < start)
    return tuple(Node(t, anchors.get(t)) for t in (*inside, end))
