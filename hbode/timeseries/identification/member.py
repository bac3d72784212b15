"""One model of an ensemble, from its seed to its fitted parameters."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...models.continuous import NeuralStateSpace
from ..records import Array, Records
from .derivatives import derivatives
from .free_runs import free_run
from .initial_states import estimate
from .least_squares import LeastSquaresResult, fit_least_squares
from .stretches import Stretches, stretches
from .structures import Structure, linear_start

WINDOWS = (5, 9, 17)
"""Samples over which derivatives are smoothed for the start; the best of them is taken."""
NETWORK = ("inner", "outer")
COMPILED_FROM = 20_000
"""Rows of the stretches of a fit from which on compiling pays."""


@dataclass(frozen=True)
class Settings:
    """How a model is fitted; see `SystemIdentifier`."""

    initial: int = 50
    stretch: int = 500
    between: str = "cubic"
    penalty: float = 1e-3
    evaluations: int = 60
    compile: bool | None = None
    free_run: int = 2000


@dataclass
class Fitted:
    """A fitted model, and how it was fitted: errors are mean squares in standardised units."""

    model: NeuralStateSpace
    seed: int
    validation: float
    stages: dict[str, LeastSquaresResult] = field(default_factory=dict)
    seconds: float = 0.0


def fit_member(
    structure: Structure,
    settings: Settings,
    train: Records,
    validation: Records | None,
    seed: int,
    known: Callable[..., Tensor] | None = None,
    progress: Callable[[str, int, float, float], None] | None = None,
) -> Fitted:
    """Fit one model: the linear law and its polynomial first, then with its network.

    Parameters
    ----------
    structure, settings
        What and how.
    train, validation
        Standardised records. Without validation, the training error decides.
    seed
        Of the weights of the network.
    progress
        Called with the stage, the evaluation, training and validation error.
    """
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = structure.build(known)
    given = stretches(train, settings.stretch, settings.between)
    held = None if validation is None else stretches(validation, settings.free_run, settings.between)
    compile = given.y[..., 0].numel() >= COMPILED_FROM if settings.compile is None else settings.compile
    _start(model, train, given, settings)
    network = [x for name, x in model.named_parameters() if any(part in name for part in NETWORK)]
    stages: dict[str, LeastSquaresResult] = {}

    def error() -> float:
        return free_run_error(model, held, settings.initial) if held is not None else np.nan

    def stage(name: str, penalty: dict[str, float]) -> float:
        stages[name] = fit_least_squares(
            model,
            given,
            penalty,
            validation=None if held is None else error,
            evaluations=settings.evaluations,
            compile=compile,
            progress=None if progress is None else lambda *news: progress(name, *news),
        )
        return min(stages[name].validation)

    kept = [x.detach().clone() for x in network]
    for x in network:
        x.requires_grad_(False)
        x.data.zero_()
    best = stage("linear law and polynomial", {})
    if network:
        for x, value in zip(network, kept, strict=True):
            x.data.copy_(value * (best**0.5 if best < 1 else 1.0) if "outer" in _name(model, x) else value)
            x.requires_grad_(True)
        share = settings.penalty * min(best, 1.0)
        best = stage("with network", {_name(model, x): share for x in network})
    return Fitted(model, seed, best, stages, time.perf_counter() - started)


@torch.no_grad()
def free_run_error(model: NeuralStateSpace, given: Stretches, initial: int) -> float:
    """Return the mean square error of free runs behind the first samples, which their states are estimated from."""
    count = given.y.shape[1]
    initial = min(initial, count - 1)
    start = estimate(model, given.first(initial))
    y = free_run(model, given, start).y.transpose(0, 1)
    missed = (y - given.y)[:, initial:]
    squares = missed[~given.y[:, initial:].isnan()].square()
    return float(squares.mean()) if bool(squares.isfinite().all()) and len(squares) else float("inf")


def simulate(model: NeuralStateSpace, records: Records, between: str, initial: int) -> list[Array]:
    """Return the free runs of a model over standardised records, (T, Cy) each, from states by the first samples."""
    out = []
    for number in range(len(records)):
        given = stretches(records[number : number + 1], None, between)
        with torch.no_grad():
            start = estimate(model, given.first(initial))
            out.append(free_run(model, given, start).y[:, 0].numpy())
    return out


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


def _name(model: NeuralStateSpace, parameter: Tensor) -> str:
    return next(name for name, x in model.named_parameters() if x is parameter)
