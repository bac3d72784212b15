"""Irregular observations of a batch, with gaps in channels and in time, as the updates of one solve."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def observed_channels(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return what was observed of x (B, K, C), boolean: what is not NaN and has a mask, (B, K) or (B, K, C).

    Raises
    ------
    ValueError
        If the mask is not boolean or has not one of these shapes.
    """
    observed = ~x.isnan()
    if mask is None:
        return observed
    if mask.dtype != torch.bool or mask.shape not in (x.shape, x.shape[:2]):
        shapes = f"{tuple(x.shape[:2])} or {tuple(x.shape)}"
        raise ValueError(f"mask must be boolean, of shape {shapes}, got {mask.dtype}, {tuple(mask.shape)}")
    return observed & (mask if mask.ndim == 3 else mask.unsqueeze(-1))


def latest_before(t: Tensor, present: Tensor) -> Tensor:
    """Return the latest time of the observations before each of K, (B, K), without a graph; -inf before the first."""
    latest = torch.where(present, t.detach(), -math.inf).cummax(-1).values
    return F.pad(latest[:, :-1], (1, 0), value=-math.inf)


def check_order(t: Tensor, present: Tensor) -> None:
    """Raise `ValueError` if a time is not finite, or earlier than one before it, where there is an observation."""
    if not bool(t.isfinite()[present].all()):
        raise ValueError("t must be finite at observations, got NaN or Inf")
    if bool((present & (t < latest_before(t, present))).any()):
        raise ValueError("t must not decrease from one observation of a sample to the next")


class Observations(NamedTuple):
    """K observations of each of B samples. Those at one time are one update, at the place of the first of them.

    Attributes
    ----------
    t
        Times of the updates, shape (K,) where all samples have the same, else (B, K); NaN where there is none.
    x, observed
        Shape (B, K, M, C), M the most observations at one time; x is 0 where `observed` is not set.
    first
        Whether an update is the first of its sample, (B, K).
    since
        Time of the first observation, (B, 1), inf where there is none.
    present
        Whether anything was observed, (B, K).
    place, slot
        Where an observation is among K and M, (B, K).
    complete
        Whether everything was observed, at different times.
    """

    t: Tensor
    x: Tensor
    observed: Tensor
    first: Tensor
    since: Tensor
    present: Tensor
    place: Tensor
    slot: Tensor
    complete: bool

    @classmethod
    def of(cls, t: Tensor, x: Tensor, mask: Tensor | None, shared: bool) -> Observations:
        """Arrange observations x (B, K, C) at times t (B, K), which are those of all samples where they are shared."""
        observed = observed_channels(x, mask)
        present = observed.any(-1)
        x = torch.where(observed, x, 0)
        since = torch.where(present, t, math.inf).amin(-1, keepdim=True)
        # What is shared by all samples is arranged once.
        times, any_present = (t[:1], present.any(0, keepdim=True)) if shared else (t, present)
        check_order(times, any_present)
        new = any_present & (times > latest_before(times, any_present))
        at = torch.where(new, times, math.nan)
        place = torch.where(new, torch.arange(t.shape[1], device=t.device), 0).cummax(-1).values
        rank = any_present.cumsum(-1)
        slot = torch.where(any_present, rank - rank.gather(-1, place), 0)
        place, slot = place.expand_as(t), slot.expand_as(t)
        depth = int(slot.max()) + 1
        complete = depth == 1 and bool(observed.all())
        if depth == 1:
            x, observed = x.unsqueeze(2), observed.unsqueeze(2)
        else:
            b, k = present.nonzero(as_tuple=True)
            to = b, place[b, k], slot[b, k]
            blank = x.new_zeros(*x.shape[:2], depth, x.shape[2])
            x, observed = blank.index_put(to, x[b, k]), blank.bool().index_put(to, observed[b, k])
        first = at.detach() == since.detach()
        return cls(at[0] if shared else at, x, observed, first, since, present, place, slot, complete)

    @property
    def data(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """`x`, `observed` and `first` with axes as those of `t`, the last two None where they say nothing."""
        x, observed, first = (v.transpose(0, 1) if self.t.ndim == 1 else v for v in (self.x, self.observed, self.first))
        return (x, None, None) if self.complete else (x, observed, first)

    def each(self, states: list[Tensor]) -> Tensor:
        """Return the state (K, B, S) that belongs to every observation, from those of the M of each update."""
        if len(states) == 1:
            return states[0]
        return torch.stack(states)[self.slot.T, self.place.T, torch.arange(len(self.x), device=self.x.device)]

    def blanked(self, rows: Tensor, first: int = 0) -> Tensor:
        """Return rows (B, K - first, C) with NaN where there is no observation."""
        return rows if self.complete else rows.masked_fill(~self.present[:, first:].unsqueeze(-1), math.nan)
