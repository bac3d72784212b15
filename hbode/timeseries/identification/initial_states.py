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


NOISE = 0.03
"""What the deviation of an initial state from those of training is weighed against, in standardised outputs."""
STARTS = 12


@torch.no_grad()
def estimate(model: NeuralStateSpace, given: Stretches, rounds: int = 8) -> Tensor:
    """Return the states from which the simulation is nearest to what was measured: by Levenberg-Marquardt.

    Where the model has a bank of training states, from the `STARTS` of them that were followed by what is nearest, with
    their mean and covariance as a prior; else from `guess`.

    Parameters
    ----------
    model
        With fixed steps.
    given
        The first samples of each simulation.
    rounds
        Steps, at most.
    """
    if model.bank is None:
        return _improved(model, given, guess(model, given), rounds)[0]
    found = [_improved(model, given, _as_state(model, x), rounds) for x in model.bank.nearest(given.y, STARTS)]
    best = torch.stack([cost for _, cost in found]).argmin(0)
    flat = torch.stack([_as_rows(model, x) for x, _ in found])
    return _as_state(model, flat[best, torch.arange(len(best))])


def _as_state(model: NeuralStateSpace, rows: Tensor) -> Tensor:
    return rows.view(len(rows), 2, -1).transpose(0, 1) if model.system.second_order else rows


def _as_rows(model: NeuralStateSpace, state: Tensor) -> Tensor:
    return state.transpose(0, 1).flatten(1) if model.system.second_order else state


def _improved(model: NeuralStateSpace, given: Stretches, x: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Return better states, and what they cost, (B,)."""
    known = ~given.y.isnan()
    target = given.y.nan_to_num(0.0)
    last: Tensor | None = None
    mean, root = (None, None) if model.bank is None else model.bank.prior()

    def residual(x: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal last
        simulation = free_run(model, given, x, last)
        last = simulation.state if bool(simulation.state.isfinite().all()) else None
        r = torch.where(known, simulation.y.transpose(0, 1) - target, 0.0).nan_to_num(1e3).flatten(1)
        if mean is not None and root is not None:
            r = torch.cat((r, NOISE * (_as_rows(model, x) - mean) @ root.T), 1)
        return r, simulation.state

    r, states = residual(x)
    cost = r.square().sum(1)
    share = torch.full_like(cost, 1e-6)
    for _ in range(rounds):
        j = sensitivities(model, given.t, given.u, states, parameters=False).state.transpose(0, 1)
        j = torch.where(known.unsqueeze(-1), j, 0.0).flatten(1, 2).nan_to_num(0.0)
        if root is not None:
            j = torch.cat((j, (NOISE * root).expand(len(j), -1, -1)), 1)
        normal, right = j.mT @ j, j.mT @ r.unsqueeze(-1)
        scale = normal.diagonal(dim1=1, dim2=2)
        damped = normal + torch.diag_embed(share.unsqueeze(1) * scale + 1e-9 * scale.amax(1, keepdim=True) + 1e-300)
        move = torch.linalg.solve(damped, right).squeeze(-1)
        trial = x - _as_state(model, move)
        again, states_again = residual(trial)
        after = again.square().sum(1)
        better = after < cost
        wide = better.view(-1, 1)
        x = torch.where(wide, trial, x)
        r = torch.where(wide, again, r)
        states = torch.where(wide, states_again, states)
        gain = torch.where(better, (cost - after) / cost.clamp(min=1e-300), 0.0)
        cost, share = torch.where(better, after, cost), torch.where(better, share / 10, share * 10)
        if bool((gain < 1e-8).all()) and (bool(better.all()) or bool((share > 1e-3).all())):
            break
    return x, cost
