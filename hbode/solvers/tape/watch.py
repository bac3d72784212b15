"""What event functions are known by between steps, and what becomes of them at a jump."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..method import Carry, Method
from .crossings import LOOKS, Array, Mask, Sighted, Stretch, Zeros, find_zeros, mask_on_host, on_host, sampled
from .jumps import Fired, Jump, Resets
from .roots import rounding
from .tape import Crossing

ROUNDINGS = 100
"""By how many roundings a function that was zero at a jump has to differ from zero before it counts again."""
CLOSE = 1000
"""Jumps are close to each other that are not so many roundings of the time apart, or ten times the time until the
functions count again."""
CROWD = 100
"""How many jumps in a row, each close to the one before, are Zeno's."""
SPREAD = 8.0
"""The ratio of the times at which functions are looked at soon after a jump."""


class Cut(NamedTuple):
    """Where a step is cut short by events that replace the state.

    `who` is, (N,), by the first zeros, `ends`, of other samples each; `fired` are all events at the same time. On the
    way, states had a `size`, and a `speed` in absolute value.
    """

    who: Tensor
    ends: tuple[Zeros, ...]
    fired: tuple[Fired, ...]
    size: Tensor
    speed: Tensor


@torch.no_grad()
def values_at(crossings: Sequence[Crossing], t: Tensor, y: Tensor) -> Array:
    """Return the event functions at times, () or (B,), and states, shape (C, N)."""
    return on_host(torch.stack([crossing.fn(t, y).double().reshape(-1) for crossing in crossings]))


