"""Attention of nodes to their neighbours."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...setup.arguments import check_at_least
from .graph import Graph


class GraphAttention(nn.Module):
    """Weights of the edges by scaled dot products of queries and keys, the mean over several heads.

    The weights of the edges into a node are positive and add up to one.

    Parameters
    ----------
    size
        Channels C of a node.
    heads
        How many, H.
    channels
        Of queries and keys of all heads together. Default: `size`, rounded up to whole channels a head.

    Raises
    ------
    ValueError
        For sizes below 1, or `channels` that do not divide into `heads`.

    Notes
    -----
    Scaled dot products as in Vaswani et al. (2017); the mean over heads makes one row-stochastic matrix, as in
    Chamberlain et al., "GRAND: graph neural diffusion", ICML 2021, section 4.

    Examples
    --------
    >>> from hbode.models.graphs import GraphAttention
    >>> attention = GraphAttention(8, heads=2)
    """

    def __init__(self, size: int, heads: int = 4, channels: int | None = None) -> None:
        super().__init__()
        check_at_least(size=size, heads=heads)
        channels = heads * math.ceil(size / heads) if channels is None else channels
        check_at_least(channels=channels)
        if channels % heads:
            raise ValueError(f"channels must be a multiple of heads={heads}, got {channels}")
        self.heads = heads
        self.query, self.key = nn.Linear(size, channels), nn.Linear(size, channels)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """Return the weights of the edges of a graph for nodes x (N, C), shape (E,)."""
        q, k = self.query(x), self.key(x)
        each = q.shape[1] // self.heads
        pairs = zip(q.split(each, 1), k.split(each, 1), strict=True)
        scores = torch.stack([graph.dots(*pair) for pair in pairs], 1) / math.sqrt(each)
        return graph.softmax(scores).mean(1)
