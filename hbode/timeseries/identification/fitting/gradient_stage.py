"""The stage of a fit that trains by gradients: what it starts from, and what chooses its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ....models.continuous import NeuralStateSpace
from ...records import Array, Records
from ..laws.structures import Force
from ..runs.encoder import encode, set_encoder
from ..runs.free_runs import free_run, measured_states
from ..runs.stretches import Stretches, stretches
from .multiple_shooting import GradientResult, GradientSettings, fit_by_gradients, masked_error

COMPILED_FROM = 100_000
"""Samples one after the other, of all steps of a training, from which on compiling pays."""
WINDOWS = 5000
"""How many windows the encoder is started from."""


def train(
    model: NeuralStateSpace,
    records: Records,
    validation: Records | None,
    held: Array | None,
    settings: GradientSettings,
    *,
    samples: int,
    between: str,
    free_run: int,
    seed: int,
    given: Stretches,
    states: Tensor | None,
    penalty: dict[str, float],
    compile: bool | None,
    checkpoint: Path | None,
    progress: Callable[[int, float, float], None] | None,
) -> GradientResult:
    """Train a model in float32, with an encoder that starts from what a former stage simulated.

    Parameters
    ----------
    records, validation, held
        Standardised: to train on; to choose by, or None for the rows `held` (N,) of the first; without these the
        training error chooses.
    samples
        Rows that the encoder reads.
    free_run
        Samples of the free runs of the validation.
    given, states
        Stretches, and the states of their simulation.
    """
    # A known part may hold constants in float64.
    double = any(isinstance(part, Force) and part.known is not None for part in model.modules())
    dtype = torch.float64 if double else torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start_encoder(model, samples, given, states)
    model.to(dtype)
    choose = None
    if validation is not None:
        others = stretches(validation, free_run, between, dtype=dtype)
        choose = _Free(model, others, others.y)
    elif held is not None:
        own = stretches(records, None, between, dtype=dtype)
        seen = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(x) for x in np.split(held, np.cumsum([len(run) for run in records])[:-1])], True
        )
        choose = _Free(model, own, torch.where(seen.unsqueeze(-1), own.y, torch.nan))
    try:
        return fit_by_gradients(
            model,
            records,
            settings,
            between=between,
            seed=seed,
            held=held,
            penalty=penalty,
            validation=choose,
            compile=settings.steps * settings.stretch >= COMPILED_FROM if compile is None else compile,
            checkpoint=checkpoint,
            progress=progress,
        )
    finally:
        model.double()


def start_encoder(model: NeuralStateSpace, samples: int, given: Stretches, states: Tensor | None) -> None:
    """Give a model the encoder that reads the states of simulated stretches off their outputs and inputs."""
    y, u = given.y, given.values.transpose(0, 1)
    if states is None or y.shape[1] < samples:
        empty_y, empty_u = (x.new_empty(0, samples, x.shape[2]) for x in (y, u))
        set_encoder(model, samples, empty_y, empty_u, y.new_empty(0, 1))
        return
    y, u = (x.unfold(1, samples, 1).transpose(2, 3).flatten(0, 1) for x in (y, u))
    rows = model.flat(states)[samples - 1 :].transpose(0, 1).flatten(0, 1)
    some = torch.linspace(0, len(rows) - 1, min(len(rows), WINDOWS)).round().long()
    set_encoder(model, samples, y[some], u[some], rows[some])


class _Free:
    """The mean square error of free runs from encoded states."""

    def __init__(self, model: NeuralStateSpace, given: Stretches, target: Tensor) -> None:
        self.model, self.given, self.target = model, given, target

    @torch.no_grad()
    def __call__(self) -> float:
        start, behind = encode(self.model, self.given)
        y = free_run(self.model, behind, start, measured_states(self.model, behind)).y.transpose(0, 1)
        error = float(masked_error(y[:, 1:], self.target[:, -y.shape[1] + 1 :]))
        return error if np.isfinite(error) else np.inf
