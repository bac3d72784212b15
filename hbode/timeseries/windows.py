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

from ..solvers.warning import warn
from .records import Array, DataError, Records, Scaling


@dataclass(frozen=True)
class Protocol:
    """Numbers of the protocol; a window is `observed` samples and the `forecast` ones that follow.

    Examples
    --------
    >>> from hbode.timeseries import Protocol
    >>> Protocol(observed=8, forecast=4).window
    12
    """

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

    Examples
    --------
    >>> import torch
    >>> from hbode.timeseries import Part
    >>> len(Part(torch.zeros(5, 3), torch.zeros(5, 3, 1), torch.zeros(5, 3)))
    5
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
    records, protocol
        Where it comes from; all channels are outputs, which are to be forecast.
    train, validation, test
        The parts, in time order.
    scaling
        Of the training part; its unit of time is the mean gap between kept samples.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries import Protocol, Records, make_dataset
    >>> t = np.arange(400.0)
    >>> records = Records.from_arrays(t, np.sin(0.3 * t)[:, None], outputs=["x"])
    >>> len(make_dataset(records, Protocol(observed=8, forecast=4), seed=0).test) > 0
    True
    """

    records: Records
    protocol: Protocol
    train: Part
    validation: Part
    test: Part
    scaling: Scaling

    @property
    def times(self) -> Array:
        """Times of all rows, (N,), as recorded."""
        return np.concatenate([run.t for run in self.records])

    @property
    def values(self) -> Array:
        """Values of all rows, (N, C), as recorded."""
        return np.concatenate([run.y for run in self.records])

    def to(self, device: torch.device) -> Dataset:
        """Return the same dataset on another device."""
        parts = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **parts)


def make_dataset(records: Records, protocol: Protocol, seed: int) -> Dataset:
    """Apply the protocol to all channels of records, inputs first.

    Parameters
    ----------
    records
        Without missing values.
    protocol
        Its numbers.
    seed
        Of the choice of samples that are dropped.

    Raises
    ------
    DataError
        If a value is missing, a part is shorter than one window, or a channel does not vary in the training part.

    Warns
    -----
    UserWarning
        If windows are left out because a gap of more than 100 median steps lies in them.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries import Protocol, Records, make_dataset
    >>> t = np.arange(400.0)
    >>> records = Records.from_arrays(t, np.sin(0.3 * t)[:, None], outputs=["x"])
    >>> data = make_dataset(records, Protocol(observed=8, forecast=4), seed=0)
    >>> data.train.x.shape[1:]
    torch.Size([12, 1])
    """
    for name, count in records.missing().items():
        raise DataError(f"column {name!r} misses {count} values, and windows need all: name the columns to be read")
    records = records.select([channel.name for channel in records.channels])
    rng = np.random.default_rng(seed)
    total = records.total_rows
    kept = np.sort(rng.permutation(total)[: total - round(protocol.drop * total)])
    bounds = [0, len(kept) // 2, 3 * len(kept) // 4, len(kept)]
    shortest = min(b - a for a, b in pairwise(bounds))
    if shortest < protocol.window:
        need = int(np.ceil(4 * (protocol.window + 1) / (1 - protocol.drop)))
        raise DataError(
            f"too short: {total} rows, needs at least {need} for windows of {protocol.observed} + {protocol.forecast} "
            "samples; take shorter ones"
        )
    whole = records.cut_at_gaps()
    scaling = Scaling.fit(whole.take(kept[: bounds[1]]))
    run = np.repeat(np.arange(len(whole)), [len(one) for one in whole])[kept]
    times, values = (np.concatenate(parts) for parts in zip(*((one.t, one.y) for one in whole), strict=True))
    scaled = scaling.outputs.to_standard(values).astype(np.float32)
    parts, crossing = [], 0
    for number, (a, b) in enumerate(pairwise(bounds)):
        most = protocol.max_train if number == 0 else max(protocol.max_train // 2, 1)
        room = b - a - protocol.window + 1
        starts = np.unique(np.linspace(a, b - protocol.window, min(most, room)).round().astype(int))
        inside = run[starts] == run[starts + protocol.window - 1]
        crossing += int((~inside).sum())
        if not inside.any():
            raise DataError(f"no window of {protocol.window} samples lies between gaps; take shorter ones")
        rows = kept[starts[inside, None] + np.arange(protocol.window)]
        t = (times[rows] - times[rows[:, :1]]) / scaling.time_unit
        parts.append(Part(torch.from_numpy(t), torch.from_numpy(scaled[rows]), torch.from_numpy(rows)))
    if crossing:
        warn(f"{records.source}: {crossing} windows with long gaps in them are left out")
    return Dataset(records, protocol, parts[0], parts[1], parts[2], scaling)
