"""Simulations: free runs from states that are estimated from what was measured first, and their errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ....models.continuous import NeuralStateSpace
from ...records import Array, Records
from .encoder import encode
from .free_runs import free_run, measured_states
from .initial_states import estimate
from .stretches import Stretches, stretches


def mean_square(y: Tensor, measured: Tensor) -> float:
    """Return the mean square error where something was measured; infinite if a simulation ended early."""
    squares = (y - measured)[~measured.isnan()].square()
    return float(squares.mean()) if len(squares) and bool(squares.isfinite().all()) else float("inf")


@torch.no_grad()
def free_run_error(model: NeuralStateSpace, given: Stretches, initial: int) -> float:
    """Return the mean square error of free runs behind the first samples, which their states are estimated from."""
    count = given.y.shape[1]
    initial = min(initial, count - 1)
    start = estimate(model, given.first(initial))
    y = free_run(model, given, start, measured_states(model, given)).y.transpose(0, 1)
    return mean_square(y[:, initial:], given.y[:, initial:])


def simulate(model: NeuralStateSpace, records: Records, between: str, initial: int, longest: float) -> list[Array]:
    """Return the free runs of a model over standardised records, (T, Cy) each, from states by the first samples.

    Where the model has an encoder, and all the outputs that it reads are there, it gives the state at the last of the
    first samples; what is before that is what was measured. Else runs of one length are simulated side by side.
    """
    y: dict[int, Array] = {}
    filled = [run.filled(longest) for run in records]
    for length in sorted({len(run) for run in records}):
        group = [i for i, run in enumerate(records) if len(run) == length]
        for some in [group] if model.encoder is None else [[i] for i in group]:
            given = stretches(replace(records, runs=tuple(filled[i][0] for i in some)), None, between)
            firsts = [int(filled[i][1][initial - 1]) + 1 for i in some]
            n = None if model.encoder is None else model.encoder.samples
            if n is None or firsts[0] < n or bool(given.y[:, firsts[0] - n : firsts[0]].isnan().any()):
                y |= zip(some, smoothed(model, given, firsts), strict=True)
            else:
                y[some[0]] = _encoded(model, given, firsts[0] - n)
    return [y[i][rows] for i, (_, rows) in enumerate(filled)]


@torch.no_grad()
def smoothed(model: NeuralStateSpace, given: Stretches, initial: Sequence[int]) -> list[Array]:
    """Return the free runs (T, Cy) from the states by which so many first samples of each fit best, these included."""
    seen = torch.arange(given.y.shape[1]) < torch.tensor(initial).unsqueeze(1)
    given = replace(given, y=torch.where(seen.unsqueeze(-1), given.y, torch.nan))
    start, guess = estimate(model, given.first(max(initial))), measured_states(model, given)
    return list(free_run(model, given, start, guess).y.transpose(0, 1).numpy())


@torch.no_grad()
def _encoded(model: NeuralStateSpace, given: Stretches, skipped: int) -> Array:
    start, behind = encode(model, given.behind(skipped))
    y = free_run(model, behind, start).y[:, 0]
    before = given.y[0, : given.y.shape[1] - len(y)]
    return torch.cat((torch.where(before.isnan(), y[0], before), y)).numpy()
