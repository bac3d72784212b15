"""The initial state of a simulation, from what was measured at first."""

from __future__ import annotations

import torch
from torch import Tensor

from ...models.continuous import NeuralStateSpace, sensitivities
from .free_runs import free_run
from .stretches import Stretches


@torch.no_grad()
def guess(model: NeuralStateSpace, given: Stretches) -> Tensor:
    """Return states with the first outputs as positions, and their slopes as momenta: (2, B, d) or (B, d)."""
    y, d = given.y.nan_to_num(0.0), model.size
    h = torch.nn.functional.pad(y[:, 0], (0, max(0, d - y.shape[-1])))[:, :d]
    if not model.system.second_order:
        return h
    if y.shape[1] < 2:
        return torch.stack((h, torch.zeros_like(h)))
    # the slope at the first sample of the parabola through the first three, or of the line through two
    t = (given.t if given.t.ndim == 2 else given.t.expand(len(y), -1)).to(y.dtype).unsqueeze(-1)
    slope = (y[:, 1] - y[:, 0]) / (t[:, 1] - t[:, 0])
    if y.shape[1] > 2:
        later = (y[:, 2] - y[:, 1]) / (t[:, 2] - t[:, 1])
        slope = slope - (later - slope) / (t[:, 2] - t[:, 0]) * (t[:, 1] - t[:, 0])
    m = torch.nn.functional.pad(slope, (0, max(0, d - y.shape[-1])))[:, :d]
    return torch.stack((h, m))


@torch.no_grad()
def estimate(
    model: NeuralStateSpace, given: Stretches, start: Tensor | None = None, rounds: int = 8, damping: float = 1e-6
) -> Tensor:
    """Return the states from which the simulation is nearest to what was measured: by Levenberg-Marquardt.

    Parameters
    ----------
    model
        With fixed steps.
    given
        The first samples of each simulation.
    start
        Where to begin (default: `guess`).
    rounds
        Steps, at most.
    damping
        Share of the diagonal of the normal equations that is added to it, at first.
    """
    x = guess(model, given) if start is None else start
    second = model.system.second_order
    pieces, known = given.u, ~given.y.isnan()
    last: Tensor | None = None
    target = given.y.nan_to_num(0.0)

    def residual(x: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal last
        simulation = free_run(model, given, x, last)
        last = simulation.state if bool(simulation.state.isfinite().all()) else None
        return torch.where(known, simulation.y.transpose(0, 1) - target, 0.0).nan_to_num(1e3), simulation.state

    r, states = residual(x)
    cost = r.square().sum((1, 2))
    share = torch.full_like(cost, damping)
    for _ in range(rounds):
        j = sensitivities(model, given.t, pieces, states, parameters=False).state.transpose(0, 1)
        j = torch.where(known.unsqueeze(-1), j, 0.0).flatten(1, 2).nan_to_num(0.0)
        normal, right = j.mT @ j, (j.mT @ r.flatten(1).unsqueeze(-1))
        scale = normal.diagonal(dim1=1, dim2=2)
        damped = normal + torch.diag_embed(share.unsqueeze(1) * scale + 1e-9 * scale.amax(1, keepdim=True) + 1e-300)
        move = torch.linalg.solve(damped, right).squeeze(-1)
        trial = x - (move.view(len(move), 2, -1).transpose(0, 1) if second else move)
        again, states_again = residual(trial)
        after = again.square().sum((1, 2))
        better = after < cost
        wide = better.view(-1, 1)
        x = torch.where(wide, trial, x)
        r = torch.where(better.view(-1, 1, 1), again, r)
        states = torch.where(wide, states_again, states)
        gain = torch.where(better, (cost - after) / cost.clamp(min=1e-300), 0.0)
        cost, share = torch.where(better, after, cost), torch.where(better, share / 10, share * 10)
        if float(gain.max()) < 1e-8 and bool((share > 1e-2).all() | (gain < 1e-8).all() & better.any()):
            break
    return x
