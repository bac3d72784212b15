"""Free runs over stretches: by Newton's method over all steps, or by one solve."""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from ....models.continuous import NeuralStateSpace, PositionReadout, Simulation, solve_all_steps
from .stretches import Stretches


@torch.no_grad()
def free_run(
    model: NeuralStateSpace, given: Stretches, start: Tensor, guess: Tensor | None = None, compile: bool = False
) -> Simulation:
    """Simulate stretches from states at their first samples.

    Both ways give the same to rounding: without compiling, all steps are solved at once, from the states of a like
    simulation, and where that does not converge they follow each other.
    """
    if not compile:
        states = solve_all_steps(model, given.t, given.u, start, guess)
        if states is not None:
            return Simulation(model.read(states, given.values), states)
    return model.simulate(given.t, given.inputs, start, compile=compile)


def measured_states(model: NeuralStateSpace, given: Stretches) -> Tensor | None:
    """Return the states that outputs are, with their slopes for momenta, as a guess; None where outputs show none.

    What was not measured is bridged by monotone cubics, and held before the first and behind the last value.
    """
    readout, count = model.readout, given.y.shape[1]
    seen = isinstance(readout, PositionReadout) and not readout.absolute and readout.outputs == model.size
    known = ~given.y.isnan()
    if not seen or count < 3 or bool((known.sum(1) < 2).any()):
        return None
    if given.t.ndim == 1 and bool(known.all()):
        y = given.y.transpose(0, 1)
        slope = torch.gradient(y, spacing=(given.t.to(y),), dim=0)[0]
    else:
        t = given.t.expand(len(given), -1).numpy()
        made = np.zeros((2, count, len(given), given.y.shape[2]))
        for b, i in np.ndindex(*made.shape[2:]):
            rows = known[b, :, i].numpy()
            curve = PchipInterpolator(t[b][rows], given.y[b, :, i].numpy()[rows])
            inside = (t[b] >= curve.x[0]) & (t[b] <= curve.x[-1])
            made[0, :, b, i] = curve(t[b].clip(curve.x[0], curve.x[-1]))
            made[1, inside, b, i] = curve(t[b][inside], 1)
        y, slope = torch.as_tensor(made, dtype=given.y.dtype)
    return torch.stack((y, slope), 1) if model.system.second_order else y
