"""The multistage proximal scheme."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..field import Field
from ..method import Carry
from ..methods.hermite import Hermite
from .stage import solve_stage
from .step import Implicit, ImplicitStages

_WEIGHTS = ((5.0,), (-2.0, 6.0), (-2.0, 3 / 14, 44 / 7))


def _nodes() -> tuple[float, ...]:
    """Return when the stages take place: where the scheme takes the equation t' = 1 in a unit step."""
    nodes = [0.0]
    for row in _WEIGHTS:
        nodes.append((1 + sum(w * c for w, c in zip(row, nodes, strict=True))) / sum(row))
    return tuple(nodes[1:])


def _third_order() -> tuple[float, ...]:
    """Return the weights of the slopes at 0 and in the stages that satisfy the four conditions of order three."""
    a = np.zeros((4, 4))
    for m, row in enumerate(_WEIGHTS):
        a[m + 1] = np.asarray(row) / sum(row) @ a[: m + 1]
        a[m + 1, m + 1] = 1 / sum(row)
    c = a.sum(1)
    return tuple(np.linalg.solve(np.stack((c**0, c, c**2, a @ c)), (1, 1 / 2, 1 / 3, 1 / 6)).tolist())


_NODES = _nodes()
_EMBEDDED = _third_order()


@dataclass(frozen=True)
class Multistage(Implicit):
    """Three implicit Euler steps, each from a combination of states (Zaitzeff, Esedoğlu, Garikipati 2021).

    Σ_{i<m} γ_mi (z_m - z_i) = s f(t + c_m s, z_m) for m = 1, 2, 3; second order, unconditionally energy stable for
    gradient flows. The published scheme is for autonomous fields; c is what makes it second order for others. The local
    error is estimated by the distance from the third-order combination of the slopes at 0, c_1, c_2, c_3.
    """

    order = 2
    error_order = 2

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, ImplicitStages]:
        y, k = carry
        size = dt.to(y.real.dtype)
        states, slopes = [y], [k]
        converged = torch.ones((), dtype=torch.bool, device=y.device)
        for c, row in zip(_NODES, _WEIGHTS, strict=True):
            total = sum(row)
            known = sum(((w / total) * z for w, z in zip(row, states, strict=True)), torch.zeros_like(y))
            z, k1, fine = solve_stage(field, t + c * dt, known, size / total, slopes[-1], self.settings)
            states.append(z)
            slopes.append(k1)
            converged = converged & fine
        moved = sum((w * k for w, k in zip(_EMBEDDED, slopes, strict=True)), torch.zeros_like(y))
        error = torch.addcmul(z - y, size, moved, value=-1)
        return (z, k1), ImplicitStages(Hermite(y, k, z, k1, size), error, converged)
