"""Runs from numpy arrays and tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from .run import Array, Channel, DataError, Run, channel_of

Numbers: TypeAlias = ArrayLike | Tensor
"""Of one run."""
Runs: TypeAlias = Numbers | Sequence[Numbers]
"""Of one run, or a list of those of each."""


def runs_of(t: Any, y: Any, u: Any, rate: float | None) -> tuple[Run, ...]:
    """Return runs of float64 arrays; see `Records.from_arrays`."""
    many = _is_list(y)
    if u is not None and _is_list(u) != many:
        raise DataError("y and u must both be lists of arrays, one for each run, or both be arrays")
    if t is not None and rate is not None:
        raise DataError("rate must not be given beside times")
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise DataError(f"rate must be positive, got {rate}")
    ys = [_table(x, "y") for x in (y if many else [y])]
    us = [np.empty((len(x), 0)) for x in ys] if u is None else [_table(x, "u") for x in (u if many else [u])]
    if t is None:
        ts = [np.arange(len(x)) / (rate or 1.0) for x in ys]
    else:
        ts = [_floats(x, "t") for x in (t if _is_list(t) else [t] * len(ys))]
    if not len(ts) == len(ys) == len(us):
        raise DataError(f"t, y and u must have as many runs, got {len(ts)}, {len(ys)} and {len(us)}")
    arrays = zip(ts, ys, us, strict=True)
    return tuple(Run(*run, str(i) if many else "") for i, run in enumerate(arrays))


def _is_list(values: Any) -> bool:
    return isinstance(values, list | tuple) and any(hasattr(v, "ndim") and v.ndim > 0 for v in values)


def _floats(values: Any, name: str) -> Array:
    """Return a copy in float64, NaN where masked."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy() if not values.is_complex() else values.numpy()
    kind = np.ma.asarray(values).dtype.kind
    if kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got {np.ma.asarray(values).dtype}")
    return np.array(np.ma.filled(np.ma.asarray(values).astype(np.float64), np.nan))


def _table(values: Any, name: str) -> Array:
    array = _floats(values, name)
    if array.ndim not in (1, 2):
        raise DataError(f"{name} must have shape (T,) or (T, C), or be a list of such arrays, got {array.shape}")
    return array[:, None] if array.ndim == 1 else array


def channels_of(given: Iterable[str | Channel] | None, letter: str, count: int) -> tuple[Channel, ...]:
    """Return channels from channels or names; by default the letter, numbered if there are several."""
    if given is None:
        return tuple(Channel(letter if count == 1 else f"{letter}{i + 1}") for i in range(count))
    return tuple(c if isinstance(c, Channel) else channel_of(c) for c in given)
