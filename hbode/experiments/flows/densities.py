"""Densities by the heavy ball and by FFJORD, of points in the plane and of rows of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...lazy import optional
from ...models import SolverSettings, parameter_count, width_of_size
from ...models.flows import (
    TOY_DENSITIES,
    ConcatSquashField,
    ContinuousFlow,
    HeavyBallFlow,
    LienardField,
    toy_density,
)
from ...reporting.style import Picture
from ...systems import GeneralizedHeavyBall, HeavyBall, Lienard
from ...timeseries import DataError
from ...training import TrainingSettings, solver_costs
from ..experiment import Experiment, Measured, Part, Settings, Splits, Trial, first_of_each
from .learned import LOOKS, METHODS, POINTS, TOL, cost_figure, learned

SOLVER = SolverSettings("dopri5", 1e-5, 1e-5, "backprop")
TIME, STEPS, XI, FREQUENCY = 2.0, 4, 0.5, 2.0
"""Span, steps and first ξ of the heavy balls, and factor of the first weights of their fields."""
FIELD: dict[str, Any] = {"depth": 4, "activation": torch.sin}
"""What all fields have in common."""
RATE = 0.5
"""The learning rate of FFJORD over that of the heavy balls."""
MOMENTA, SHARE = 8, 0.4
"""Momenta of each point in a training step of the heavy balls; units of q(m | h) for each of the field."""
COMPONENTS = (1, 2, 4, 8, 16, 32, 64)
EDGE, CELLS = 5.0, 150
"""The square [-5, 5]² in which densities are drawn and summed, in so many cells a side."""


class Flows(Experiment):
    """Log-likelihood in nats a point; all flows have about as many trainable numbers."""

    metric, label, higher = "log_likelihood", "log-likelihood", True
    looks: ClassVar[Mapping[str, dict[str, Any]]] = LOOKS
    chosen = "chosen by the validation log-likelihood of short runs on 8gaussians, 2spirals and pinwheel"
    notes = (
        f"HEAVY-BALL has one γ, LIENARD a damping Γ(t, h); leapfrog in {STEPS} steps over T = {TIME:g}, ξ = {XI:g} at "
        f"the start. Their log-likelihoods are of 100 weighted momenta a point, in training of {MOMENTA}; in the mean "
        "they are too low.",
        "Solver and tolerance are those of FFJORD. All keep the graph of the solve: no evaluations backward. Between "
        "the layers of all fields are sines.",
        f"The learning rate of FFJORD is {RATE:g} of that of the others, the better one for each.",
        f"Of the learned field, in results.json: max |λ| T along the paths of {POINTS} points (stiffness) and the "
        f"evaluations of {', '.join(METHODS)} at a tolerance of {TOL:g} (nfe_...), after each epoch in `validation`.",
    )

    def settings_of(self, name: str, settings: Settings) -> Settings:
        if name != "ffjord" or settings.training is None:
            return settings
        training = replace(settings.training, learning_rate=RATE * settings.training.learning_rate)
        return replace(settings, training=training)

    def model(self, name: str, data: Splits, settings: Settings, code: bool) -> nn.Module:
        size = data.train[0].shape[-1]
        field = ConcatSquashField(size, settings.width, **FIELD)
        wide = ContinuousFlow(field, size, solver=settings.solver)
        if name == "ffjord":
            return wide

        def build(width: int) -> nn.Module:
            system: HeavyBall | Lienard
            if name == "lienard":
                system = Lienard(LienardField(size, width, frequency=FREQUENCY, xi=XI, **FIELD))
            else:
                field = ConcatSquashField(size, width, frequency=FREQUENCY, **FIELD)
                system = GeneralizedHeavyBall(field, gamma=0.05, xi=XI, activation=nn.Identity())
            return HeavyBallFlow(system, size, t=(0.0, TIME), hidden=round(SHARE * width), steps=STEPS)

        return build(width_of_size(build, parameter_count(wide), 2 * settings.width))

    def loss(self, model: nn.Module, batch: Part) -> Measured:
        flow = cast(HeavyBallFlow | ContinuousFlow, model)
        if model.training and isinstance(flow, HeavyBallFlow):
            found = flow.log_prob(batch[0], samples=MOMENTA).mean()
        else:
            found = flow.log_prob(batch[0]).mean()
        costs = {} if flow.stats is None else solver_costs(flow.stats)
        return -found, {self.metric: found, **costs, **({} if model.training else learned(flow, batch[0]))}

    def baselines(self, data: Splits) -> dict[str, float]:
        mixture = optional("sklearn.mixture").GaussianMixture
        train, validation, test = (part[0].double().numpy() for part in data.parts)
        most = len(train) // (2 * train.shape[1])
        fits = [mixture(k, random_state=0).fit(train) for k in COMPONENTS if k <= most]
        best = max(fits, key=lambda fit: float(fit.score(validation)))
        return {"Gaussian": fits[0].score(test), f"{best.n_components} Gaussians": best.score(test)}


class ToyDensities(Flows):
    """20,000 points of a density in the plane."""

    name, title = "ffjord-toy", "Density of points in the plane"
    takes = "the name of a density, 8gaussians (default), 2spirals, checkerboard, pinwheel …"
    settings = {
        "full": Settings(TrainingSettings(100, 200, 4e-2, "cosine", validation_batch=1000), SOLVER, 3, 64),
        "short": Settings(TrainingSettings(10, 200, 4e-2, "cosine", validation_batch=1000), SOLVER, 2, 64),
    }

    def load(self, data: Path | None, settings: Settings) -> Splits:
        name = "8gaussians" if data is None else str(data)
        if name not in TOY_DENSITIES:
            raise DataError(f"--data must be one of {', '.join(TOY_DENSITIES)}, got {name}")
        rng = torch.Generator().manual_seed(0)
        parts = [(toy_density(name, n, generator=rng),) for n in (20_000, 1000, 2000)]
        return Splits(*parts, notes=(f"Points of {name}.",))

    def show(self, model: nn.Module, data: Splits) -> Tensor:
        """Return the density at the middles of the cells, shape (CELLS, CELLS), and of a heavy ball by 20 momenta."""
        flow = cast(HeavyBallFlow | ContinuousFlow, model)
        log_prob = partial(flow.log_prob, samples=20) if isinstance(flow, HeavyBallFlow) else flow.log_prob
        x = EDGE * ((2 * torch.arange(CELLS) + 1) / CELLS - 1)
        grid = torch.stack(torch.meshgrid(x, x, indexing="ij"), -1).view(-1, 2).to(data.train[0])
        with torch.no_grad():
            rows = [log_prob(some) for some in grid.split(2500)]
        return torch.cat(rows).exp().view(CELLS, CELLS)

    def figure(self, data: Splits, trials: Sequence[Trial]) -> Picture:
        """Draw the points, the densities that the first seed of each model learned, and their sums."""
        first = first_of_each(trials)
        figure = Picture(3.2 * (1 + len(first)), 3.5)
        panels = figure.subplots(1, 1 + len(first))
        edges = np.linspace(-EDGE, EDGE, 1 + CELLS)
        x, y = data.train[0].T.numpy()
        points, _, _ = np.histogram2d(x, y, bins=edges[:: CELLS // 75], density=True)
        drawn = {f"{len(data.train[0])} points": points}
        for name, one in first.items():
            found = cast(Tensor, one.shown).double()
            drawn[f"{name.upper()}, ∫ = {float(found.sum()) * (2 * EDGE / CELLS) ** 2:.4f}"] = found.numpy()
        for panel, (title, density) in zip(panels, drawn.items(), strict=True):
            top = float(np.quantile(points, 0.998))
            panel.imshow(density.T, origin="lower", extent=(-EDGE, EDGE) * 2, vmin=0, vmax=top, cmap="viridis")
            panel.set_title(title, fontsize=10)
            panel.set(xticks=[-4, 0, 4], yticks=[-4, 0, 4])
        return figure


class TabularDensity(Flows):
    """Rows of numbers, standardised by those of the training."""

    name, title = "heavy-ball-flow", "Density of rows of numbers"
    takes = "a .csv or .npy file of numbers, one row a point (default: 8 principal components of the digits)"
    settings = {
        "full": Settings(TrainingSettings(300, 100, 4e-2, "cosine", validation_batch=500), SOLVER, 3, 64),
        "short": Settings(TrainingSettings(40, 100, 4e-2, "cosine", validation_batch=500), SOLVER, 2, 64),
    }

    def load(self, data: Path | None, settings: Settings) -> Splits:
        rows, note = components_of_digits() if data is None else (read(data), f"Rows of {data.name}.")
        rows = rows[np.random.default_rng(0).permutation(len(rows))]
        cuts = round(0.6 * len(rows)), round(0.8 * len(rows))
        train = rows[: cuts[0]]
        rows = (rows - train.mean(0)) / train.std(0)
        first, second, third = torch.from_numpy(rows).float().tensor_split(cuts)
        how = (
            "in a drawn order, 60 % for training, 20 % each for validation and test; standardised by the training part"
        )
        return Splits((first,), (second,), (third,), notes=(f"{note[:-1]}, {how}.",))

    def figure(self, data: Splits, trials: Sequence[Trial]) -> Picture:
        """Draw what the learned fields cost, by epoch: explicit steps, and proximal ones."""
        return cost_figure(trials)


def components_of_digits() -> tuple[np.ndarray, str]:
    """Return 8 principal components of scikit-learn's digits, fitted to all 1,797 rows before they are split."""
    x = optional("sklearn.datasets").load_digits().data
    rows = optional("sklearn.decomposition").PCA(8, random_state=0).fit_transform(x)
    return rows, "The first 8 principal components of scikit-learn's 1,797 digits."


def read(path: Path) -> np.ndarray:
    """Return the rows of a file; `DataError` where it has not rows of finite numbers, as many as a split needs."""
    try:
        rows = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.genfromtxt(path, delimiter=",")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if rows.ndim == 2 and np.isnan(rows[0]).all():  # a head
        rows = rows[1:]
    if rows.ndim != 2 or len(rows) < 50 or not np.isfinite(rows).all() or (rows.std(0) == 0).any():
        raise DataError(f"{path}: must hold 50 rows of finite numbers or more, no column constant; got {rows.shape}")
    return np.asarray(rows, dtype=np.float64)
