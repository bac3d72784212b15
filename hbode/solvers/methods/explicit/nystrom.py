"""Runge-Kutta-Nyström methods with exact linear damping, for h'' + γ h' + ξ h = f(t, h).

Inside a step of length s from (t, h, m), u(τ) = e^(γτ/2) h(t + τ) has u(0) = h, u'(0) = v = m + (γ/2) h and obeys
u'' = e^(γτ/2) g with g = f + κ h, κ = γ²/4 - ξ: no first derivative, so a Nyström method applies to u and the
damping costs no accuracy. Written back in h, every stage and every result is a combination of the columns
(h, v, g_1, …, g_s), where g_j belongs to the stage at c_j, with weights that depend on s and γ alone:

    h(θ) = e^(-γθs/2) [h + θ s v + s² Σ_j β_j e^(γ c_j s/2) g_j],
    v(θ) = e^(-γθs/2) [    v     + s  Σ_j β'_j e^(γ c_j s/2) g_j],    m = v - (γ/2) h.

The damping, κ and the change between m and v enter the weights once for a field; a step scales them by its length.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...field import Damping, Field, damped_slope
from ...linear import Sums, combine, combine_rows, powers, stage_times
from ...method import Carry, Uniform
from ...precision import kept_tensors
from .stiffness import probe
from .tableau import NystromTableau


class NystromWeights(NamedTuple):
    """A tableau as float64 tensors on one device, with weights of the columns (h, v, g_1, …, g_s).

    The rows of a step are the stage positions, the momentum at its end, and the errors of both. Their weights are
    ``step[0] + s step[1] + s² step[2]``, step of shape (3, n, k), times e^(γ s exponent / 2). Dense output has the
    two rows h and m: ``dense[i]``, shape (2, k), is the part of their weights that grows as θ^p s^q with
    p = ``theta_power[i]``, at most `degree`, and q = ``dt_power[i]``.

    Both depend on the damping as combinations of 1, γ/2, κ, (γ/2)² and (γ/2) κ, the five rows of `table`, each of
    them step and dense flattened and joined: m = v - (γ/2) h among the rows, and v = m + (γ/2) h and
    g_1 = F_1 + κ h among the columns, which become (h, m, F_1, g_2, …, g_s). Since c_1 = 0, and a velocity
    belongs to the same time as its position, the exponents of what is added to each other are equal.
    """

    c: Tensor
    table: Tensor
    step_shape: tuple[int, ...]
    dense_shape: tuple[int, ...]
    exponent: Tensor
    theta_power: Tensor
    dt_power: Tensor
    degree: int
    nodes: Tensor


class Damped(NamedTuple):
    """`NystromWeights` for one damping, with trailing axes where it, or the step, differs over samples or channels."""

    step: Tensor
    rate: Tensor
    dense: Tensor
    half: Tensor
    nodes: Tensor


class NystromStages(NamedTuple):
    """One step: its sums, its length, and what its weights were made with."""

    sums: Sums
    dt: Tensor
    weights: NystromWeights
    damped: Damped


class Nystrom(Uniform):
    """A Runge-Kutta-Nyström method given by its tableau (Dormand, El-Mikkawy, Prince 1987).

    The carry is (y, f(t, h)) with y = (h, m) stacked: the tableaus end with the force at the end of the step.

    Examples
    --------
    >>> from hbode.solvers import Nystrom, as_method
    >>> isinstance(as_method("dprkn6"), Nystrom)
    True
    """

    damped = True
    identity_only = True

    def __init__(self, tableau: NystromTableau) -> None:
        self.tableau = tableau
        self.order = tableau.order
        self.error_order = tableau.error_order
        self.evaluations = tableau.stages - 1
        if tableau.error_order is not None:
            self.probe = probe(tableau)
        self._cache: dict[torch.device, NystromWeights] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(order={self.order}, stages={self.tableau.stages - 1})"

    def start(self, field: Field, t: Tensor, y: Tensor) -> Carry:
        return y, field(t, y[0])

    def step(self, field: Field, t: Tensor, dt: Tensor, carry: Carry) -> tuple[Carry, NystromStages]:
        y, force = carry
        h, m = y.unbind()
        w = self.weights(y.device)
        damped = self._damped(field, dt.ndim)
        constant, linear, square = damped.step.unbind()
        rows = torch.addcmul(constant, torch.addcmul(linear, square, dt), dt) * torch.exp(damped.rate * dt)
        sums = Sums(rows.to(y.dtype), (h, m, force))
        kappa = field.damping.kappa_h
        for i, t_i in enumerate(stage_times(t, dt, w.c, field.dtype)[1:]):
            h = sums.row(i)
            force = field(t_i, h)
            sums.add(torch.addcmul(force, h, kappa))
        return (torch.stack((h, sums.row(-3))), force), NystromStages(sums, dt, w, damped)

    def slope(self, field: Field, carry: Carry) -> Tensor:
        return damped_slope(field, carry)

    def error(self, stages: NystromStages) -> Tensor:
        return stages.sums.pair(len(self.tableau.c))

    def stiffness(self, stages: NystromStages) -> Tensor:
        """Return dt² |μ| in units of the boundary of stability, shape () or (B,) (see `Probe`)."""
        sums = stages.sums
        dt = stages.dt
        return self.probe.ratio(lambda i: sums.row(i - 1), lambda i: sums.column(i + 2), dt.square(), dt.ndim)

    def interpolate(self, stages: NystromStages, theta: Tensor) -> Tensor:
        rows = dense_rows(stages.weights, stages.damped, theta, stages.dt)
        columns = stages.sums.columns()
        out: Tensor = combine_rows(rows.to(columns.dtype), columns).unflatten(0, (-1, 2))
        return out

    def record_shape(self, y: Tensor) -> tuple[int, ...]:
        return len(self.tableau.c) + 2, *y.shape[1:]

    def record(self, stages: NystromStages) -> Tensor:
        return stages.sums.columns()

    def lay_out(self, device: torch.device) -> None:
        self.weights(device)

    def prepare(self, field: Field, axes: int) -> None:
        self._damped(field, axes)

    def reading(self, field: Field, t: Tensor, dt: Tensor, theta: Tensor, y: Tensor) -> Tensor:
        damped = self._damped(field, theta.ndim - 1)
        dt = dt.reshape(len(dt), 1, *(dt.shape[1:] or [1] * damped.half.ndim))
        return dense_rows(self.weights(y.device), damped, theta, dt).to(y.dtype)

    def _damped(self, field: Field, axes: int) -> Damped:
        """Return the weights for the damping of a field, and for steps of as many axes."""
        damping = field.damping
        return field.prepared(self, lambda: damped_weights(self.weights(damping.gamma.device), damping, axes))

    def weights(self, device: torch.device) -> NystromWeights:
        if device not in self._cache:
            with kept_tensors():
                self._cache[device] = _weights(self.tableau, device)
        return self._cache[device]


def dense_rows(w: NystromWeights, damped: Damped, theta: Tensor, dt: Tensor) -> Tensor:
    """Return the weights of (h, m) at fractions θ, (n,) or (n, B, 1, …, 1), of steps dt, shape (2 n, k, …)."""
    axes = [1] * max(theta.ndim - 1, damped.half.ndim)
    theta = theta.reshape(len(theta), 1, *(theta.shape[1:] or axes))
    of_theta = powers(theta, w.theta_power.view(-1, *axes), w.degree)
    growth = of_theta * powers(dt, w.dt_power.view(-1, *axes), 2)  # (n, d, …)
    rows = combine_rows(growth.view(*growth.shape[:2], 1, 1, *growth.shape[2:]) if axes else growth, damped.dense)
    decay = torch.exp(damped.half * dt * (damped.nodes - theta))  # (n, k, …)
    return (rows * decay.unsqueeze(1)).flatten(0, 1)


def _weights(tab: NystromTableau, device: torch.device) -> NystromWeights:
    """Lay out a tableau as weights."""
    s = len(tab.c)
    none: tuple[float, ...] = ()
    step = torch.zeros(3, s + 2, s + 2, dtype=torch.float64)
    step[0, : s - 1, 0] = 1.0
    step[1, : s - 1, 1] = torch.tensor(tab.c[1:], dtype=torch.float64)
    for i, row in enumerate((*tab.a[1:], none, tab.b_error or none, none)):
        step[2, i, 2 : 2 + len(row)] = torch.tensor(row, dtype=torch.float64)
    step[0, s - 1, 1] = 1.0
    step[1, s - 1, 2:] = torch.tensor(tab.bp, dtype=torch.float64)
    step[1, s + 1, 2:] = torch.tensor(tab.bp_error, dtype=torch.float64)
    position_of = torch.zeros(s + 2, s + 2, dtype=torch.float64)
    position_of[s - 1, s - 2] = position_of[s + 1, s] = 1.0

    terms: dict[tuple[int, int], Tensor] = {}

    def term(p: int, q: int) -> Tensor:
        return terms.setdefault((p, q), torch.zeros(2, s + 2, dtype=torch.float64))

    term(0, 0)[0, 0] = term(0, 0)[1, 1] = term(1, 1)[0, 1] = 1.0
    for j in range(s):
        for k, weight in enumerate(tab.dense[j]):
            term(k + 2, 2)[0, 2 + j] = weight
        for k, weight in enumerate(tab.dense_p[j]):
            term(k + 1, 1)[1, 2 + j] = weight
    grows = torch.tensor(list(terms), dtype=torch.float64)
    dense = torch.stack(list(terms.values()))

    table = torch.cat(
        (
            _with_damping(step, position_of).flatten(1),
            _with_damping(dense, torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)).flatten(1),
        ),
        1,
    )
    nodes = torch.tensor([0.0, 0.0, *tab.c], dtype=torch.float64)
    ends = torch.tensor([*tab.c[1:], 1.0, 1.0, 1.0], dtype=torch.float64)
    return NystromWeights(
        torch.tensor(tab.c, dtype=torch.float64, device=device),
        table.to(device),
        tuple(step.shape),
        tuple(dense.shape),
        (nodes - ends.unsqueeze(1)).to(device),
        grows[:, 0].contiguous().to(device),
        grows[:, 1].contiguous().to(device),
        max(p for p, _ in terms),
        nodes.to(device),
    )


def _with_damping(rows: Tensor, position_of: Tensor) -> Tensor:
    """Return the parts of (I - (γ/2) P) rows (I + (γ/2) C + κ D) in 1, γ/2, κ, (γ/2)², (γ/2) κ, stacked.

    P takes for each row of a velocity the row of its position; C and D add the columns of v and of g_1 to that of h.
    """

    def to_h(rows: Tensor, column: int) -> Tensor:
        return torch.cat((rows[..., column : column + 1], torch.zeros_like(rows[..., 1:])), -1)

    less = -(position_of @ rows)
    return torch.stack((rows, to_h(rows, 1) + less, to_h(rows, 2), to_h(less, 1), to_h(less, 2)))


def damped_weights(w: NystromWeights, damping: Damping, ndim: int) -> Damped:
    """Return the weights for one damping, with trailing axes for coefficients or a dt that have `ndim` axes."""
    half, kappa = 0.5 * damping.gamma, damping.kappa
    axes = [1] * max(ndim, half.ndim, kappa.ndim)
    parts = torch.stack(torch.broadcast_tensors(torch.ones_like(half), half, kappa, half * half, half * kappa))
    if axes:
        half = half.view(half.shape or axes)
        table = combine(parts.view(5, 1, *(parts.shape[1:] or axes)), w.table.view(*w.table.shape, *axes))
    else:
        table = combine(parts, w.table)
    split = math.prod(w.step_shape)
    return Damped(
        table[:split].unflatten(0, w.step_shape),
        half * w.exponent.view(*w.exponent.shape, *axes),
        table[split:].unflatten(0, w.dense_shape),
        half,
        w.nodes.view(-1, *axes),
    )
