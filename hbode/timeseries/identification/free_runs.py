"""Free runs over stretches: by Newton's method over all steps, or by one solve."""

from __future__ import annotations

import torch
from torch import Tensor

from ...models.continuous import NeuralStateSpace, PositionReadout, Simulation, solve_all_steps
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
    """Return the states that outputs are, with differences for momenta, as a guess; None where outputs show none."""
    readout, count = model.readout, given.y.shape[1]
    seen = isinstance(readout, PositionReadout) and not readout.absolute and readout.outputs == model.size
    if not seen or count < 3 or given.t.ndim == 2 or bool(given.y.isnan().any()):
        return None
    y = given.y.transpose(0, 1)
    if not model.system.second_order:
        return y
    return torch.stack((y, torch.gradient(y, spacing=(given.t.to(y),), dim=0)[0]), 1)
