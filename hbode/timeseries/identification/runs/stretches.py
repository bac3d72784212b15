"""Stretches of records, all of one length, as tensors with their inputs between the samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor

from ....inputs import CubicInput, HoldInput, Input, LinearInput
from ...records import Array, DataError, Records, Run

BETWEEN = ("hold", "linear", "cubic", "quintic")
"""How an input is interpolated between its samples."""


class TabulatedInput(Input):
    """u(t) from given pieces: of a stretch that is cut out of a longer record.

    Parameters
    ----------
    times
        (T,) or (B, T).
    pieces
        Polynomials in the time since the start of each interval, (T - 1, B, Cu, K).
    """

    def __init__(self, times: Tensor, pieces: Tensor) -> None:
        self.pieces = pieces
        count = times.shape[-1]
        blank = pieces[:, :, :, 0].transpose(0, 1)
        super().__init__(times, torch.cat((blank, blank[:, -1:]), 1)[:, :count])

    def interpolate(self, knots: Tensor, values: Tensor) -> Tensor:
        return self.pieces


@dataclass(frozen=True, eq=False)
class Stretches:
    """B stretches of T samples each.

    Attributes
    ----------
    t
        Times since the first sample, (T,), or (B, T) where stretches differ.
    y
        Outputs (B, T, Cy), NaN where missing, and behind the end of a run that is too short.
    u
        Inputs between the samples, (T, B, Cu, K), as polynomials in the time since the start of each interval.
    place
        Run and first row of each.
    """

    t: Tensor
    y: Tensor
    u: Tensor
    place: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.y)

    @cached_property
    def inputs(self) -> Input:
        """u(t)."""
        return TabulatedInput(self.t, self.u[:-1])

    @property
    def values(self) -> Tensor:
        """u at the samples, (T, B, Cu)."""
        return self.u[..., 0]

    def first(self, samples: int) -> Stretches:
        """Return the first samples of each."""
        return replace(self, t=self.t[..., :samples], y=self.y[:, :samples], u=self.u[:samples])

    def behind(self, samples: int) -> Stretches:
        """Return what is behind the first samples of each."""
        t = self.t[..., samples:]
        return replace(self, t=t - t[..., :1], y=self.y[:, samples:], u=self.u[samples:])

    def chosen(self, which: Tensor) -> Stretches:
        """Return some of them, by number."""
        t = self.t if self.t.ndim == 1 else self.t[which]
        return Stretches(t, self.y[which], self.u[:, which], tuple(self.place[i] for i in which.tolist()))


def stretches(
    records: Records, samples: int | None, between: str, stride: int | None = None, dtype: torch.dtype = torch.float64
) -> Stretches:
    """Cut records into stretches.

    Parameters
    ----------
    records
        Standardised. Missing inputs are bridged as `hbode.inputs` does it.
    samples
        Of each stretch; None: as many as the longest run has. A shorter run is one stretch.
    between
        How inputs are interpolated: one of `BETWEEN`.
    stride
        From the start of one to the next (default: they share one sample); the last one of a run ends with it.
    """
    if between not in BETWEEN:
        raise ValueError(f"between must be one of {', '.join(BETWEEN)}, got {between!r}")
    longest = max(map(len, records))
    size = min(samples or longest, longest)
    times, outputs, tables, place = [], [], [], []
    for number, run in enumerate(records):
        table = pieces(run, between)
        last = max(len(run) - size, 0)
        starts = sorted({*range(0, last, stride or max(size - 1, 1)), last})
        for start in starts:
            rows = slice(start, start + size)
            t, y, u = run.t[rows] - run.t[start], run.y[rows], table[rows]
            short = size - len(t)
            if short:
                step = float(np.median(np.diff(run.t))) if len(run) > 1 else 1.0
                t = np.concatenate((t, t[-1] + step * np.arange(1, short + 1)))
                y = np.concatenate((y, np.full((short, y.shape[1]), np.nan)))
                held = np.zeros((short, *u.shape[1:]))
                held[..., 0] = u[-1, :, 0]
                u = np.concatenate((u, held))
            times.append(t)
            outputs.append(y)
            tables.append(u)
            place.append((number, start))
    grid = np.stack(times)
    same = np.abs(grid - grid[0]).max() <= 1e-9 * max(np.abs(grid).max(), 1.0)
    return Stretches(
        torch.as_tensor(grid[0] if same else grid, dtype=torch.float64),
        torch.as_tensor(np.stack(outputs), dtype=dtype),
        torch.as_tensor(np.stack(tables, 1), dtype=dtype),
        tuple(place),
    )


def pieces(run: Run, between: str) -> Array:
    """Return the inputs of a run as polynomials from each sample on, (T, Cu, K); behind the last one they are held."""
    count, channels = run.u.shape
    width = {"hold": 1, "linear": 2, "cubic": 4, "quintic": 6}[between]
    out = np.zeros((count, channels, width))
    if not channels:
        return out
    if count == 1:
        out[0, :, 0] = run.u[0]
        return out
    known = ~np.isnan(run.u).all(1) | ~np.isnan(run.y).all(1)  # others fill a gap
    if between == "quintic" and known.sum() >= 6:
        if np.isnan(run.u[known]).any():
            raise DataError("inputs with missing values cannot be interpolated by quintics; take between='cubic'")
        spline = make_interp_spline(run.t[known], run.u[known], k=5)
        table = np.stack([spline(run.t[:-1], nu=k) / math.factorial(k) for k in range(width)], -1)
    else:
        kind = {"hold": HoldInput, "linear": LinearInput}.get(between, CubicInput)
        table = kind(torch.from_numpy(run.t), torch.from_numpy(run.u)).coefficients().numpy()[: count - 1]
    out[: count - 1, :, : table.shape[2]] = table
    out[-1, :, 0] = sum(table[-1, :, k] * (run.t[-1] - run.t[-2]) ** k for k in range(table.shape[2]))
    if between == "hold":
        out[-1, :, 0] = run.u[-1]
    return out
