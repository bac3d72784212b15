"""Graphs whose nodes are to be classified from few labels: a file, a block model, neighbours among digits.

Samples are numbers of nodes (n,) with their labels (n,); what they share are the features (N, F) and the edges (2, E).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...lazy import optional
from ...timeseries import DataError
from ..experiment import Part, Splits

KEYS = {
    *("feat_data", "feat_indices", "feat_indptr", "feat_shape"),
    *("edges", "labels", "train_idx", "val_idx", "test_idx"),
}


def citations(path: Path) -> Splits:
    """Return the graph of an .npz file.

    It holds features as a compressed sparse matrix (`feat_data`, `feat_indices`, `feat_indptr`, `feat_shape`),
    undirected `edges` (E, 2), `labels` (N,) and the nodes of the three parts (`train_idx`, `val_idx`, `test_idx`).

    Raises
    ------
    DataError
        If it cannot be read, or lacks any of these.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as an .npz file ({error})") from None
    if missing := sorted(KEYS - found.keys()):
        raise DataError(f"{path}: must hold {', '.join(sorted(KEYS))}; there is no {', '.join(missing)}")
    x = np.zeros(found["feat_shape"], np.float32)
    rows = np.repeat(np.arange(len(x)), np.diff(found["feat_indptr"]))
    x[rows, found["feat_indices"]] = found["feat_data"]
    parts = [found[f"{name}_idx"] for name in ("train", "val", "test")]
    return _splits(x, found["edges"], found["labels"], parts, "The split of the file.")


def block_model(
    nodes: int = 1000, channels: int = 50, degree: float = 6.0, edge_signal: float = 1.3, signal: float = 25.0
) -> Splits:
    """Return a contextual stochastic block model: two classes, seen in edges and in Gaussian features.

    Deshpande, Sen, Montanari, Mossel, "Contextual stochastic block models", NeurIPS 2018, equations 1 to 3: a node has
    `degree` edges on average, (degree + λ √degree) / 2 of them within its class; λ is `edge_signal`, μ `signal`.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, nodes)
    sign = 2.0 * labels - 1
    excess = edge_signal * np.sqrt(degree)
    chance = (degree + excess * sign * sign[:, None]) / nodes
    edges = np.argwhere(np.triu(rng.random((nodes, nodes)) < chance, 1))
    direction = rng.standard_normal(channels) / np.sqrt(channels)
    x = np.sqrt(signal / nodes) * sign[:, None] * direction + rng.standard_normal((nodes, channels)) / np.sqrt(channels)
    note = f"A contextual stochastic block model of {nodes} nodes, degree {degree:g}, drawn once."
    return _splits(x * np.sqrt(channels), edges, labels, _drawn(rng, nodes, nodes // 20), note)


def digit_neighbours(count: int = 8) -> Splits:
    """Return scikit-learn's 1,797 digits, with edges to the `count` nearest neighbours of each."""
    found = optional("sklearn.datasets").load_digits()
    x = found.data / 16
    edges = optional("sklearn.neighbors").kneighbors_graph(x, count)
    edges = np.argwhere(np.triu((edges + edges.T).toarray(), 1))
    parts = _drawn(np.random.default_rng(0), len(x), 100)
    note = f"scikit-learn's 1,797 digits of 8 × 8 pixels, edges between {count} nearest neighbours."
    return _splits(x, edges, found.target, parts, note)


def _drawn(rng: np.random.Generator, nodes: int, labelled: int) -> list[np.ndarray]:
    """Return the nodes of the parts: some with labels, three times as many to validate, and all others."""
    return np.split(rng.permutation(nodes), [labelled, 4 * labelled])


def _splits(x: np.ndarray, edges: np.ndarray, labels: np.ndarray, parts: list[np.ndarray], note: str) -> Splits:
    """Return nodes with labels in three parts; edges (E, 2) are undirected."""
    y = torch.from_numpy(labels).long()

    def part(nodes: np.ndarray) -> Part:
        rows = torch.from_numpy(nodes).long()
        return rows, y[rows]

    both: Tensor = torch.from_numpy(np.concatenate((edges, edges[:, ::-1]))).long().T.contiguous()
    train, validation, test = map(part, parts)
    return Splits(train, validation, test, shared=(torch.from_numpy(x).float(), both), notes=(note,))
