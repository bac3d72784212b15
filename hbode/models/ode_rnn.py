"""The ODE-RNN: between observations the hidden state follows an ODE, at each observation a cell updates it; one solve.

Source: Rubanova, Chen, Duvenaud, "Latent ODEs for irregularly-sampled time series", NeurIPS 2019; with heavy-ball
hidden dynamics Xia et al., NeurIPS 2021, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..integrate import hbodeint
from ..systems import System
from ..updates import Update, UpdateRecord
from .solver import SolveCounts, SolverSettings


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
        shared = bool((t == t[:1]).all())
        at, data = (t[0], x.transpose(0, 1)) if shared else (t, x)
        h0 = x.new_zeros(len(x), self.size)
        solution = hbodeint(
            self.system,
            h0,
            torch.cat((at[..., :1], at[..., count:]), -1),
            updates=Update(at[..., :count], self._observe, data),
            options={"first_step": math.inf},  # spans between observations are short: the first try is all of one
            **self.solver.arguments,
        )
        cost = SolveCounts()
        cost.add(solution.stats)
        before, after = cast(UpdateRecord, solution.updates)
        states = (solution.h if solution.m is None else torch.cat((solution.h, solution.m), -1))[1:]
        forecast = self._decoded(solution.h[1:])
        one_step = torch.cat((self._decoded(before.h[1:]), forecast[:, :1]), 1)
        return Prediction(one_step, self._decoded(after.h), forecast, states, cost)

    def _observe(self, t: Tensor, *state_and_x: Tensor) -> Any:
        """Return the state after an observation, h or (h, m)."""
        *state, x = state_and_x
        after = self.cell(x, torch.cat(state, -1))
        return after.chunk(2, -1) if self.system.second_order else after

    def _decoded(self, h: Tensor) -> Tensor:
        """Return what is read out of states (K, B, D), shape (B, K, C)."""
        out: Tensor = self.decode(h).transpose(0, 1)
        return out
