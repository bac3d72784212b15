"""One model of an ensemble, from its seed to its fitted parameters."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ....models.continuous import NeuralStateSpace, StateBank, solve_all_steps
from ....models.continuous.sensitivities import trained as trained_parameters
from ...records import Records
from ..held_out import without_blocks
from ..laws.structures import LAST, NETWORK, Structure
from ..runs.derivatives import derivatives
from ..runs.simulation import free_run_error, mean_square
from ..runs.stretches import Stretches, stretches
from . import gradient_stage
from .least_squares import LeastSquaresResult, fit_least_squares
from .multiple_shooting import GradientResult, GradientSettings

WINDOWS = (5, 9, 17)
"""Samples over which derivatives are smoothed for the start; the best of them is taken."""
ALIKE = 1e-2
"""Relative difference of two fits of the linear law that have come to the same minimum."""
BOUND = 30.0
"""What a random linear law may reach, in standardised outputs."""
NETWORKS, TRIAL, SHORT = 4, 25, 200
"""Where the state is hidden, so many networks are tried, by so many evaluations of stretches of so many samples."""
LONGEST = 2.0
"""Median steps of training between two rows of a simulation, at most: longer ones get rows without values."""
LARGE = 300
"""Parameters from which on a model is trained by gradients: the time of a least-squares problem grows with them."""
COMPILED_FROM = 20_000
"""Rows of the stretches of a fit from which on compiling pays."""


@dataclass(frozen=True)
class Settings:
    """How a model is fitted; see `SystemIdentifier`.

    Attributes
    ----------
    longest
        Standardised time between two rows of a simulation, at most: longer gaps are filled with rows without values.

    Examples
    --------
    >>> from hbode.timeseries.identification import Settings
    >>> Settings(evaluations=10).initial
    50
    """

    initial: int = 50
    stretch: int | None = 500
    between: str = "cubic"
    penalty: float = 1e-3
    evaluations: int = 60
    rows: int | None = 15_000
    compile: bool | None = None
    free_run: int = 2000
    starts: int = 8
    longest: float = np.inf
    optimizer: str = "auto"
    gradients: GradientSettings = field(default_factory=GradientSettings)


@dataclass
class Fitted:
    """A fitted model, and how it was fitted: errors are mean squares in standardised units.

    Examples
    --------
    >>> from hbode.timeseries.identification import Fitted, Structure
    >>> Fitted(Structure(1, 1, "hbnode").build(), seed=0, validation=0.1).seconds
    0.0
    """

    model: NeuralStateSpace
    seed: int
    validation: float
    stages: dict[str, LeastSquaresResult | GradientResult] = field(default_factory=dict)
    seconds: float = 0.0


Progress = Callable[[str, int, float, float], None]
"""Called with the stage, the evaluation, training and validation error."""


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
        Other standardised records; "blocks" for every fifth block of the training rows (`blocks`); None: the training
        error decides.
    seed
        Of the weights, and of which blocks.
    checkpoint
        Where a training by gradients is kept while it goes on.
    """
    started = time.perf_counter()
    records, others = train.filled(settings.longest), None
    if isinstance(validation, str):
        train, others = (one.filled(settings.longest) for one in without_blocks(train, settings.initial, seed))
    else:
        train = records
    runs = validation.filled(settings.longest) if isinstance(validation, Records) else None
    elsewhere = None if runs is None else stretches(runs, settings.free_run, settings.between)

    @cache
    def cut(samples: int | None) -> tuple[Stretches, Tensor | None]:
        """Return the stretches of so many samples, and their outputs that are held out."""
        found = stretches(train, samples, settings.between)
        out = None if others is None else stretches(others, samples, settings.between).y
        known = (~found.y.isnan()).flatten(1).any(1).nonzero()[:, 0]  # the others fill gaps
        most = max((settings.rows or found.y[..., 0].numel()) // found.y.shape[1], 1)
        if len(known) > most or len(known) < len(found):
            some = known[torch.linspace(0, len(known) - 1, min(most, len(known))).round().long()]
            found, out = found.chosen(some), None if out is None else out[some]
        return found, out

    def stage(
        name: str, penalty: dict[str, float], start: Tensor | None, evaluations: int, samples: int | None
    ) -> LeastSquaresResult:
        given, held = cut(samples)

        def error(y: Tensor) -> float:
            if held is not None:
                return mean_square(y, held)
            return np.nan if elsewhere is None else free_run_error(model, elsewhere, settings.initial)

        return fit_least_squares(
            model,
            given,
            penalty,
            validation=None if validation is None else error,
            evaluations=evaluations,
            compile=given.y[..., 0].numel() >= COMPILED_FROM if settings.compile is None else settings.compile,
            start=start,
            progress=None if progress is None else lambda *news: progress(name, *news),
        )

    def train_stage(penalty: dict[str, float], states: Tensor | None) -> GradientResult:
        held = None if others is None else np.concatenate([run.y_mask.any(1) for run in others])
        return gradient_stage.train(
            model,
            records,
            runs,
            held,
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

    whole, brief = settings.stretch, 2 * settings.initial
    given, _ = cut(whole)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = structure.build(known)
        network = {name: x for name, x in model.named_parameters() if any(part in name for part in NETWORK)}
        by_gradients = settings.optimizer == "adam" or (settings.optimizer == "auto" and numbers(model) > LARGE)
        hidden = structure.hidden_state or structure.momentum is False
        starts = settings.starts if hidden else 1

        def law() -> LeastSquaresResult:
            if hidden:
                _random_start(structure, model, given)
            else:
                _start(structure, model, train, given, settings)
                if brief < given.y.shape[1]:  # long stretches have minima in which phases are off by whole periods
                    stage("linear law and polynomial, short", {}, None, TRIAL, brief)
            return stage("linear law and polynomial", {}, None, settings.evaluations, whole)

        drawn = [x.detach().clone() for x in network.values()]
        for x in network.values():
            x.requires_grad_(False)
            x.data.zero_()
        result = linear = best_of(model, law, starts, ALIKE)
        stages: dict[str, LeastSquaresResult | GradientResult] = {"linear law and polynomial": result}
        error, start = min(result.validation), None if result.states is None else result.states[0]
        share = dict.fromkeys(network, settings.penalty * min(error, 1.0))
        weights = deepcopy(model.state_dict())

        def draw() -> None:
            nonlocal drawn
            model.load_state_dict(weights)
            for (name, x), value in zip(network.items(), drawn, strict=True):
                x.data.copy_(value * min(error, 1.0) ** 0.5 if any(part in name for part in LAST) else value)
                x.requires_grad_(True)
            drawn = [x.detach() for name, x in structure.build(known).named_parameters() if name in network]

        def trial() -> LeastSquaresResult:
            draw()
            stage("with network, short", share, None, TRIAL, min(SHORT, whole or SHORT))
            return stage("with network, long", share, None, 1, whole)  # what is good in short stretches may run away

        if by_gradients:
            draw()
            stages["by gradients"] = train_stage(share, result.states)
            start = None
        elif network and hidden:  # short stretches have fewer minima that are no good
            tried = best_of(model, trial, NETWORKS)
            start = None if tried.states is None else tried.states[0]
        elif network:
            draw()
        if numbers(model) <= LARGE if by_gradients else network:
            model.encoder = None
            stages["with network"] = result = stage("with network", share, start, settings.evaluations, whole)
    best = min(list(stages.values())[-1].validation)
    if not by_gradients and not best <= error:  # the law is better without the network
        model.load_state_dict(weights)
        best, result = error, linear
    if structure.hidden_state and result.states is not None and model.encoder is None:
        model.bank = bank(model, result.states, given.y, settings.initial)
    return Fitted(model, seed, best, stages, time.perf_counter() - started)


def numbers(model: NeuralStateSpace) -> int:
    """Return how many numbers of the law and the read-out are fitted."""
    return sum(x.numel() for x in trained_parameters(model).values())


def best_of(
    model: NeuralStateSpace, fit: Callable[[], LeastSquaresResult], starts: int, alike: float = 0.0
) -> LeastSquaresResult:
    """Fit a model from so many starts, or until one comes as near as `alike` to the best; leave it at the best."""
    tries: list[tuple[float, LeastSquaresResult, dict[str, Tensor]]] = []
    for _ in range(starts):
        result = fit()
        error, before = min(result.validation), min((one[0] for one in tries), default=np.inf)
        tries.append((error, result, deepcopy(model.state_dict())))
        if abs(error - before) < alike * error:
            break
    _, result, weights = min(tries, key=lambda one: one[0])
    model.load_state_dict(weights)
    return result


def bank(model: NeuralStateSpace, states: Tensor, y: Tensor, samples: int, most: int = 400) -> StateBank:
    """Return some states of the training stretches with the outputs (B, T, Cy) that follow."""
    flat = model.flat(states)
    windows = y.unfold(1, samples, 1).permute(1, 0, 3, 2)
    rows = flat[: len(windows)].flatten(0, 1)
    chosen = torch.linspace(0, len(rows) - 1, min(most, len(rows))).round().long()
    return StateBank(rows[chosen], windows.flatten(0, 1)[chosen])


def _random_start(structure: Structure, model: NeuralStateSpace, given: Stretches, draws: int = 20) -> None:
    """Draw the linear law until it simulates the inputs from rest without leaving all bounds."""
    rest = model.whole(given.y.new_zeros(len(given), model.size * (1 + model.system.second_order)))
    for _ in range(draws):
        structure.random_start(model)
        states = solve_all_steps(model, given.t, given.u, rest)
        with torch.no_grad():
            if states is not None and bool((model.read(states, given.values).abs() < BOUND).all()):
                break


def _start(structure: Structure, model: NeuralStateSpace, train: Records, given: Stretches, settings: Settings) -> None:
    """Set the linear law by the smoothing that simulates short stretches best."""
    short = given.first(min(given.y.shape[1], 100))
    best, kept = float("inf"), deepcopy(model.state_dict())
    for window in WINDOWS:
        found = [derivatives(run, window) for run in train]
        parts = [torch.from_numpy(np.concatenate([one[k] for one in found])) for k in range(4)]
        if len(parts[0]) < 10:
            continue
        structure.linear_start(model, *parts)
        error = free_run_error(model, short, min(settings.initial, 20))
        if error < best:
            best, kept = error, deepcopy(model.state_dict())
    model.load_state_dict(kept)
