"""How stiff learned dynamics are, and what theory says of stiffness and momentum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..analysis import Comparison, Inputs, Scaling, Valley, compare, scaling, stiffness_at
from ..models import ODERNN
from .records import Array
from .windows import Part

WINDOWS = 32
"""Test windows that are looked at."""


@dataclass(frozen=True)
class HiddenStiffness:
    """Of the hidden state while a model forecasts; rates in 1/τ, τ the time unit of the model.

    Attributes
    ----------
    t
        Time since the last observation, median over the windows, (H,), in τ.
    largest, ratio
        max |λ| and the stiffness ratio (see `hbode.analysis.stiffness`), (H, W).
    index
        Stiffness index of each forecast, from its largest |λ|, (W,).
    """

    t: Array
    largest: Array
    ratio: Array
    index: Array


@torch.no_grad()
def hidden_stiffness(model: ODERNN, part: Part, observed: int) -> HiddenStiffness:
    """Measure stiffness along the forecasts of the first windows of a part."""
    t, x = part.t[:WINDOWS], part.x[:WINDOWS]
    states = model(t, x[:, :observed]).states
    ahead = t[:, observed:]
    h, m = states.chunk(2, -1) if model.system.second_order else (states, None)
    found = stiffness_at(model.system, ahead, h, m, batch=True)
    since = (ahead - t[:, observed - 1 : observed]).median(0).values
    return HiddenStiffness(
        *(
            np.asarray(values.double().cpu())
            for values in (since, found.largest, found.ratio, found.largest.amax(0) * found.span)
        )
    )


@dataclass(frozen=True, eq=False)
class Momentum:
    """The same stiff gradient field in several systems, and over the size of its stiffest eigenvalue."""

    comparison: Comparison
    scaling: Scaling


def momentum(steepness: float = 100.0, span: float = 2.0) -> Momentum:
    """Compare NODE, SONODE, HBNODE and GHBNODE on a stiff valley, and follow NODE and HBNODE over a decade of L."""
    h0 = torch.randn(8, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = Inputs(h0, torch.linspace(0.0, span, 17, dtype=torch.float64))
    sizes = [steepness * 10 ** (k / 2) for k in range(3)]
    return Momentum(
        compare(Valley(steepness), inputs, tolerance=1e-4, repeats=1),
        scaling(Valley, sizes, inputs, tolerance=1e-3),
    )
