"""Edges of a graph, and what is computed along them: sums over neighbours, products of ends, a softmax.

Everything is O(edges): no array of edges × channels is ever made. The sum and the products are each other's
derivatives, so that both have gradients of any order.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Graph(nn.Module):
    """A directed graph from an edge list, as a module without parameters, which moves with the model that holds it.

    Parameters
    ----------
    edge_index
        Sources and targets of the edges, shape (2, E), whole numbers from 0 to `nodes` - 1: the convention of PyTorch
        Geometric, whose ``data.edge_index`` fits. An undirected edge is listed in both directions, an edge that is
        listed twice counts twice.
    nodes
        How many there are, N.
    self_loops
        Give an edge to itself to each node without one. Without it a node may have no neighbours, and any sum over
        them is zero.

    Attributes
    ----------
    nodes
        N.
    sources, targets
        Of the edges in the order that weights have, that of their targets; shape (E,), loops included.

    Raises
    ------
    TypeError, ValueError
        For an `edge_index` of another dtype or shape, or with a node that there is not; for fewer nodes than one.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.graphs import Graph
    >>> graph = Graph(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), nodes=3, self_loops=False)
    >>> graph.targets.tolist()
    [0, 1, 1, 2]
    >>> graph.propagate(torch.ones(4), torch.tensor([[1.0], [2.0], [4.0]])).flatten().tolist()
    [2.0, 5.0, 2.0]
    """

    sources: Tensor
    targets: Tensor
    starts: Tensor
    order: Tensor
    reverse_sources: Tensor
    reverse_starts: Tensor

    def __init__(self, edge_index: Tensor, nodes: int, *, self_loops: bool = True) -> None:
        super().__init__()
        if not isinstance(edge_index, Tensor) or edge_index.dtype not in (torch.int64, torch.int32):
            got = edge_index.dtype if isinstance(edge_index, Tensor) else type(edge_index).__name__
            raise TypeError(f"edge_index must be a tensor of whole numbers (int64 or int32), got {got}")
        if edge_index.ndim != 2 or len(edge_index) != 2:
            raise ValueError(f"edge_index must have shape (2, E), got {tuple(edge_index.shape)}")
        if nodes < 1:
            raise ValueError(f"nodes must be at least 1, got {nodes}")
        if edge_index.numel() and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < nodes:
            found = f"{int(edge_index.min())} to {int(edge_index.max())}"
            raise ValueError(f"edge_index must name nodes from 0 to {nodes - 1}, got {found}")
        self.nodes = nodes
        edges = edge_index.long()
        if self_loops:
            alone = torch.ones(nodes, dtype=torch.bool, device=edges.device)
            alone[edges[0, edges[0] == edges[1]]] = False
            edges = torch.cat((edges, alone.nonzero().T.expand(2, -1)), 1)
        targets, order = edges[1].sort(stable=True)
        sources = edges[0, order]
        back, order = sources.sort(stable=True)
        tensors = {
            "sources": sources,
            "targets": targets,
            "starts": _starts(targets, nodes),
            "order": order,  # of the edges by their sources
            "reverse_sources": targets[order],
            "reverse_starts": _starts(back, nodes),
        }
        for name, x in tensors.items():
            self.register_buffer(name, x, persistent=False)

    def propagate(self, weights: Tensor, x: Tensor) -> Tensor:
        """Return the sums of w_e x_source(e) over the edges e into each node, shape (N, C).

        Parameters
        ----------
        weights
            One for each edge, shape (E,).
        x
            Shape (N, C), real.
        """
        return torch.as_tensor(_Propagate.apply(weights, _wide(x), self, False)).to(x.dtype)

    def dots(self, q: Tensor, k: Tensor) -> Tensor:
        """Return the products q_target(e) · k_source(e) for each edge e, shape (E,), of q and k, shape (N, C).

        In float32 at least, for they go into exponentials.
        """
        return torch.as_tensor(_Dots.apply(_wide(q), _wide(k), self))

    def softmax(self, scores: Tensor) -> Tensor:
        """Return scores (E, H) as weights that are positive and add up to one over the edges into a node."""
        with torch.no_grad():
            most = torch.segment_reduce(scores.detach(), "max", offsets=self.starts, axis=0, unsafe=True)
        weights = (scores - most[self.targets]).exp()
        total = weights.new_zeros(self.nodes, *weights.shape[1:]).index_add(0, self.targets, weights)
        return weights / total[self.targets]

    def extra_repr(self) -> str:
        return f"{self.nodes} nodes, {len(self.sources)} edges"


def as_graph(edges: Tensor | Graph, nodes: int) -> Graph:
    """Return a graph as it is, or that of an `edge_index` with self-loops.

    Raises
    ------
    ValueError
        If it has not so many nodes.
    """
    if not isinstance(edges, Graph):
        return Graph(edges, nodes)
    if edges.nodes != nodes:
        raise ValueError(f"x must have a row for each of the {edges.nodes} nodes of the graph, got {nodes}")
    return edges


def _wide(x: Tensor) -> Tensor:
    """Return x in float32 where it has half precision, for which torch has no sparse products."""
    return x.float() if torch.finfo(x.dtype).bits == 16 else x


def _starts(places: Tensor, nodes: int) -> Tensor:
    """Return where the run of each node starts in sorted places, and the end: shape (N + 1,)."""
    return F.pad(torch.bincount(places, minlength=nodes).cumsum(0), (1, 0))


class _Propagate(torch.autograd.Function):
    """A(w) x, or its transpose; embedding bags are the fastest sparse products of torch on a CPU in float32."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, graph: Graph, reverse: bool) -> Tensor:
        ctx.save_for_backward(weights, x)
        ctx.graph, ctx.reverse = graph, reverse
        places, starts = (graph.reverse_sources, graph.reverse_starts) if reverse else (graph.sources, graph.starts)
        ordered = weights[graph.order] if reverse else weights
        return F.embedding_bag(
            places, x, starts, mode="sum", per_sample_weights=ordered.to(x.dtype), include_last_offset=True
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weights, x), graph, reverse, g = ctx.saved_tensors, ctx.graph, ctx.reverse, grads[0]
        of_weights = of_x = None
        if ctx.needs_input_grad[0]:
            of_weights = _Dots.apply(*((x, g) if reverse else (g, x)), graph)
        if ctx.needs_input_grad[1]:
            of_x = _Propagate.apply(weights, g, graph, not reverse)
        return of_weights, of_x, None, None


class _Dots(torch.autograd.Function):
    """q_target · k_source for each edge."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, graph: Graph) -> Tensor:
        ctx.save_for_backward(q, k)
        ctx.graph = graph
        size = (graph.nodes, graph.nodes)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            zeros = q.new_zeros(len(graph.sources))
            pattern = torch.sparse_csr_tensor(graph.starts, graph.sources, zeros, size, check_invariants=False)
        found: Tensor = torch.sparse.sampled_addmm(pattern, q, k.T, beta=0.0)
        return found.values()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (q, k), graph, g = ctx.saved_tensors, ctx.graph, grads[0]
        of_q = _Propagate.apply(g, k, graph, False) if ctx.needs_input_grad[0] else None
        of_k = _Propagate.apply(g, q, graph, True) if ctx.needs_input_grad[1] else None
        return of_q, of_k, None