class Watch:
    """The event functions of a solve, C of them for N samples (one where the batch steps as one), arrays (C, N).

    A function that is zero after a jump has no zero there, and does not count until it is at a distance from zero, its
    `level`, that is no rounding. Since the next zero may be at any fraction of a step, as the flights of a ball that
    bounces get shorter, it is looked at in times from the least one on, in the ratio of `SPREAD`. On which `side` of
    zero it is to be then, its rate of change says, or if it has none the side that it came from. Where it is on the
    other one, it has been back at zero, and there may be infinitely many jumps in a finite time (Zeno); so there may
    where `CROWD` of them are close to each other. The sample is stuck.

    Parameters
    ----------
    clock
        The clock of the solve.
    sign
        The direction of time, ±1: a number, or (N,).
    t, y
        Where it starts.
    """

    def __init__(self, crossings: Sequence[Crossing], clock: Any, sign: Any, t: Tensor, y: Tensor) -> None:
        self.crossings, self.clock = crossings, clock
        self.direction = np.array([[crossing.direction] for crossing in crossings])
        self.last = np.array([[crossing.last or math.inf] for crossing in crossings])
        self.resets = np.array([[crossing.reset is not None] for crossing in crossings])
        self.values = values_at(crossings, t, y)
        self.sign = np.full_like(self.values[0], sign)
        self.made = np.zeros_like(self.values)
        self.level = np.zeros_like(self.values)
        self.side = np.zeros_like(self.values)
        self.crowded, self.horizon = np.zeros_like(self.values[0]), np.full_like(self.values[0], math.nan)

    @torch.no_grad()
    def renew(self, jump: Jump, y: Tensor) -> None:
        """Look again after an update: a function that it carries across zero is not met."""
        who, t = mask_on_host(jump.moved), self.clock.at(jump.start).detach()
        self.values = np.where(who, values_at(self.crossings, t, y), self.values)
        self.level = np.where(who, 0.0, self.level)

    @property
    def left(self) -> Array:
        """How many zeros of each function it takes to end the solve."""
        left: Array = self.last - self.made
        return left

    @property
    def over(self) -> Mask:
        """Who has met the last zero of a function, (N,)."""
        over: Mask = np.any(self.left <= 0, axis=0)
        return over

    @torch.no_grad()
    def look(self, stretch: Stretch, rows: Tensor | None, y: Tensor, moving: Tensor | None = None) -> Sighted | None:
        """Return what samples that are moving, (N,), meet in a step.

        It has requested times at fractions `rows`, (n, N), and ends at the state y.
        """
        moves = np.ones_like(self.crowded, dtype=bool) if moving is None else mask_on_host(moving)
        ends = on_host(torch.stack([stretch.value(crossing, stretch.end, y) for crossing in self.crossings]))
        if self.level.any():
            soon = _soon(stretch)
            rows = soon if rows is None else torch.cat((rows, soon))
        at, values = sampled(stretch, self.crossings, self.values, ends, rows)
        values, since, stuck = self._distant(at, values, moves)
        sighted = find_zeros(
            stretch,
            self.crossings,
            at,
            values,
            since,
            moves,
            np.where(self.resets, 1.0, self.left),
            stuck,
        )
        self.values = np.where(moves, values[:, -1], self.values)
        for zeros in sighted.zeros if sighted else ():
            self.made[zeros.which] += on_host(zeros.met)
        return sighted

    def _distant(self, at: Array, values: Array, moves: Mask) -> tuple[Array, Array, Mask]:
        """Return values (C, n, N) that are zero until they count, where they do (C, N), and who is stuck, (N,)."""
        if not self.level.any():
            return values, np.zeros_like(self.level), np.zeros_like(moves)
        waits = self.level > 0
        distant = ~(np.abs(values) <= self.level[:, None]) & (at > 0)
        first = distant.argmax(1)[:, None]
        again = np.sign(np.take_along_axis(values, first, 1)[:, 0])
        since = np.take_along_axis(np.broadcast_to(at, values.shape), first, 1)[:, 0]
        since = np.where(waits, np.where(distant.any(1), since, math.inf), 0.0)
        back = waits & distant.any(1) & (again * self.side < 0) & (again * self.direction >= 0)
        self.level = np.where(moves & distant.any(1), 0.0, self.level)
        return np.where(at < since[:, None], 0.0, values), since, moves & back.any(0)

    @torch.no_grad()
    def divided(self, sighted: Sighted, y0: Tensor, y1: Tensor, dt: Tensor) -> tuple[tuple[Zeros, ...], Cut | None]:
        """Return the zeros that a step dt from y0 to y1 reads by itself, and where it is cut short."""
        at_end = [zeros.met & (zeros.theta >= sighted.limit) for zeros in sighted.zeros]
        who = torch.zeros_like(sighted.lost)
        for zeros, last in zip(sighted.zeros, at_end, strict=True):
            if self.crossings[zeros.which].reset is not None:
                who = who | last
        if not who.any():
            return sighted.zeros, None
        found, ends, fired, rest = [], [], [], who
        for zeros, last in zip(sighted.zeros, at_end, strict=True):
            if (own := zeros.met & ~(last & who)).any():
                found.append(zeros._replace(met=own))
            if (met := last & who).any():
                fired.append(Fired(zeros.which, met))
            if (first := rest & last & (zeros.theta == sighted.limit)).any():
                ends.append(zeros._replace(met=first))
                rest = rest & ~first
        size, speed = torch.maximum(y0.abs(), y1.abs()), (y1 - y0).abs() / dt.abs().to(y0.real.dtype)
        return tuple(found), Cut(who, tuple(ends), tuple(fired), size, speed)

    def jump(self, method: Method, step: Any, cut: Cut, node: Any, carry: Carry, stages: Any, shown: Tensor) -> Jump:
        """Return the jump at a node where a step was cut short, from the carry that it stopped with."""
        fired = self._cascade(cut, step.before(method, self.clock, stages), self.clock.at(node).detach(), carry[0])
        return Jump(carry, node, Resets(self.clock, self.crossings, fired).restart, cut.who, shown, fired)

    @torch.no_grad()
    def _cascade(self, cut: Cut, before: tuple[Tensor, Tensor], t: Tensor, y: Tensor) -> tuple[Fired, ...]:
        """Return the events at one time, at a state: also those whose functions the resets of others carry to zero.

        Time and state just `before` tell the signs that they had.
        """
        self.values = np.where(mask_on_host(cut.who), values_at(self.crossings, *before), self.values)
        fired, new = list(cut.fired), cut.fired
        due = np.broadcast_to(mask_on_host(cut.who), self.values.shape).copy()
        while new:
            for which, met in new:
                due[which] &= ~mask_on_host(met)
            y = Resets(self.clock, self.crossings, new)(t, y)
            signs, now = np.sign(self.values), np.sign(values_at(self.crossings, t, y))
            crossed = due & (np.abs(signs) > 0) & (now != signs) & ~np.isnan(now) & (signs * self.direction <= 0)
            new = tuple(Fired(c, torch.from_numpy(x).to(t.device)) for c, x in enumerate(crossed) if x.any())
            fired += new
            for which, met in new:
                self.made[which] += on_host(met)
        return tuple(fired)

    def restart(self, jump: Jump, cut: Cut, y: Tensor, slope: Tensor) -> Mask:
        """Go on after a jump, from a state and its slope; return who is stuck, (N,)."""
        t = self.clock.at(jump.start).detach()
        at, who = on_host(t.reshape(-1)), mask_on_host(jump.moved)
        wait = CLOSE * np.spacing(np.abs(at))
        for c, crossing in enumerate(self.crossings):
            g, rate, noise, noise_of_rate = self._linearised(crossing, cut, t, y, slope)
            hit = np.any([~who & who, *(mask_on_host(met) for which, met in jump.fired if which == c)], axis=0)
            near = np.abs(g) <= ROUNDINGS * noise
            hidden = hit & near
            moves = np.abs(rate) > ROUNDINGS * noise_of_rate
            side = np.where(moves, np.sign(rate) * self.sign, np.sign(self.values[c]))
            with np.errstate(divide="ignore", invalid="ignore"):
                delay = np.where(hidden & moves, 10 * ROUNDINGS * noise / np.abs(rate), 0.0)
            wait = np.maximum(wait, delay)
            self.level[c] = np.where(hidden, ROUNDINGS * noise, np.where(who, 0.0, self.level[c]))
            self.side[c] = np.where(hidden, side, self.side[c])
            self.values[c] = np.where(who & ~near, g, np.where(hit, 0.0, self.values[c]))
        close = who & ((self.horizon - at) * self.sign >= 0)
        self.crowded = np.where(who, np.where(close, self.crowded + 1, 0), self.crowded)
        self.horizon = np.where(who, at + self.sign * wait, self.horizon)
        stuck: Mask = who & (self.crowded >= CROWD)
        return stuck

    def _linearised(
        self, crossing: Crossing, cut: Cut, t: Tensor, y: Tensor, slope: Tensor
    ) -> tuple[Array, Array, Array, Array]:
        """Return an event function, its rate of change, and the roundings of both, (N,) each."""
        with torch.enable_grad():
            inputs = t, y = t.detach().requires_grad_(), y.detach().requires_grad_()
            g = crossing.fn(*inputs)
            by_t, by_y = map(torch.zeros_like, inputs)
            if g.requires_grad:
                by_t, by_y = torch.autograd.grad(g.sum(), inputs, allow_unused=True, materialize_grads=True)
        eps, by_t, g = torch.finfo(y.dtype).eps, by_t.reshape(-1), g.detach().reshape(-1).double()
        ulp = torch.nextafter(t.detach().abs(), torch.full_like(t, math.inf)) - t.detach().abs()
        known = eps * cut.size + self.clock.wide(ulp).to(cut.size.dtype) * cut.speed
        rate = by_t + self._sum((by_y.conj() * slope.detach()).real)
        noise = by_t.abs() * ulp.reshape(-1) + self._sum(by_y.abs() * known)
        noise_of_rate = eps * (by_t.abs() + self._sum(by_y.abs() * (cut.speed + slope.detach().abs())))
        return on_host(g), on_host(rate), on_host(noise), on_host(noise_of_rate)

    def _sum(self, x: Tensor) -> Tensor:
        """Return the sum over a state, of every sample, (N,) in float64."""
        total: Tensor = self.clock.samples(x).flatten(1).sum(1).double()
        return total


def _soon(stretch: Stretch) -> Tensor:
    """Return fractions (n, N) of a step to look at, from a few roundings of the time up to the first of `LOOKS`."""
    least = (8 * rounding(stretch.start, stretch.end)).clamp(max=LOOKS[0])
    n = max(1, math.ceil(math.log(LOOKS[0] / float(least.min()), SPREAD)))
    share = (torch.arange(n, device=least.device) / n).unsqueeze(1)
    return least ** (1 - share) * LOOKS[0] ** share
