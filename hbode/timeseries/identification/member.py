"""One model of an ensemble, from its seed to its fitted parameters."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...models.continuous import NeuralStateSpace, StateBank
from ...models.continuous.sensitivities import trained as trained_parameters
from ..records import Array, Records
from . import gradient_stage
from .derivatives import derivatives
from .free_runs import free_run, measured_states
from .initial_states import estimate
from .least_squares import LeastSquaresResult, fit_least_squares
from .multiple_shooting import GradientResult, GradientSettings, encode
from .stretches import Stretches, stretches
from .structures import Structure, linear_start, random_start

WINDOWS = (5, 9, 17)
"""Samples over which derivatives are smoothed for the start; the best of them is taken."""
NETWORK = ("inner", "outer")
LARGE = 300
"""Parameters from which on a model is trained by gradients: the time of a least-squares problem grows with them."""
COMPILED_FROM = 20_000
"""Rows of the stretches of a fit from which on compiling pays."""


@dataclass(frozen=True)
class Settings:
    """How a model is fitted; see `SystemIdentifier`."""

    initial: int = 50
    stretch: int | None = 500
    between: str = "cubic"
    penalty: float = 1e-3
    evaluations: int = 60
    compile: bool | None = None
    free_run: int = 2000
    starts: int = 6
    optimizer: str = "auto"
    gradients: GradientSettings = field(default_factory=GradientSettings)


@dataclass
class Fitted:
    """A fitted model, and how it was fitted: errors are mean squares in standardised units."""

    model: NeuralStateSpace
    seed: int
    validation: float
    stages: dict[str, LeastSquaresResult | GradientResult] = field(default_factory=dict)
    seconds: float = 0.0


Progress = Callable[[str, int, float, float], None]
"""Called with the stage, the evaluation, training and validation error."""


@dataclass(frozen=True, eq=False)
class Held:
    """What chooses: outputs of the training stretches that are left out, or records of their own.

    Attributes
    ----------
    outputs
        (B, T, Cy), NaN where the output is trained on or missing; or None.
    runs
        Stretches; or None.
    """

    outputs: Tensor | None = None
    runs: Stretches | None = None

    def error(self, model: NeuralStateSpace, initial: int, y: Tensor) -> float:
        """Return the mean square error of a model that simulated y (B, T, Cy) in training."""
        if self.outputs is not None:
            return mean_square(y, self.outputs)
        return np.nan if self.runs is None else free_run_error(model, self.runs, initial)


def fit_member(
    structure: Structure,
    settings: Settings,
    train: Records,
    validation: Records | str | None,
    seed: int,
    known: nn.Module | None = None,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
) -> Fitted:
    """Fit one model: the linear law and its polynomial first, then with its network.

    By least squares, or by gradients where a model is large or `settings.optimizer` says so.

    Parameters
    ----------
    structure, settings
        What and how.
    train
        Standardised records.
    validation
        Other standardised records; "blocks" for every fifth block of the training rows; None: the training error
        decides.
    seed
        Of the weights.
    checkpoint
        Where a training by gradients is kept while it goes on.
    """
    started = time.perf_counter()
    given = stretches(train, settings.stretch, settings.between)
    rows = None
    if isinstance(validation, str):
        rows = np.concatenate([blocks(len(run), settings.initial).numpy() for run in train])
        out = blocks(given.y.shape[1], settings.initial)
        held = Held(outputs=torch.where(out.view(-1, 1), given.y, torch.nan))
        given = replace(given, y=torch.where(out.view(-1, 1), torch.nan, given.y))
    else:
        held = Held(runs=None if validation is None else stretches(validation, settings.free_run, settings.between))
    compile = given.y[..., 0].numel() >= COMPILED_FROM if settings.compile is None else settings.compile

    def stage(
        model: NeuralStateSpace, name: str, penalty: dict[str, float], start: Tensor | None, evaluations: int
    ) -> LeastSquaresResult:
        return fit_least_squares(
            model,
            given,
            penalty,
            validation=None if held == Held() else lambda y: held.error(model, settings.initial, y),
            evaluations=evaluations,
            compile=compile,
            start=start,
            progress=None if progress is None else lambda *news: progress(name, *news),
        )

    def large(model: NeuralStateSpace) -> bool:
        return settings.optimizer == "adam" or (settings.optimizer == "auto" and numbers(model) > LARGE)

    def train_stage(model: NeuralStateSpace, penalty: dict[str, float], states: Tensor | None) -> GradientResult:
        return gradient_stage.train(
            model,
            train,
            validation if isinstance(validation, Records) else None,
            rows,
            settings.gradients,
            samples=settings.initial,
            between=settings.between,
            free_run=settings.free_run,
            seed=seed,
            given=given,
            states=states,
            penalty=penalty,
            compile=settings.compile,
            checkpoint=checkpoint,
            progress=None if progress is None else lambda *news: progress("by gradients", *news),
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = structure.build(known)
        network = {name: x for name, x in model.named_parameters() if any(part in name for part in NETWORK)}
        kept = [x.detach().clone() for x in network.values()]
        for x in network.values():
            x.requires_grad_(False)
            x.data.zero_()
        hidden = structure.hidden_state or structure.momentum is False
        tries: list[tuple[float, LeastSquaresResult, dict[str, Tensor]]] = []
        for _ in range(settings.starts if hidden else 1):
            if hidden:
                random_start(model)
            else:
                _start(model, train, given, settings)
            evaluations = 1 if large(model) else settings.evaluations  # one: the start, and its states
            result = stage(model, "linear law and polynomial", {}, None, evaluations)
            tries.append((min(result.validation), result, {k: x.clone() for k, x in model.state_dict().items()}))
        best, result, weights = min(tries, key=lambda one: one[0])
        model.load_state_dict(weights)
    stages: dict[str, LeastSquaresResult | GradientResult] = {"linear law and polynomial": result}
    penalty: dict[str, float] = {}
    if network:
        for x, value in zip(network.values(), kept, strict=True):
            x.data.copy_(value)
            x.requires_grad_(True)
        for name, x in network.items():
            if "outer" in name:
                x.data.mul_(min(best, 1.0) ** 0.5)
        penalty = dict.fromkeys(network, settings.penalty * min(best, 1.0))
    by_gradients = large(model)
    if by_gradients:
        stages["by gradients"] = trained = train_stage(model, penalty, result.states)
        best = min(trained.validation)
    start = None if by_gradients or result.states is None else result.states[0]
    if numbers(model) <= LARGE if by_gradients else network:
        model.encoder = None
        result = stage(model, "with network", penalty, start, settings.evaluations)
        stages["with network"], best = result, min(result.validation)
    if structure.hidden_state and result.states is not None and model.encoder is None:
        model.bank = bank(model, result.states, given.y, settings.initial)
    return Fitted(model, seed, best, stages, time.perf_counter() - started)


def numbers(model: NeuralStateSpace) -> int:
    """Return how many numbers of the law and the read-out are fitted."""
    return sum(x.numel() for x in trained_parameters(model).values())


def blocks(rows: int, initial: int) -> Tensor:
    """Return which rows are held out, (T,): every fifth block of a fortieth of the rows, none at the start."""
    size = max(rows // 40, 10)
    at = torch.arange(rows)
    return (at // size % 5 == 3) & (at >= initial)


def bank(model: NeuralStateSpace, states: Tensor, y: Tensor, samples: int, most: int = 400) -> StateBank:
    """Return some states of the training stretches with the outputs (B, T, Cy) that follow."""
    flat = model.flat(states)
    windows = y.unfold(1, samples, 1).permute(1, 0, 3, 2)
    rows = flat[: len(windows)].flatten(0, 1)
    chosen = torch.linspace(0, len(rows) - 1, min(most, len(rows))).round().long()
    return StateBank(rows[chosen], windows.flatten(0, 1)[chosen])


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


def simulate(model: NeuralStateSpace, records: Records, between: str, initial: int) -> list[Array]:
    """Return the free runs of a model over standardised records, (T, Cy) each, from states by the first samples.

    Where the model has an encoder, and all the outputs that it reads are there, it gives the state at the last of the
    first samples; what is before that is what was measured.
    """
    return [_simulated(model, stretches(records[i : i + 1], None, between), initial) for i in range(len(records))]


@torch.no_grad()
def _simulated(model: NeuralStateSpace, given: Stretches, initial: int) -> Array:
    n = None if model.encoder is None else model.encoder.samples
    if n is None or initial < n or bool(given.y[:, initial - n : initial].isnan().any()):
        start = estimate(model, given.first(initial))
        return free_run(model, given, start).y[:, 0].numpy()
    start, behind = encode(model, given.behind(initial - n))
    y = free_run(model, behind, start).y[:, 0]
    before = given.y[0, : initial - 1]
    return torch.cat((torch.where(before.isnan(), y[0], before), y)).numpy()


def _start(model: NeuralStateSpace, train: Records, given: Stretches, settings: Settings) -> None:
    """Set the linear law by the smoothing that simulates short stretches best."""
    short = given.first(min(given.y.shape[1], 100))
    best, kept = float("inf"), {name: x.clone() for name, x in model.state_dict().items()}
    for window in WINDOWS:
        found = [derivatives(run, window) for run in train]
        parts = [torch.from_numpy(np.concatenate([one[k] for one in found])) for k in range(4)]
        if len(parts[0]) < 10:
            continue
        linear_start(model, *parts)
        error = free_run_error(model, short, min(settings.initial, 20))
        if error < best:
            best, kept = error, {name: x.clone() for name, x in model.state_dict().items()}
    model.load_state_dict(kept)
