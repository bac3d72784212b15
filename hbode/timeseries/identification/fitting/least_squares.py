"""Fitting a small model by nonlinear least squares, over all stretches at once, their initial states included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from ....models.continuous import NeuralStateSpace, sensitivities
from ....models.continuous.sensitivities import trained
from ...records import Array
from ..runs.free_runs import free_run, measured_states
from ..runs.initial_states import estimate
from ..runs.stretches import Stretches

GAIN = 3e-4
"""The relative gain in the validation error that counts."""
FAR = 1e3
"""The residual of what a simulation did not reach."""


class _Enough(Exception):
    """No better model is to be expected."""


@dataclass
class LeastSquaresResult:
    """What a fit came to: mean square errors (without penalty), one an evaluation; the state that was kept is best."""

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    states: Tensor | None = None
    """The states of the stretches, (T, 2, B, d) or (T, B, d), of the model that was kept."""


def fit_least_squares(
    model: NeuralStateSpace,
    given: Stretches,
    penalty: Mapping[str, float],
    *,
    validation: Callable[[Tensor], float] | None = None,
    evaluations: int = 60,
    patience: int = 10,
    compile: bool = False,
    progress: Callable[[int, float, float], None] | None = None,
    start: Tensor | None = None,
) -> LeastSquaresResult:
    """Fit all parameters, and the initial state of each stretch, by the trust-region method of scipy.

    The Jacobian is that of the computed solution (`sensitivities`). Each stretch is reduced by QR to as many rows as
    it has unknowns, so that the optimiser sees few.

    Parameters
    ----------
    model
        Changed in place; it ends with the parameters of the lowest validation error, or training error without one.
    given
        Stretches to simulate.
    penalty
        For parameters by name: λ, which adds λ θ² to the mean square error.
    validation
        Error of the model as it is, which simulated y (B, T, Cy) for the stretches.
    evaluations
        How often the problem may be simulated and linearised.
    patience
        Evaluations without a validation error that is better by `GAIN`.
    start
        The states that the stretches begin with (default: `estimate`).
    progress
        Called with the number of the evaluation, training and validation error.
    """
    names = trained(model)
    sizes = [x.numel() for x in names.values()]
    weight = torch.cat([torch.full((x.numel(),), penalty.get(name, 0.0)) for name, x in names.items()]).double()
    known = ~given.y.isnan()
    count = float(known.sum())
    target = given.y.nan_to_num(0.0)
    batch, parts = len(given), (1 + model.system.second_order) * model.size
    own = sum(sizes)
    result = LeastSquaresResult()
    mark = np.inf
    best, kept, since = np.inf, [x.detach().clone() for x in names.values()], 0
    near = measured_states(model, given)

    def put(z: Array) -> Tensor:
        theta = torch.as_tensor(z[:own]).split(sizes)
        with torch.no_grad():
            for x, value in zip(names.values(), theta, strict=True):
                x.copy_(value.view_as(x))
        return model.whole(torch.as_tensor(z[own:]).view(batch, parts).to(given.y))

    def taken(x0: Tensor) -> Array:
        flat = model.flat(x0).reshape(-1)
        joined: Array = torch.cat([x.detach().reshape(-1) for x in names.values()] + [flat]).double().numpy()
        return joined

    @torch.no_grad()
    def evaluate(z: Array) -> tuple[Array, Array]:
        nonlocal near, best, kept, since, mark
        x0 = put(z)
        simulation = free_run(model, given, x0, near, compile)
        out = simulation.y.transpose(0, 1)
        reached = out.isfinite()
        missed = torch.where(reached, (out - target).clamp(-FAR, FAR), FAR)
        r = torch.where(known, missed, 0.0).flatten(1).double() / count**0.5
        error = float(r.square().sum())
        if bool(reached.all()) and error < FAR:
            near = simulation.state
            s = sensitivities(model, given.t, given.u, near)
            by = torch.cat((s.state, s.parameters), -1).transpose(0, 1)
            by = torch.where(known.unsqueeze(-1), by, 0.0).flatten(1, 2).double() / count**0.5
        else:
            by = r.new_zeros(batch, r.shape[1], parts + own)
        reduced = torch.linalg.qr(torch.cat((by, r.unsqueeze(-1)), -1), mode="r").R
        rows = reduced.shape[1]
        j = torch.zeros(batch, rows, own + batch * parts, dtype=torch.float64)
        j[:, :, :own] = reduced[:, :, parts:-1]
        for b in range(batch):
            j[b, :, own + b * parts : own + (b + 1) * parts] = reduced[b, :, :parts]
        theta = torch.as_tensor(z[:own])
        root = weight.sqrt()
        of_penalty = torch.cat((torch.diag(root), torch.zeros(own, batch * parts, dtype=torch.float64)), 1)
        residual = torch.cat((reduced[:, :, -1].reshape(-1), root * theta)).numpy()
        jacobian = torch.cat((j.flatten(0, 1), of_penalty)).numpy()
        result.train.append(error)
        if not result.validation or error <= min(result.train) * 1.5:
            result.validation.append(error if validation is None else validation(out))
        else:
            result.validation.append(np.inf)
        found = result.validation[-1]
        since = 0 if found < mark * (1 - GAIN) else since + 1
        mark = found if since == 0 else mark
        if found < best:
            best, kept = found, [x.detach().clone() for x in names.values()]
            result.states = near
        if progress is not None:
            progress(len(result.train), error, result.validation[-1])
        if since >= patience or len(result.train) >= evaluations:
            raise _Enough
        return residual, jacobian

    asked: dict[bytes, tuple[Array, Array]] = {}

    def fun(z: Array) -> Array:
        asked[z.tobytes()] = evaluate(z)
        while len(asked) > 3:
            asked.pop(next(iter(asked)))
        return asked[z.tobytes()][0]

    def derivative(z: Array) -> Array:
        return asked[z.tobytes()][1]

    begin = given.first(min(given.y.shape[1], 50))
    z = taken(estimate(model, begin) if start is None else start)
    with suppress(_Enough):
        least_squares(fun, z, derivative, method="trf", x_scale="jac", ftol=1e-7, xtol=1e-10, gtol=1e-12)
    with torch.no_grad():
        for x, value in zip(names.values(), kept, strict=True):
            x.copy_(value)
    return result
