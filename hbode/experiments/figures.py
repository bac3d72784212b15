"""What all experiments draw: errors and evaluations by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..reporting.style import Picture, log_scale, whole_ticks
from .experiment import Experiment, Splits, Trial


def save_figures(folder: Path, experiment: Experiment, data: Splits, trials: Sequence[Trial]) -> list[str]:
    """Write training.png, and the figure of the experiment; return their names."""
    good = [one for one in trials if not one.failure]
    own = f"{experiment.name}.png"
    figures = {own: experiment.figure(data, good), "training.png": training_figure(experiment, good)}
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    for name, figure in drawn.items():
        figure.savefig(folder / name, dpi=150)
    return list(drawn)


def training_figure(experiment: Experiment, trials: Sequence[Trial]) -> Picture | None:
    """Draw means over seeds by epoch, and the least and the largest; None where nothing was trained."""
    trained = [(one.model, one.history) for one in trials if one.history is not None]
    if not trained:
        return None
    metric = experiment.metric
    panels = [
        (f"train {experiment.label}", "train", metric),
        (f"validation {experiment.label}", "validation", metric),
        ("evaluations in a batch, forward", "train", "nfe"),
        ("evaluations in a batch, backward", "train", "nfe_backward"),
    ]
    panels = [one for one in panels if all(one[2] in getattr(history, one[1]) for _, history in trained)]
    figure = Picture(11, 3.3 * (len(panels) // 2))
    for panel, (label, side, name) in zip(figure.subplots(len(panels) // 2, 2).flat, panels, strict=True):
        for model, look in experiment.looks.items():
            found = [getattr(history, side)[name] for of, history in trained if of == model]
            if not found:
                continue
            rows = np.array([row[: min(map(len, found))] for row in found])
            epochs = np.arange(1, rows.shape[1] + 1)
            panel.plot(epochs, rows.mean(0), **look, markevery=max(len(epochs) // 8, 1), label=model.upper())
            panel.fill_between(epochs, rows.min(0), rows.max(0), color=look["color"], alpha=0.14, linewidth=0)
        panel.set(xlabel="epoch", ylabel=label)
        whole_ticks(panel)
        if panel.get_ylim()[0] > 0 and not experiment.higher:
            log_scale(panel, "y")
        panel.grid(alpha=0.25)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside upper center", ncols=min(len(experiment.looks), 6))
    return figure
