"""Neural ODEs on graphs: diffusion, and a heavy ball that its neighbours drive.

Sources: Chamberlain et al., "GRAND: graph neural diffusion", ICML 2021; Rusch et al., "Graph-coupled oscillator
networks" (GraphCON), ICML 2022.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...setup.arguments import check_at_least
from ...solution import Solution, Stats
from ...systems import FirstOrder, GeneralizedHeavyBall, System
from ...systems.coefficients import Activation, OfTime, as_activation
from ..layers import ODELayer
from ..solver import SolverSettings
from .attention import GraphAttention
from .graph import Graph, as_graph


class Neighbours(nn.Module):
    """A h, A of weights that are given, or of an attention at h."""

    def __init__(self, attention: GraphAttention | None) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, h: Tensor, graph: Graph, *weights: Tensor) -> Tensor:
        (a,) = weights if self.attention is None else (self.attention(h, graph),)
        return graph.propagate(a, h)


class Diffusion(nn.Module):
    """f(t, h) = A h - h + β x."""

    def __init__(self, neighbours: Neighbours, source: float) -> None:
        super().__init__()
        self.neighbours, self.source = neighbours, source

    def forward(self, t: Tensor, h: Tensor, graph: Graph, x: Tensor | None, *weights: Tensor) -> Tensor:
        return with_source(self.neighbours(h, graph, *weights) - h, x, self.source)


class Coupling(nn.Module):
    """f(t, h) = σ(A h W + b) + β x."""

    def __init__(self, neighbours: Neighbours, mix: nn.Module, activation: Activation | None, source: float) -> None:
        super().__init__()
        self.neighbours, self.mix, self.activation, self.source = neighbours, mix, activation, source

    def forward(self, t: Tensor, h: Tensor, graph: Graph, x: Tensor | None, *weights: Tensor) -> Tensor:
        mixed = self.mix(self.neighbours(h, graph, *weights))
        return with_source(mixed if self.activation is None else self.activation(mixed), x, self.source)


def with_source(f: Tensor, x: Tensor | None, source: float) -> Tensor:
    """Return f + β x, or f without x."""
    return f if x is None else torch.add(f, x, alpha=source)


class GraphODE(nn.Module):
    """The solve of a system on the nodes of a graph, whose field is ``f(t, h, graph, x, *weights)``.

    Attributes
    ----------
    layer
        The `ODELayer` that it is.
    attention
        The `GraphAttention` that weighs the edges.
    """

    def __init__(
        self, system: System, attention: GraphAttention, nonlinear: bool, source: float, layer: dict[str, Any]
    ) -> None:
        super().__init__()
        if not (math.isfinite(source) and source >= 0):
            raise ValueError(f"source must be at least 0, got {source}")
        self.layer = ODELayer(system, **layer)
        self.attention, self.nonlinear, self.source = attention, nonlinear, source

    def forward(self, x: Tensor, edges: Tensor | Graph, t: Tensor | Sequence[float] | None = None) -> Tensor:
        """Return the nodes at the end of the span, or at times.

        Parameters
        ----------
        x
            Nodes at the start, shape (N, C); ``data.x`` of PyTorch Geometric.
        edges
            ``data.edge_index``, shape (2, E), which gets self-loops where there are none, or a `Graph`, which need not
            be put in order again in each call.
        t
            Times (T,), x at the first. The result is then (T, N, C), and (N, C) without.

        Raises
        ------
        ValueError
            If x is no matrix with a row for each node, or t has times for each node.
        """
        h = self.solve(x, edges, t).h
        return torch.as_tensor(h if t is not None else h[-1])

    def solve(self, x: Tensor, edges: Tensor | Graph, t: Tensor | Sequence[float] | None = None) -> Solution:
        """Return the whole solution, with momenta; arguments as for a call, over the whole span if t is None."""
        size = self.attention.query.in_features
        if x.ndim != 2 or x.shape[1] != size:
            raise ValueError(f"x must have shape (N, {size}), got {tuple(x.shape)}")
        if t is not None and torch.as_tensor(t).ndim != 1:
            raise ValueError(f"t must have shape (T,): nodes share their time, got {tuple(torch.as_tensor(t).shape)}")
        graph = as_graph(edges, len(x))
        fixed = () if self.nonlinear else (self.attention(x, graph),)
        return self.layer.solve(x, t, (graph, x if self.source else None, *fixed))

    @property
    def stats(self) -> Stats | None:
        """`Stats` of the last solve: evaluations forward and, after it, backward; None before the first."""
        return self.layer.stats


class GraphDiffusion(GraphODE):
    """x' = (A - I) x + β x(0) on the nodes of a graph, A the attention of nodes to their neighbours (GRAND).

    Parameters
    ----------
    size
        Channels C of a node.
    heads, channels
        Of `GraphAttention`.
    nonlinear
        Recompute A(x) at every evaluation; else A is that of the start, and the solution exp(T (A - I)) x.
    source
        β of a term β x(0), which keeps features apart over long spans: an option of the authors' code, trained there.
        Default: none.
    t
        Start and end.
    solver
        Method, tolerances, gradient. Default: dopri5 at tolerances of 1e-3. On the long spans that smooth a graph well
        the equation is stiff: |λ| up to 2 over T, whatever the graph, so that an explicit step ends at about 1.6.

    Raises
    ------
    ValueError
        For sizes below 1, `channels` that do not divide into `heads`, or a negative `source`.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.graphs import GraphDiffusion
    >>> layer = GraphDiffusion(8, heads=2, t=(0.0, 4.0))
    >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    >>> layer(torch.randn(3, 8), edge_index).shape
    torch.Size([3, 8])
    """

    def __init__(
        self,
        size: int,
        heads: int = 4,
        channels: int | None = None,
        *,
        nonlinear: bool = False,
        source: float = 0.0,
        t: Sequence[float] = (0.0, 1.0),
        solver: SolverSettings | None = None,
    ) -> None:
        attention = GraphAttention(size, heads, channels)
        field = Diffusion(Neighbours(attention if nonlinear else None), source)
        super().__init__(FirstOrder(field), attention, nonlinear, source, {"t": t, "solver": solver})


class GraphHeavyBall(GraphODE):
    """x'' + γ x' + ξ x = σ(A x W + b) + β x(0) on the nodes of a graph (GraphCON; ξ is its α).

    Each node is a damped oscillator that its neighbours drive: a `GeneralizedHeavyBall`, by whose methods, Nyström ones
    among them, it is solved.

    Parameters
    ----------
    size, heads, channels, nonlinear
        As for `GraphDiffusion`.
    source
        β. With ξ = 1 + β, the identity as σ and no W, it comes to rest at β (ξ - A)⁻¹ x(0), the personalised PageRank
        of Gasteiger, Bojchevski, Günnemann (ICLR 2019) with teleport probability β / ξ, however long the span.
    gamma, xi, trainable
        Damping and restoring coefficient, as for `GeneralizedHeavyBall`.
    activation
        σ: "tanh", "hardtanh", any elementwise callable, such as ``torch.relu``, or None for the identity.
    mix
        Whether there is a W, and a b; else the coupling is σ(A x).
    t
        Start and end.
    momentum
        A module that makes the momentum at the start of x, ``torch.nn.Identity()`` for that of GraphCON. None: zero.
    solver
        Default: dprkn6 at tolerances of 1e-3.

    Raises
    ------
    ValueError
        For sizes below 1, `channels` that do not divide into `heads`, a negative `source`, or coefficients that are
        not allowed.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.graphs import GraphHeavyBall
    >>> layer = GraphHeavyBall(8, gamma=0.5, xi=1.0, t=(0.0, 4.0))
    >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    >>> layer(torch.randn(3, 8), edge_index, torch.linspace(0, 4, 5)).shape
    torch.Size([5, 3, 8])
    """

    def __init__(
        self,
        size: int,
        heads: int = 4,
        channels: int | None = None,
        *,
        gamma: float | Tensor | OfTime | None = None,
        xi: float | Tensor | OfTime | None = None,
        trainable: bool = True,
        activation: str | Activation | None = "tanh",
        mix: bool = True,
        nonlinear: bool = False,
        source: float = 0.0,
        t: Sequence[float] = (0.0, 1.0),
        momentum: nn.Module | None = None,
        solver: SolverSettings | None = None,
    ) -> None:
        check_at_least(size=size)
        attention = GraphAttention(size, heads, channels)
        neighbours = Neighbours(attention if nonlinear else None)
        field = Coupling(neighbours, nn.Linear(size, size) if mix else nn.Identity(), as_activation(activation), source)
        system = GeneralizedHeavyBall(field, gamma, xi, None, trainable=trainable)
        super().__init__(system, attention, nonlinear, source, {"t": t, "momentum": momentum, "solver": solver})
