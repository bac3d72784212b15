"""From a record to windows: the protocol of Xia et al. (NeurIPS 2021) on the aircraft vibration record.

A share of the samples is dropped at random, so that the grid is irregular; the kept samples are split 2:1:1 in
time order; channels are standardised with the mean and standard deviation of the training part alone; each
part is cut into windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .records import Array, DataError
from .series import Series


@dataclass(frozen=True)
class Protocol:
    """Numbers of the protocol; a window is `observed` samples and the `forecast` ones that follow."""

    drop: float = 0.1
    observed: int = 64
    forecast: int = 8
    max_train: int = 512
    """At most so many windows are kept for training, evenly spaced, and half as many for validation and test."""

    @property
    def window(self) -> int:
        return self.observed + self.forecast


@dataclass(frozen=True)
class Part:
    """Windows of one part of the record.

    Attributes
    ----------
    t
        Times since the first sample of the window, shape (W, observed + forecast), in `Dataset.time_unit`.
    x
        Standardised values, shape (W, observed + forecast, C), float32.
    rows
        Row of the record that each sample comes from, shape (W, observed + forecast).
    """

    t: Tensor
    x: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (t, x) of at most `size` windows, in random order where a generator is given."""
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        for chosen in order.split(size):
            index = chosen.to(self.x.device)
            yield self.t[index], self.x[index]

    def to(self, device: torch.device) -> Part:
        """Return the same part on another device."""
        return Part(self.t.to(device), self.x.to(device), self.rows)


@dataclass(frozen=True)
class Dataset:
    """A record, ready to be learned.

    Attributes
    ----------
    series, protocol
        Where it comes from.
    train, validation, test
        The parts, in time order.
    mean, std
        Of the channels, over the training part, shape (C,).
    time_unit
        Length of one unit of model time in `series.time_unit`: the mean gap between kept samples.
    """

    series: Series
    protocol: Protocol
    train: Part
    validation: Part
    test: Part
    mean: Array
    std: Array
    time_unit: float

    def to(self, device: torch.device) -> Dataset:
        """Return the same dataset on another device."""
        parts = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **parts)


def make_dataset(series: Series, protocol: Protocol, seed: int) -> Dataset:
    """Apply the protocol to a record.

    Parameters
    ----------
    series
        The record.
    protocol
        Its numbers.
    seed
        Of the choice of samples that are dropped.

    Raises
    ------
    DataError
        If a part is shorter than one window, or a channel does not vary in the training part.
    """
    rng = np.random.default_rng(seed)
    total = len(series.t)
    kept = np.sort(rng.permutation(total)[: total - round(protocol.drop * total)])
    bounds = [0, len(kept) // 2, 3 * len(kept) // 4, len(kept)]
    shortest = min(b - a for a, b in pairwise(bounds))
    if shortest < protocol.window:
        need = int(np.ceil(4 * (protocol.window + 1) / (1 - protocol.drop)))
        raise DataError(f"too short: {total} rows, needs at least {need} for windows of {protocol.window} samples")
    first = kept[: bounds[1]]
    mean, std = series.values[first].mean(0), series.values[first].std(0)
    flat = [series.names[c] for c in np.flatnonzero(std <= 1e-12 * np.abs(mean))]
    if flat:
        raise DataError(f"column {flat[0]!r} does not vary in the training part")
    unit = float((series.t[first[-1]] - series.t[first[0]]) / (len(first) - 1))
    scaled = (series.values - mean) / std
    parts = []
    for number, (a, b) in enumerate(pairwise(bounds)):
        most = protocol.max_train if number == 0 else max(protocol.max_train // 2, 1)
        room = b - a - protocol.window + 1
        starts = np.unique(np.linspace(a, b - protocol.window, min(most, room)).round().astype(int))
        rows = kept[starts[:, None] + np.arange(protocol.window)]
        t = (series.t[rows] - series.t[rows[:, :1]]) / unit
        parts.append(
            Part(torch.from_numpy(t), torch.from_numpy(scaled[rows].astype(np.float32)), torch.from_numpy(rows))
        )
    return Dataset(series, protocol, parts[0], parts[1], parts[2], mean, std, unit)
