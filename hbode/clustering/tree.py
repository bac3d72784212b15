"""The tree of a treelet decomposition: as scipy draws it, and as clusters."""

from __future__ import annotations

import numpy as np

from .rotations import Array, Indices, Rotations


def linkage(rotations: Rotations) -> Array:
    """Return the merges in the form of `scipy.cluster.hierarchy`, shape (n - 1, 4).

    Heights are 1 - |correlation| of what was merged. A merged variable may be closer to a third one than its two parts
    were to each other, which would draw a branch downwards: heights are raised to those of the merges before.
    """
    n = len(rotations) + 1
    node, count = np.arange(n), np.ones(n, np.intp)
    merged = np.empty((n - 1, 4))
    merged[:, 2] = np.maximum.accumulate(1 - rotations.correlation)
    for i, (k, d) in enumerate(zip(rotations.kept, rotations.dropped, strict=True)):
        count[k] += count[d]
        merged[i, :2] = sorted((node[k], node[d]))
        merged[i, 3] = count[k]
        node[k] = n + i
    return merged


def representatives(rotations: Rotations, level: int) -> Indices:
    """Return for each variable the active one that it belongs to after `level` rotations, shape (n,)."""
    found = np.arange(len(rotations) + 1)
    for i in range(level - 1, -1, -1):
        found[rotations.dropped[i]] = found[rotations.kept[i]]
    return found


def clusters(rotations: Rotations, n_clusters: int, smallest: int) -> Indices:
    """Return n_clusters clusters of `smallest` members and more, numbered by their first members; -1: in none, (n,).

    They are those after the most rotations that leave so many clusters of that size. Where none do, and for `smallest`
    1, there are n_clusters clusters of any size.
    """
    n = len(rotations) + 1
    level, enough, large = n - n_clusters, 1, 0
    count = np.ones(n, np.intp)
    for i, (k, d) in enumerate(zip(rotations.kept, rotations.dropped, strict=True)):
        large -= int(count[k] >= smallest) + int(count[d] >= smallest)
        count[k] += count[d]
        large += int(count[k] >= smallest)
        if large == n_clusters and smallest > 1:
            level, enough = i + 1, smallest
    _, first, labels, sizes = np.unique(
        representatives(rotations, level), return_index=True, return_inverse=True, return_counts=True
    )
    chosen = np.flatnonzero(sizes >= enough)
    number = np.full(len(sizes), -1)
    number[chosen[np.argsort(first[chosen])]] = np.arange(len(chosen))
    return number[labels]
