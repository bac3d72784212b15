"""What needs no network: features alone, labels alone, and a linear model on averages over neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ...models.graphs import Graph
from ..baselines import logistic
from ..experiment import Splits

STRENGTHS = tuple(10.0**k for k in range(-2, 4))
STAYS = (0.5, 0.8, 0.9, 0.95, 0.99)


def linear_of_features(data: Splits, averages: int = 0) -> float:
    """Return the test accuracy of logistic regression on features, its regularisation chosen by the validation.

    `averages` are how often features are averaged over neighbours before: twice is the "simple graph convolution" of
    Wu et al. (ICML 2019).
    """
    x, edges = data.shared
    graph = Graph(edges, len(x))
    weights = _symmetric(graph)
    for _ in range(averages):
        x = graph.propagate(weights, x)
    of_nodes = ((x[nodes].cpu(), labels.cpu()) for nodes, labels in data.parts)
    return logistic(Splits(*of_nodes), STRENGTHS)[0]


def label_propagation(data: Splits, stays: Sequence[float] = STAYS, steps: int = 100) -> float:
    """Return the test accuracy of Y ← a S Y + (1 - a) Y₀, a chosen by the validation (Zhou et al., NeurIPS 2004)."""
    graph = Graph(data.shared[1], len(data.shared[0]), self_loops=False)
    weights = _symmetric(graph)
    nodes, labels = data.train
    start = data.shared[0].new_zeros(graph.nodes, int(labels.max()) + 1)
    start[nodes] = one_hot(labels).to(start)

    def right(said: Tensor, part: tuple[Tensor, ...]) -> float:
        return float((said[part[0]].argmax(1) == part[1]).double().mean())

    found = []
    for a in stays:
        y = start
        for _ in range(steps):
            y = a * graph.propagate(weights, y) + (1 - a) * start
        found.append((right(y, data.validation), right(y, data.test)))
    return max(found, key=lambda pair: pair[0])[1]


def _symmetric(graph: Graph) -> Tensor:
    """Return the weights 1 / √(degree of the source · degree of the target)."""
    degree = torch.bincount(graph.targets, minlength=graph.nodes).float().clamp(min=1)
    return (degree[graph.sources] * degree[graph.targets]).rsqrt()
