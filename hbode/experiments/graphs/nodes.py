"""Nodes of a graph classified by diffusion and by coupled heavy balls (GRAND, GraphCON)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models import SolverSettings
from ...models.graphs import Graph, GraphDiffusion, GraphHeavyBall
from ...reporting.style import LINES, SYSTEM_LINES, Picture
from ...solution import Stats
from ...training import TrainingSettings, solver_costs
from ..experiment import Experiment, Measured, Part, Settings, Splits, Trial
from .baselines import label_propagation, linear_of_features
from .data import block_model, citations, digit_neighbours

TIMES = 21
"""At so many times along the span the validation looks where to stop."""
DROPPED = 0.8, 0.5
"""Shares of the features, and of the channels of a node before the read-out, that a training step does without."""
TRAIN = TrainingSettings(
    *(100, 1000, 0.01, "constant"), monitor="error", optimizer=partial(torch.optim.Adamax, weight_decay=0.005)
)
SOLVER = SolverSettings(None, 1e-2, 1e-2)
SOURCE = 0.1
"""β of models with a source; the heavy ball has ξ = 1 + β, so that it comes to rest."""


class NodeClassifier(nn.Module):
    """A linear map of the features, a solve on the graph, and a linear read-out, with dropout before both maps."""

    columns: Tensor
    values: Tensor
    starts: Tensor

    def __init__(self, x: Tensor, edges: Tensor, classes: int, solve: GraphDiffusion | GraphHeavyBall) -> None:
        super().__init__()
        self.graph, self.solve, self.span = Graph(edges, len(x)), solve, solve.layer.t
        size = solve.attention.query.in_features
        encode = nn.Linear(x.shape[1], size)  # as its rows, since most features of a document are zero
        self.rows, self.bias = nn.Parameter(encode.weight.detach().T.contiguous()), encode.bias
        self.read = nn.Linear(size, classes)
        found = {
            "columns": x.nonzero()[:, 1],
            "values": x[x != 0],
            "starts": F.pad((x != 0).sum(1).cumsum(0), (1, 0)),
        }
        for name, value in found.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, t: Tensor | Sequence[float] | None = None) -> Tensor:
        """Return the scores of the classes, (N, K), or at times (T, N, K)."""
        values = F.dropout(self.values, DROPPED[0], self.training)
        h = F.embedding_bag(
            self.columns, self.rows, self.starts, mode="sum", per_sample_weights=values, include_last_offset=True
        )
        h = self.solve(h + self.bias, self.graph, t)
        return torch.as_tensor(self.read(F.dropout(h.relu(), DROPPED[1], self.training)))


class Grand(Experiment):
    """The whole graph is solved in each step, and the labels of the training nodes are compared."""

    name, title = "grand", "Nodes of a graph"
    takes = "an .npz file of a citation graph (default: a stochastic block model)"
    metric, label, higher = "accuracy", "accuracy", True
    looks: ClassVar[Mapping[str, dict[str, Any]]] = {
        "grand": SYSTEM_LINES["node"],
        "grand-source": LINES[3],
        "grand-nonlinear": LINES[4],
        "graph-heavy-ball": SYSTEM_LINES["hbnode"],
    }
    damped = ("graph-heavy-ball",)
    chosen = "by the validation accuracy on Cora, on which the time at which a solve is read is chosen too"
    settings = {
        "full": Settings(TRAIN, SOLVER, 5, width=80, span=6.0),
        "short": Settings(TRAIN, SOLVER, 2, width=32, span=6.0),
    }
    notes = (
        "All nodes are solved together, and each batch, of all training nodes, is one solve of the whole graph.",
        "Chamberlain et al. (ICML 2021) set GRAND by a search for each data set (T = 18.29 on Cora).",
    )

    def load(self, data: Path | None, settings: Settings) -> Splits:
        return block_model() if data is None else citations(data)

    def model(self, name: str, data: Splits, settings: Settings, code: bool) -> nn.Module:
        given: dict[str, Any] = {"t": (0.0, settings.span), "solver": settings.solver}
        if name == "graph-heavy-ball":
            solve: GraphDiffusion | GraphHeavyBall = GraphHeavyBall(
                settings.width,
                gamma=0.99,
                xi=1 + SOURCE,
                trainable=False,
                activation=None,
                mix=False,
                source=SOURCE,
                **given,
            )
        else:
            source = SOURCE if name == "grand-source" else 0.0
            solve = GraphDiffusion(settings.width, nonlinear=name == "grand-nonlinear", source=source, **given)
        x, edges = data.shared
        return NodeClassifier(x, edges, int(data.train[1].max()) + 1, solve)

    def loss(self, model: nn.Module, batch: Part) -> Measured:
        nodes, labels = batch
        scores = model()[nodes]
        right = (scores.argmax(1) == labels).double().mean()
        costs = solver_costs(cast(Stats, cast(NodeClassifier, model).solve.stats))
        return F.cross_entropy(scores, labels), {"accuracy": right, "error": 1 - right, **costs}

    def settle(self, model: nn.Module, data: Splits) -> None:
        times, accuracies = self.show(model, data)
        cast(NodeClassifier, model).solve.layer.t = (0.0, float(times[accuracies.argmax()]))

    @torch.no_grad()
    def show(self, model: nn.Module, data: Splits) -> Tensor:
        """Return times along the span but the first, and the validation accuracies of a read-out there: (2, times)."""
        nodes, labels = data.validation
        times = torch.linspace(*cast(NodeClassifier, model).span, TIMES)
        scores = model(times)[1:, nodes]
        return torch.stack((times[1:], (scores.argmax(2) == labels).float().mean(1).cpu()))

    def baselines(self, data: Splits) -> dict[str, float]:
        counts = data.train[1].bincount()
        return {
            "majority": float((data.test[1] == counts.argmax()).double().mean()),
            "logistic regression on the features": linear_of_features(data),
            "label propagation": label_propagation(data),
            "logistic regression on twice averaged features": linear_of_features(data, 2),
        }

    def figure(self, data: Splits, trials: Sequence[Trial]) -> Picture:
        """Draw validation accuracy over the time of the read-out, the mean over seeds."""
        figure = Picture(5.5, 3.6)
        panel = figure.subplots()
        for name, look in self.looks.items():
            shown = [one.shown for one in trials if one.model == name and one.shown is not None]
            if shown:
                times, accuracies = torch.stack(shown).mean(0)
                panel.plot(times, accuracies, **look, markevery=4, label=name.upper())
        panel.set(xlabel="time of the read-out", ylabel="validation accuracy")
        panel.grid(alpha=0.25)
        panel.legend()
        return figure


class GrandDigits(Grand):
    """The same for images whose graph is that of their nearest neighbours."""

    name, title = "grand-digits", "Nodes of a graph of digits"
    takes = ""

    def load(self, data: Path | None, settings: Settings) -> Splits:
        return digit_neighbours()
