"""What event functions are known by between steps, and what becomes of them at a jump."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..method import Carry, Method
from .crossings import LOOKS, Array, Mask, Quiet, Sighted, Stretch, Zeros, find_zeros, mask_on_host, on_host
from .jumps import Fired, Jump, Resets
from .tape import Crossing

ROUNDINGS = 100
"""How many roundings a function that was zero at a jump is to be away from zero before it counts again."""
ULPS = 16
"""How many roundings of the time it does not count, at least."""
CROWD = 100
"""How many jumps in a row, each ten times as long after the one before as its functions do not count, are Zeno's."""
SPREAD = 8.0
"""The ratio of the times at which a function is looked at soon after a jump."""


class Cut(NamedTuple):
    """Where a step is cut short by events that replace the state.

    `who` is, (N,), by the first zeros, `ends`, each of another sample; `fired` are all events at the same time. The
    state there is known to a `rounding`, in the shape in which they meet.
    """

    who: Tensor
    ends: tuple[Zeros, ...]
    fired: tuple[Fired, ...]
    rounding: Tensor


@torch.no_grad()
def values_at(crossings: Sequence[Crossing], t: Tensor, y: Tensor) -> Array:
    """Return the event functions at times, () or (B,), and states, shape (C, N)."""
    return on_host(torch.stack([crossing.fn(t, y).double().reshape(-1) for crossing in crossings]))


