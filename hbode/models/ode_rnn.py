"""The ODE-RNN: between observations the hidden state follows an ODE, at each observation a cell updates it.

Source: Rubanova, Chen, Duvenaud, "Latent ODEs for irregularly-sampled time series", NeurIPS 2019; with heavy-ball
hidden dynamics Xia et al., NeurIPS 2021, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..integrate import hbodeint
from ..solution import Stats, of_batch
from ..systems import System


@dataclass(frozen=True)
class SolverSettings:
    """How a model solves its ODE: arguments of `hbodeint` of the same names."""

    method: str = "dopri5"
    rtol: float = 1e-3
    atol: float = 1e-3
    gradient: str = "discrete_adjoint"
    compile: bool = False


class SolveCounts:
    """Evaluations of the field in a number of solves that step as one batch."""

    def __init__(self) -> None:
        self._stats: list[Stats] = []

    def add(self, stats: Stats) -> None:
        """Count one more solve."""
        self._stats.append(stats)

    @property
    def nfe(self) -> int:
        """Evaluations in the forward pass."""
        return sum(of_batch(stats.nfe) for stats in self._stats)

    @property
    def nfe_backward(self) -> int:
        """Evaluations in the backward pass; 0 before it, and always 0 for ``gradient="backprop"``."""
        return sum(stats.nfe_backward or 0 for stats in self._stats)

    @property
    def rejected(self) -> int:
        """Steps that were tried in vain."""
        return sum(of_batch(stats.rejected) for stats in self._stats)


@dataclass(frozen=True)
class Prediction:
    """What an `ODERNN` says about a batch of windows; observations are numbered 0 … K-1.

    Attributes
    ----------
    one_step
        Shape (B, K, C): observations 1 … K, each predicted from those before it; K is the first forecast.
    reconstruction
        Shape (B, K, C): observations 0 … K-1, each after it was seen.
    forecast
        Shape (B, H, C): what follows the last observation.
    states
        Shape (H, B, S): the hidden states h, or (h, m), at the times of the forecast.
    cost
        Evaluations of the field.
    """

    one_step: Tensor
    reconstruction: Tensor
    forecast: Tensor
    states: Tensor
    cost: SolveCounts


class ResidualCell(nn.Module):
    """The update of Xia et al. (2021): s ← s + W [s, x] + b, linear, on the whole state s.

    W starts out forgetting: it takes a share of s away, and is otherwise a tenth of torch's usual size where it acts
    on s. Without that, an untrained second-order system blows up over a long window: an eigenvalue μ > 0 of ∂f/∂h
    makes its state grow like e^(√μ t).

    Parameters
    ----------
    state, channels
        Sizes S of the state and C of an observation.
    forget
        Share of the state that an untrained update takes away.
    """

    def __init__(self, state: int, channels: int, forget: float = 0.25) -> None:
        super().__init__()
        self.dense = nn.Linear(state + channels, state)
        with torch.no_grad():
            self.dense.weight[:, :state].mul_(0.1).sub_(forget * torch.eye(state))
            self.dense.bias.mul_(0.1)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """Return the updated state (B, S) after the observation x (B, C)."""
        out: Tensor = s + self.dense(torch.cat((s, x), -1))
        return out


CELLS: dict[str, Callable[[int, int], nn.Module]] = {
    "residual": ResidualCell,
    "gru": lambda state, channels: nn.GRUCell(channels, state),
}


class ODERNN(nn.Module):
    """An encoder of irregular series whose hidden state moves by an ODE, and a decoder that lets it run on.

    The state is h for a first-order system and (h, m) for a second-order one; the cell updates all of it, the
    linear read-out sees h alone.

    Parameters
    ----------
    system
        The hidden dynamics, on `size` channels; a `System`.
    size
        Channels D of the hidden position h.
    channels
        Channels C of the series.
    solver
        Method, tolerances, gradient mode, and whether to compile.
    cell
        The update at observations: "residual" (`ResidualCell`, as published) or "gru" (`torch.nn.GRUCell`).

    Raises
    ------
    ValueError
        If there is no cell of that name.
    """

    def __init__(
        self,
        system: System,
        size: int,
        channels: int,
        solver: SolverSettings | None = None,
        cell: str = "residual",
    ) -> None:
        super().__init__()
        self.system = system
        self.size = size
        self.channels = channels
        self.solver = solver or SolverSettings()
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {', '.join(CELLS)}, got {cell!r}")
        self.cell = CELLS[cell](2 * size if system.second_order else size, channels)
        self.decode = nn.Linear(size, channels)

    def forward(self, t: Tensor, x: Tensor) -> Prediction:
        """Read a window and forecast.

        Parameters
        ----------
        t
            Times of the K observations and of the H forecasts, shape (B, K + H), increasing, in the time
            unit of γ and ξ.
        x
            Observations, shape (B, K, C), floating.

        Raises
        ------
        ValueError
            If the shapes do not fit.
        """
        if x.ndim != 3 or x.shape[2] != self.channels:
            raise ValueError(f"x must have shape (B, K, {self.channels}), got {tuple(x.shape)}")
        count = x.shape[1]
        if t.ndim != 2 or len(t) != len(x) or t.shape[1] <= count:
            raise ValueError(f"t must have shape ({len(x)}, K + H) with K = {count}, H > 0, got {tuple(t.shape)}")
        cost = SolveCounts()
        state = x.new_zeros(len(x), self.size * (2 if self.system.second_order else 1))
        before, after = [], []
        for k in range(count):
            state = self.cell(x[:, k], state)
            after.append(state[:, : self.size])
            end = k + 2 if k + 1 < count else t.shape[1]
            states = self._evolve(state, t[:, k:end], cost)
            if k + 1 < count:
                state = states[0]
                before.append(state[:, : self.size])
        forecast = self.decode(states[..., : self.size]).transpose(0, 1)
        one_step = torch.cat((self.decode(torch.stack(before, 1)), forecast[:, :1]), 1) if before else forecast[:, :1]
        return Prediction(one_step, self.decode(torch.stack(after, 1)), forecast, states, cost)

    def _evolve(self, state: Tensor, t: Tensor, cost: SolveCounts) -> Tensor:
        """Return the states at t[:, 1:], shape (T - 1, B, S), from the state (B, S) at t[:, 0]."""
        second = self.system.second_order
        h, m0 = state.chunk(2, -1) if second else (state, None)
        solver = self.solver
        # A segment is short: the first step tries the whole of it, which saves the evaluation that guesses a step.
        solution = hbodeint(
            self.system,
            h,
            t,
            m0=m0,
            method=solver.method,
            rtol=solver.rtol,
            atol=solver.atol,
            gradient=solver.gradient,
            compile=solver.compile,
            options={"first_step": math.inf},
        )
        cost.add(solution.stats)
        rows = solution.h if solution.m is None else torch.cat((solution.h, solution.m), -1)
        return rows[1:]
