"""Densities by a first-order ODE: h' = f(t, h), d log p / dt = -tr ∂f/∂h.

The path h alone is solved; what is integrated along it, the trace first of all, is no part of the state. It is summed
at Gauss points of each step, on the interpolant of the method: half as many evaluations as stages, and an order that
is that of the method. An implicit method has no trace in its equations.

Sources: Chen et al., NeurIPS 2018; Grathwohl et al., "FFJORD", ICLR 2019 (the trace by Hutchinson's estimator, with
noise that is fixed over a solve); Finlay et al., "How to train your neural ODE", ICML 2020 (regularisation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from ...solution import Stats, of_batch
from ...solvers import as_method
from ...solvers.field import checked
from ...systems import FirstOrder, VectorField
from ..solver import SolverSettings
from .flow import Flow, Shape

TRACES = ("exact", "rademacher", "gaussian")


class Regularised(NamedTuple):
    """A log-density, and what makes its field cheap to solve if it is small; shape (...) each.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.flows import Regularised
    >>> Regularised(torch.zeros(5), torch.zeros(5), torch.zeros(5)).kinetic.shape
    torch.Size([5])
    """

    log_prob: Tensor
    kinetic: Tensor
    """∫ ‖f‖² dt along the path."""
    jacobian: Tensor
    """∫ ‖∂f/∂h‖² dt along the path, Frobenius norm, exact or estimated as the trace is."""


class ContinuousFlow(Flow):
    """A density of h by h' = f(t, h), and the integral of its divergence along the path.

    Parameters
    ----------
    f
        ``f(t, h)``, or ``f(t, h, context)``, of points (N, D), each by itself.
    size
        Channels D of a point.
    trace
        "exact", by D products with the Jacobian; or by one, with noise drawn for each solve, "rademacher" (±1, of less
        variance, and none if the Jacobian is diagonal) or "gaussian": the log-density is then an unbiased estimate.
    t, context
        Start and end of the flow; channels C of the context, 0: none.
    base
        Distribution at the end, with event_shape (D,). Default: standard normal.
    solver, steps
        Default: dopri5 at tolerances of 1e-5, with ``gradient="backprop"``, the fastest where the graph of all steps
        fits in memory. With ``steps=n`` any method takes n equal steps. Methods without dense output are not taken.

    Raises
    ------
    TypeError
        If f is not callable.
    ValueError
        For sizes below 1, another `trace`, a solver that compiles, a span that does not go forwards, a base of another
        shape; when called, for points or contexts that do not fit.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.flows import ConcatSquashField, ContinuousFlow
    >>> flow = ContinuousFlow(ConcatSquashField(2, 32), size=2)
    >>> flow.log_prob(torch.randn(64, 2)).shape, flow.sample(5).shape
    (torch.Size([64]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        f: VectorField,
        size: int,
        *,
        trace: str = "exact",
        t: Sequence[float] = (0.0, 1.0),
        context: int = 0,
        base: Distribution | None = None,
        solver: SolverSettings | None = None,
        steps: int | None = None,
    ) -> None:
        if not callable(f):
            raise TypeError(f"f must be callable as f(t, h), got {type(f).__name__}")
        if trace not in TRACES:
            raise ValueError(f"trace must be one of {', '.join(TRACES)}, got {trace!r}")
        solver = SolverSettings(rtol=1e-5, atol=1e-5, gradient="backprop") if solver is None else solver
        if solver.compile:
            raise ValueError(
                "solver must have compile=False: the trace is taken along steps, which compiled solves do not keep"
            )
        super().__init__(size, t=t, context=context, base=base, solver=solver, steps=steps, width=size)
        self.f = f
        self.trace = trace

    def log_prob(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """Return log p(h), or log p(h | context), or an estimate of it, shape (...).

        Parameters
        ----------
        h
            Points, shape (..., D).
        context
            Shape (..., C); both broadcast.
        """
        return self._solved(h, context, 1)[0]

    def regularised(self, h: Tensor, context: Tensor | None = None) -> Regularised:
        """Return the log-density with the energies of its path, by one solve; arguments as of `log_prob`."""
        return Regularised(*self._solved(h, context, 3))

    def to_base(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """Return points at the end of the flow for those at its start, (..., D)."""
        return self._moved(h, context, back=False)

    def from_base(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """Return points at the start of the flow for those at its end: the inverse of `to_base`, to tolerance."""
        return self._moved(h, context, back=True)

    def rsample(self, sample_shape: Shape = (), context: Tensor | None = None) -> Tensor:
        return self.from_base(self.base_points(sample_shape, context), context)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, trace={self.trace!r}"

    def _moved(self, h: Tensor, context: Tensor | None, *, back: bool) -> Tensor:
        batch, (h,), args = self.flattened(context, h=h)
        moved = torch.as_tensor(self.solve(FirstOrder(self.f), h, args, back=back).h)
        return moved[-1].view(*batch, -1)

    def _solved(self, h: Tensor, context: Tensor | None, integrals: int) -> list[Tensor]:
        """Return the log-density, and what else is integrated along the path, shape (...) each."""
        batch, (h,), args = self.flattened(context, h=h)
        solution = self.solve(FirstOrder(self.f), h, args, dense=True)
        t, weights = self._quadrature(solution.stats, h)
        solution.stats.nfe = of_batch(solution.stats.nfe) + len(t)
        probes, path = self._probes(h), torch.as_tensor(solution(t)[0])
        rows = [self._integrands(*at, probes, args)[:integrals] for at in zip(t, path, strict=True)]
        log_det, *energies = torch.einsum("q, qin -> in", weights, torch.stack(rows)).view(integrals, *batch)
        log_prob: Tensor = self.base.log_prob(torch.as_tensor(solution.h)[-1].view(*batch, -1))
        return [log_prob + log_det, *energies]

    def _quadrature(self, stats: Stats, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return times and weights of as many Gauss points in each step as the order of the method asks for."""
        order = as_method(self.solver.method or "dopri5").order
        nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss((order + 1) // 2))
        start, dt = (x.cpu().double().unsqueeze(-1) for x in (stats.t, stats.dt))
        t, weights = ((start + dt * (1 + nodes) / 2).flatten(), (dt * weights / 2).flatten())
        return t.to(h.device), weights.to(h)

    def _integrands(self, t: Tensor, h: Tensor, probes: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        """Return tr ∂f/∂h, ‖f‖² and ‖∂f/∂h‖² at points (N, D), shape (3, N)."""
        traced = torch.is_grad_enabled()
        # Products with the transposed Jacobian, one after the other: of all ways that torch has, measured for D from 2
        # to 8, the fastest. Forward mode takes three times as long.
        with torch.enable_grad():
            h = h if h.requires_grad else h.detach().requires_grad_()
            value = checked(self.f(t, h, *context), h)
            pulled = [torch.autograd.grad(value, h, v, retain_graph=True, create_graph=traced)[0] for v in probes]
        products = torch.stack(pulled)
        value = value if traced else value.detach()
        return torch.stack(((probes * products).sum((0, -1)), value.square().sum(-1), products.square().sum((0, -1))))

    def _probes(self, h: Tensor) -> Tensor:
        """Return vectors v, (K, N, D), of which Σ vᵀJv is the trace of J or an estimate of it."""
        if self.trace == "exact":
            size = h.shape[-1]
            return torch.eye(size, dtype=h.dtype, device=h.device).unsqueeze(1).expand(size, *h.shape)
        noise = torch.randn_like(h) if self.trace == "gaussian" else torch.randint_like(h, 2) * 2 - 1
        return noise.unsqueeze(0)