class Watch:
    """The event functions of a solve, C of them for N samples (one where the batch steps as one), arrays (C, N).

    A function that is zero where the state jumps has no zero there. What sign it takes on is known by its slope; until
    rounding cannot hide it, it does not count, and soon after it is looked at in the ratio of `SPREAD`: the next zero
    may be at any fraction of a step, as the flights of a ball that bounces get shorter. Where it has turned back to
    zero before it counts, or jumps follow each other as closely `CROWD` times, there may be infinitely many (Zeno), and
    the sample is stuck.

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
        self.values = values_at(crossings, t, y)
        self.sign = np.full_like(self.values[0], sign)
        self.made = np.zeros_like(self.values)
        self.until = np.full_like(self.values, math.nan)
        self.side = np.zeros_like(self.values)
        self.crowded, self.horizon = np.zeros_like(self.values[0]), np.full_like(self.values[0], math.nan)

    @property
    def left(self) -> Array:
        """How many zeros of each function it takes to end the solve."""
        left: Array = np.array([[crossing.last or math.inf] for crossing in self.crossings]) - self.made
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
        start, span = on_host(stretch.start), on_host(stretch.end - stretch.start)
        ends = on_host(torch.stack([stretch.value(crossing, stretch.end, y) for crossing in self.crossings]))
        until = np.nan_to_num((self.until - start) / span, nan=-math.inf)
        looks = [x for x in (rows, *_soon(until, stretch.start)) if x is not None]
        resets = np.array([[crossing.reset is not None] for crossing in self.crossings])
        sighted = find_zeros(
            stretch,
            self.crossings,
            self.values,
            ends,
            torch.cat(looks) if looks else None,
            moves,
            np.where(resets, 1.0, self.left),
            Quiet(until, self.side),
        )
        self.values = np.where(moves, np.where(until > 1, 0.0, ends), self.values)
        for zeros in sighted.zeros if sighted else ():
            self.made[zeros.which] += on_host(zeros.met)
        return sighted

    @torch.no_grad()
    def divided(self, sighted: Sighted, y0: Tensor, y1: Tensor) -> tuple[tuple[Zeros, ...], Cut | None]:
        """Return the zeros that a step from y0 to y1 reads by itself, and where it is cut short."""
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
        width = self.clock.wide(sighted.width).to(y0.real.dtype)
        rounding = torch.finfo(y0.dtype).eps * torch.maximum(y0.abs(), y1.abs()) + width * (y1 - y0).abs()
        return tuple(found), Cut(who, tuple(ends), tuple(fired), rounding)

    def jump(self, method: Method, step: Any, cut: Cut, node: Any, carry: Carry, stages: Any, shown: Tensor) -> Jump:
        """Return the jump at a node where a step was cut short, from the carry that it stopped with."""
        fired = self._cascade(cut, step.before(method, self.clock, stages), self.clock.at(node).detach(), carry[0])
        return Jump(carry, node, Resets(self.clock, self.crossings, fired), cut.who, shown, fired)

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
            direction = np.array([[crossing.direction] for crossing in self.crossings])
            crossed = due & (np.abs(signs) > 0) & (now != signs) & ~np.isnan(now) & (signs * direction <= 0)
            new = tuple(Fired(c, torch.from_numpy(x).to(t.device)) for c, x in enumerate(crossed) if x.any())
            fired += new
            for which, met in new:
                self.made[which] += on_host(met)
        return tuple(fired)

    def restart(self, jump: Jump, rounding: Tensor, y: Tensor, slope: Tensor) -> Mask:
        """Go on after a jump, from a state known to a rounding, and its slope; return who is stuck, (N,)."""
        t, fired = self.clock.at(jump.start).detach(), jump.fired
        at, cut = on_host(t.reshape(-1)), mask_on_host(jump.moved)
        ulp = np.spacing(np.abs(at))
        wait = 1000 * ulp
        for c, crossing in enumerate(self.crossings):
            g, rate, noise = (on_host(x) for x in self._linearised(crossing, t, y, slope, rounding))
            hit = cut & np.any([False & cut, *(mask_on_host(met) for which, met in fired if which == c)], axis=0)
            near = np.abs(g) <= ROUNDINGS * noise
            with np.errstate(divide="ignore", invalid="ignore"):
                delay = np.maximum(ROUNDINGS * noise / np.abs(rate), ULPS * ulp)
            hidden = hit & near & np.isfinite(delay)
            wait = np.where(hidden, np.maximum(wait, delay), wait)
            self.values[c] = np.where(cut & ~near, g, np.where(hit, 0.0, self.values[c]))
            self.until[c] = np.where(hidden, at + self.sign * delay, np.where(cut, math.nan, self.until[c]))
            self.side[c] = np.where(hidden, np.sign(rate) * self.sign, np.where(cut, 0.0, self.side[c]))
        close = cut & ((self.horizon - at) * self.sign >= 0)
        self.crowded = np.where(cut, np.where(close, self.crowded + 1, 0), self.crowded)
        self.horizon = np.where(cut, at + 10 * self.sign * wait, self.horizon)
        stuck: Mask = cut & (self.crowded >= CROWD)
        return stuck

    def _linearised(
        self, crossing: Crossing, t: Tensor, y: Tensor, slope: Tensor, rounding: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return an event function, its rate of change, and how much of it is rounding, (N,) each in float64."""
        with torch.enable_grad():
            inputs = t.detach().requires_grad_(), y.detach().requires_grad_()
            g = crossing.fn(*inputs)
            by_t, by_y = map(torch.zeros_like, inputs)
            if g.requires_grad:
                by_t, by_y = torch.autograd.grad(g.sum(), inputs, allow_unused=True, materialize_grads=True)
        ulp = torch.nextafter(t.abs(), torch.full_like(t, math.inf)) - t.abs()
        rate = by_t.reshape(-1) + self._sum((by_y.conj() * slope.detach()).real)
        noise = (by_t.abs() * ulp).reshape(-1) + self._sum(by_y.abs() * rounding)
        return g.detach().double().reshape(-1), rate, noise

    def _sum(self, x: Tensor) -> Tensor:
        """Return the sum over a state, of every sample, (N,) in float64."""
        total: Tensor = self.clock.samples(x).flatten(1).sum(1).double()
        return total


def _soon(until: Array, like: Tensor) -> list[Tensor]:
    """Return fractions (n, N) of a step to look at, from where functions count again up to the first of `LOOKS`."""
    places = []
    for row in until:
        if (inside := (row > 0) & (row < 1)).any():
            fraction = np.where(inside, row, 1.0)
            n = max(1, math.ceil(math.log(LOOKS[0] / fraction.min(), SPREAD)))
            share = np.arange(n)[:, None] / n
            looks = np.where(inside, fraction ** (1 - share) * LOOKS[0] ** share, 1.0)
            places.append(torch.from_numpy(looks).to(like))
    return places
