"""How stiff the field of a flow is while it learns, and what explicit and proximal steps evaluate on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...analysis import stiffness_at
from ...integrate import hbodeint
from ...models.flows import ContinuousFlow, HeavyBallFlow
from ...reporting.style import LINES, Picture, log_scale
from ...solution import Solution, of_batch
from ...systems import FirstOrder, System
from ..experiment import Trial

LOOKS = {"lienard": LINES[3], "heavy-ball": LINES[2], "ffjord": LINES[0]}
"""The flows by name, and how they are drawn."""
POINTS, TOL = 32, 1e-4
"""Points, and relative and absolute tolerance, that a learned field is solved with."""
METHODS = {"dopri5": "solid", "prox_bdf2": "dotted", "prox_bdf3": "dashed"}
"""The methods it is solved by, and their lines."""


@torch.no_grad()
def learned(flow: HeavyBallFlow | ContinuousFlow, x: Tensor) -> dict[str, float]:
    """Return the stiffness index max |λ| T of the field along the paths of some points, and what solvers evaluate."""
    h, m = x[:POINTS], None
    system: System
    if isinstance(flow, HeavyBallFlow):
        system, m = flow.system, flow.momentum(h).mean
    else:
        system = FirstOrder(flow.f)

    def solved(method: str) -> Solution:
        return hbodeint(system, h, torch.linspace(*flow.t, 5), m0=m, method=method, rtol=TOL, atol=TOL)

    solutions = {method: solved(method) for method in METHODS}
    path = solutions["dopri5"]
    rates = stiffness_at(system, path.t, path.h, path.m)
    index = float(rates.largest.amax()) * (flow.t[1] - flow.t[0])
    return {"stiffness": index, **{f"nfe_{name}": of_batch(one.stats.nfe) for name, one in solutions.items()}}


def cost_figure(trials: Sequence[Trial]) -> Picture:
    """Draw stiffness and evaluations of the learned fields by epoch, means over the seeds."""
    figure = Picture(9, 3.8)
    left, right = figure.subplots(1, 2)
    for name, look in LOOKS.items():
        found = [one.history.validation for one in trials if one.model == name and one.history is not None]
        if not found:
            continue
        mean = {key: np.mean([row[key] for row in found], 0) for key in found[0]}
        epochs = 1 + np.arange(len(mean["stiffness"]))
        left.plot(epochs, mean["stiffness"], color=look["color"])
        for method, line in METHODS.items():
            label = f"{name.upper()}, {method}"
            right.plot(epochs, mean[f"nfe_{method}"], color=look["color"], linestyle=line, label=label)
    left.set(xlabel="epoch", ylabel="max |λ| T of the learned field")
    right.set(xlabel="epoch", ylabel=f"evaluations at tolerance {TOL:g}")
    log_scale(right, "y")
    for panel in (left, right):
        panel.grid(alpha=0.25)
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
