"""The initial state of a simulation, from what was measured at first."""

from __future__ import annotations

import torch
from torch import Tensor

from ....models.continuous import NeuralStateSpace
from ....models.continuous.sensitivities import Linearised, affine_scan
from .free_runs import measured_states
from .stretches import Stretches


@torch.no_grad()
def guess(model: NeuralStateSpace, given: Stretches) -> Tensor:
    """Return states with the first outputs as positions, and their slopes as momenta: (2, B, d) or (B, d).

    By the parabola through the first three values of each output, the line through two; 0 for what was not measured.
    """
    known = ~given.y.isnan()
    t = (given.t if given.t.ndim == 2 else given.t.expand(len(given), -1)).to(given.y).unsqueeze(-1).expand_as(given.y)
    first = (~known).to(torch.uint8).argsort(dim=1, stable=True)[:, :3]
    (y, *later), (t0, *times) = (x.gather(1, first).unbind(1) for x in (given.y.nan_to_num(0.0), t))
    count, slope = known.sum(1), torch.zeros_like(y)
    if later:
        slope = torch.where(count > 1, (later[0] - y) / (times[0] - t0), 0.0)
    if len(later) > 1:
        bend = (later[1] - later[0]) / (times[1] - times[0]) - slope
        slope = torch.where(count > 2, slope - bend / (times[1] - t0) * (times[0] - t0), slope)
    y = y - slope * (t0 - t[:, 0])
    h, m = (torch.nn.functional.pad(x, (0, max(0, model.size - x.shape[-1])))[:, : model.size] for x in (y, slope))
    return torch.stack((h, m)) if model.system.second_order else h


NOISE = 0.03
"""What the deviation of an initial state from those of training is weighed against, in standardised outputs."""
STARTS = 12
LARGEST = 3.0
"""How far a standardised state may move in a round."""


@torch.no_grad()
def estimate(model: NeuralStateSpace, given: Stretches, rounds: int = 15) -> Tensor:
    """Return the states from which the simulation is nearest to what was measured.

    By Gauss and Newton's method for the initial states and all that follow them at once: in each round the steps are
    linearised, their defects and the deviations of the outputs make one linear problem. Where the model has a bank of
    training states, from the `STARTS` of them that were followed by what is nearest, side by side, with their mean and
    covariance as a prior; else from `guess`, with all later states as they were measured, where outputs show them.

    Parameters
    ----------
    model
        With fixed steps.
    given
        The first samples of each simulation.
    rounds
        At most.
    """
    first = model.flat(guess(model, given)).unsqueeze(0)
    begin = first if model.bank is None else torch.cat((model.bank.nearest(given.y, STARTS), first))
    many, batch, n = begin.shape
    t = given.t if given.t.ndim == 1 else given.t.repeat(many, 1)
    steps = Linearised(model, t, given.u.repeat(1, many, 1, 1))
    y = given.y.repeat(many, 1, 1).transpose(0, 1)
    known, target = ~y.isnan(), y.nan_to_num(0.0)
    x = begin.reshape(1, many * batch, n).repeat(len(y), 1, 1)
    near = None if model.bank is not None else measured_states(model, given)
    if near is not None:
        x[1:] = model.flat(near)[1:]
    eye = torch.eye(n, dtype=x.dtype).expand(many * batch, n, n)
    if model.bank is not None:
        mean, root = model.bank.prior()
    cost = x.new_full((many * batch,), torch.inf)
    for _ in range(rounds):
        out, a = steps.maps("step", x[:-1])
        read, c = steps.maps("read", x)
        sources = torch.cat(((out - x[1:]).unsqueeze(-1), torch.zeros_like(a)), -1)
        sources[0, :, :, 1:] = a[0]
        moves = torch.cat((torch.cat((torch.zeros_like(eye[..., :1]), eye), -1).unsqueeze(0), affine_scan(a, sources)))
        r = torch.where(known, read - target, 0.0)
        seen = torch.where(known.unsqueeze(-1), c @ moves, 0.0).transpose(0, 1).flatten(1, 2)
        right = seen[..., :1] + r.transpose(0, 1).flatten(1).unsqueeze(-1)
        j = seen[..., 1:]
        cost = r.square().sum((0, 2))
        if model.bank is not None:
            away = NOISE * (x[0] - mean) @ root.T
            j = torch.cat((j, (NOISE * root).expand(len(j), -1, -1)), 1)
            right, cost = torch.cat((right, away.unsqueeze(-1)), 1), cost + away.square().sum(1)
        normal = j.mT @ j
        most = normal.diagonal(dim1=1, dim2=2).amax(1).clamp(min=1e-300)
        finite = normal.isfinite().all((1, 2)) & right.isfinite().all((1, 2))
        lost, wide = ~finite, finite.view(-1, 1, 1)
        damped = torch.where(wide, normal + 1e-10 * most.view(-1, 1, 1) * eye, eye)
        own = -torch.linalg.solve(damped, torch.where(wide, j.mT @ right, 0.0)).nan_to_num(0.0, 0.0, 0.0)
        move = (moves @ torch.cat((torch.ones_like(own[:, :1]), own), 1)).squeeze(-1)
        move = torch.where(finite.view(-1, 1), move, 0.0).nan_to_num(0.0).clamp(-LARGEST, LARGEST)
        cost = torch.where(lost, torch.inf, cost)
        x = x + move
        if not lost.all() and float(move.abs().max()) <= 1e-9 * (1 + float(x.abs().max())):
            break
    best = cost.view(many, batch).argmin(0)
    return model.whole(x[0].view(many, batch, n)[best, torch.arange(batch)])
