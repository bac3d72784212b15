"""The figure of a tree of trajectories: dendrogram and traces in the colours of the clusters."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy.cluster import hierarchy

from ..reporting.style import Picture, line
from ..timeseries.records import Records
from .rotations import Array, Indices
from .samples import KernelTreelets

PANELS = 4
"""Channels that are drawn of runs, at most."""
LEAVES = 60
"""Of the dendrogram, at most; the branches below are left out."""
GREY = "#8c8c8c"


def tree_figure(records: Records, model: KernelTreelets, of: str = "runs") -> Picture:
    """Draw the tree of a model that was fitted to `trajectory_features(records, of)`, and the traces in its colours.

    Of runs, the first channels over time: windows of one run lie where they were cut from. Of channels, the
    standardised traces of the first run, from the bottom up in the order of the tree.

    Raises
    ------
    ValueError
        For a model that was fitted to another number of runs or channels.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.clustering import KernelTreelets, trajectory_features, tree_figure, windows
    >>> from hbode.timeseries import Records
    >>> t = np.arange(200) / 10
    >>> cut = windows(Records.from_arrays(t, np.sin(t)[:, None], outputs=["x"]), rows=20)
    >>> figure = tree_figure(cut, KernelTreelets(n_clusters=2).fit(trajectory_features(cut)))
    """
    names = [run.name or str(i) for i, run in enumerate(records)] if of == "runs" else list(map(str, records.channels))
    if len(model.labels_) != len(names):
        raise ValueError(f"model must be fitted to the {of} of the records, {len(names)}, got {len(model.labels_)}")
    rows = min(len(records.channels), PANELS) if of == "runs" else 1
    figure = Picture(12, 1.2 + max(2.2 * rows, 3.0))
    grid = figure.add_gridspec(rows, 2, width_ratios=(1, 1.9))
    order = _dendrogram(figure.add_subplot(grid[:, 0]), model, names)
    panels = [figure.add_subplot(grid[i, 1]) for i in range(rows)]
    values = [np.concatenate((run.u, run.y), 1) for run in records]
    if of == "runs":
        for i, panel in enumerate(panels):
            panel.sharex(panels[0])
            panel.set_ylabel(str(records.channels[i]))
            for run, x, label in zip(records, values, model.labels_, strict=True):
                panel.plot(run.t, x[:, i], **_trace(label))
    else:
        _stacked(panels[0], records[0].t, values[0], model.labels_, order, names)
    panels[-1].set_xlabel(str(records.time))
    for panel in panels:
        panel.grid(alpha=0.25)
        panel.margins(x=0.01)
    sizes = np.bincount(model.labels_)
    handles = [panels[0].plot([], [], **_trace(i) | {"linewidth": 2.5})[0] for i in range(len(sizes))]
    figure.legend(handles, [f"cluster {i}: {size}" for i, size in enumerate(sizes)], loc="outside upper right", ncols=7)
    return figure


def _trace(label: Any) -> dict[str, Any]:
    return {"color": line(int(label))["color"], "linewidth": 1.2}


def _dendrogram(panel: Axes, model: KernelTreelets, names: list[str]) -> Indices:
    """Draw the tree from left to right; return its leaves from the bottom up, as rows of the data."""
    drawn, rows = model.linkage_, model.sample_indices_
    label = [*model.labels_[rows].tolist()]  # of nodes; None where clusters meet
    for one, other in model.children_:
        label.append(label[one] if label[one] == label[other] else None)

    def color(node: int) -> str:
        return GREY if label[node] is None else str(line(label[node])["color"])

    few = len(rows) <= LEAVES
    found = hierarchy.dendrogram(
        drawn,
        p=LEAVES,
        truncate_mode=None if few else "lastp",
        orientation="left",
        ax=panel,
        link_color_func=color,
        labels=[names[i] for i in rows] if few else None,
        no_labels=not few,
        leaf_font_size=8,
    )
    panel.set_xlabel("1 - |correlation| of what is merged")
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    return rows[[i for i in found["leaves"] if i < len(rows)]]


def _stacked(panel: Axes, t: Array, x: Array, labels: Indices, order: Indices, names: list[str]) -> None:
    deviation = np.nanstd(x, 0)
    scaled = (x - np.nanmean(x, 0)) / np.where(deviation > 0, deviation, 1.0)
    for place, i in enumerate(order):
        panel.plot(t, scaled[:, i] / 5 + place, **_trace(labels[i]))
    panel.set_yticks(range(len(order)), [names[i] for i in order], fontsize=8)
