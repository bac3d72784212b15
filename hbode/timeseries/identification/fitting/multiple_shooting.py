"""Training by gradients over random stretches, whose initial states an encoder reads off what was measured before.

Truncated multiple shooting (Beintema, Tóth, Schoukens 2021; Forgione, Piga 2021): for models that are too large for
least squares over all parameters at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ....models.continuous import NeuralStateSpace
from ....training.checkpoint import CheckpointError, read_state, write_state
from ...records import Array, DataError, Records
from ..runs.encoder import check_for_encoder, encoded
from ..runs.stretches import Stretches, pieces

HORIZONS = ((0.0, 0.1), (0.15, 0.3), (0.4, 1.0))
"""From which share of the steps on stretches have which share of their length."""
GAIN = 1e-3
"""The relative gain in the validation error that counts."""
LAST_RATE = 0.02
"""The share of the learning rate that is left at the end."""
FAILURES = 20
"""Batches in a row without a finite loss that end a training."""
STATE = ("model", "optimizer", "train", "validation", "best", "kept", "since", "failed")
"""Of a training under way, on disk."""


@dataclass(frozen=True)
class GradientSettings:
    """How a model is trained by gradients.

    Attributes
    ----------
    steps, batch, learning_rate
        Of Adam; the rate decays by a cosine to 2 %.
    stretch
        Samples that are simulated behind those that the encoder reads, at last; three horizons grow to it.
    clip
        Largest norm of a gradient.
    every
        Steps from one validation, and one checkpoint, to the next.
    patience
        Validations without gain, with whole stretches, that end the training.
    """

    steps: int = 3000
    batch: int = 32
    learning_rate: float = 3e-3
    stretch: int = 300
    clip: float = 1.0
    every: int = 100
    patience: int = 10


@dataclass
class GradientResult:
    """Mean square errors: of the batches, one a step; of the validations, by step. The best weights were kept."""

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)


class Windows:
    """All stretches of records that an encoder can begin, to draw from.

    Parameters
    ----------
    records
        Standardised.
    samples
        Rows that the encoder reads.
    between
        How inputs go between their samples.
    held
        Rows of all runs, one after the other, whose outputs the encoder may read, but the loss does not; (N,).
    dtype
        Of what is drawn.

    Raises
    ------
    DataError
        For a run that is too short for the encoder, by its name and rows; where no stretch has outputs to begin with.
    """

    def __init__(
        self,
        records: Records,
        samples: int,
        between: str,
        held: Array | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.samples, self.step = samples, records.step
        starts, ends, rooms, first = [], [], [], 0
        for number, run in enumerate(records):
            check_for_encoder(f"run {run.name or number}", len(run), samples)
            whole = torch.from_numpy(run.y).isfinite().all(1)
            seen = whole.unfold(0, samples, 1).all(1).numpy()
            begin = np.flatnonzero(seen[: len(run) - samples])
            starts.append(first + begin)
            first += len(run)
            ends.append(np.full(len(begin), first))
            rooms.append(np.full(len(begin), len(run) - samples - begin.min(initial=len(run))))
        self.starts, self.ends, self.rooms = (np.concatenate(x) for x in (starts, ends, rooms))
        if not len(self.starts):
            raise DataError(f"no {samples} rows in succession, which the encoder reads, have all outputs")
        self.t = torch.from_numpy(np.concatenate([run.t for run in records]))
        self.y = torch.as_tensor(np.concatenate([run.y for run in records]), dtype=dtype)
        self.targets = self.y if held is None else torch.where(torch.as_tensor(held).unsqueeze(1), torch.nan, self.y)
        self.u = torch.as_tensor(np.concatenate([pieces(run, between) for run in records]), dtype=dtype)

    def draw(self, key: tuple[int, int], batch: int, horizon: int) -> tuple[Stretches, Tensor]:
        """Return a batch of stretches, of the rows for the encoder and a horizon more, and what the loss looks at.

        A function of the key alone. A stretch ends with its run only where none of the run is long enough; behind the
        end outputs are missing and inputs are held.
        """
        fits = self.ends - self.starts - self.samples >= np.minimum(horizon, self.rooms)
        which = np.random.default_rng(key).choice(np.flatnonzero(fits), batch)
        start, end = (torch.from_numpy(x[which]).unsqueeze(1) for x in (self.starts, self.ends))
        rows = start + torch.arange(self.samples + horizon)
        inside, rows = (rows < end).unsqueeze(-1), rows.minimum(end - 1)
        t = self.t[rows] - self.t[rows[:, :1]]
        if self.step is not None:
            t = self.step * torch.arange(self.samples + horizon, dtype=torch.float64)
        given = Stretches(t, torch.where(inside, self.y[rows], torch.nan), self.u[rows].transpose(0, 1), ())
        return given, torch.where(inside, self.targets[rows], torch.nan)[:, self.samples :]


def fit_by_gradients(
    model: NeuralStateSpace,
    records: Records,
    settings: GradientSettings,
    *,
    between: str = "cubic",
    seed: int = 0,
    held: Array | None = None,
    penalty: Mapping[str, float] | None = None,
    validation: Callable[[], float] | None = None,
    compile: bool = False,
    checkpoint: Path | None = None,
    progress: Callable[[int, float, float], None] | None = None,
) -> GradientResult:
    """Train all parameters of a model, those of its encoder among them, by Adam over random stretches.

    Every step simulates a batch and differentiates what was computed (`fixed_step_states`). A training that was
    interrupted and is started again with the same arguments goes on from its checkpoint to the same losses.

    Parameters
    ----------
    model
        With an encoder; changed in place. It ends with the weights of the lowest validation error.
    records
        Standardised; missing outputs are not looked at.
    between
        How inputs go between their samples.
    seed
        Of the batches: that of a step depends on the seed and its number alone.
    held
        Rows that are not trained on; see `Windows`.
    penalty
        For parameters by name: λ, which adds λ θ² to the mean square error.
    validation
        Error of the model as it is, asked for at the start too (default: the mean of the training errors since then).
    compile
        Whether a batch is simulated, and its steps differentiated, by compiled code.
    checkpoint
        A file, written whole every `settings.every` steps, and taken away at the end.
    progress
        Called with the number of the step, training and validation error at every validation.

    Raises
    ------
    DataError
        For runs that are too short for the encoder.
    RuntimeError
        Where no batch has a finite loss any more.
    """
    if model.encoder is None:
        raise ValueError("model must have an encoder: set_encoder, or NeuralStateSpace(encoder=...)")
    weights = dict(model.named_parameters())
    trained = [x for x in weights.values() if x.requires_grad]
    windows = Windows(records, model.encoder.samples, between, held, trained[0].dtype)
    longest = max(map(len, records)) - model.encoder.samples
    optimizer = torch.optim.Adam(trained, lr=settings.learning_rate)
    result = GradientResult()
    best, kept, since, failed = math.inf, deepcopy(model.state_dict()), 0, 0
    state = None if checkpoint is None else read_training(checkpoint)
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        result = GradientResult(state["train"], state["validation"])
        best, kept, since, failed = state["best"], state["kept"], state["since"], state["failed"]
    elif validation is not None:
        best = validation()
    while (step := len(result.train)) < settings.steps and since < settings.patience:
        share = step / settings.steps
        horizon = max(1, min(longest, round(settings.stretch * horizon_share(share))))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * share)) / 2)
        given, target = windows.draw((seed, step), settings.batch, horizon)
        error = masked_error(encoded(model, given, compile)[1:].transpose(0, 1), target)
        loss = error + sum(cost * weights[name].square().sum() for name, cost in (penalty or {}).items())
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, settings.clip)
        result.train.append(float(error.detach()))
        failed = 0 if math.isfinite(result.train[-1]) and bool(norm.isfinite()) else failed + 1
        if not failed:
            optimizer.step()
        elif failed == FAILURES:
            raise RuntimeError(
                f"{FAILURES} batches in a row ran away; try a smaller learning_rate, or shorter stretches"
            )
        if len(result.train) % settings.every and len(result.train) < settings.steps:
            continue
        recent = float(np.mean(result.train[-settings.every :]))
        result.validation.append(recent if validation is None else validation())
        found = result.validation[-1]
        whole = horizon_share(share) == 1.0
        since = since + whole if not found < best * (1 - GAIN) else 0
        if found < best:
            best, kept = found, deepcopy(model.state_dict())
        if checkpoint is not None:
            write_state(
                checkpoint,
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "best": best, "kept": kept}
                | {"since": since, "failed": failed, "train": result.train, "validation": result.validation},
            )
        if progress is not None:
            progress(len(result.train), recent, found)
    model.load_state_dict(kept)
    return result


def horizon_share(share: float) -> float:
    """Return the share of their length that stretches have after a share of the steps."""
    return next(size for begin, size in reversed(HORIZONS) if share >= begin)


def masked_error(y: Tensor, measured: Tensor) -> Tensor:
    """Return the mean square error where something was measured, shape ()."""
    known = ~measured.isnan()
    return torch.where(known, y - measured.nan_to_num(0.0), 0.0).square().sum() / known.sum().clamp(min=1)


def read_training(path: Path) -> dict[str, Any] | None:
    """Return what a training that was interrupted left; None where there is nothing.

    Raises
    ------
    DataError
        For a file that is not whole, or none of these.
    """
    try:
        return read_state(path, STATE)
    except CheckpointError as error:
        raise DataError(str(error)) from None
