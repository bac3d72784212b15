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
from ..setup.updates import Update, UpdateRecord
from ..systems import System
from .observations import Observations
from .solver import SolveCounts, SolverSettings


@dataclass(frozen=True)
class Prediction:
    """What an `ODERNN` says about a batch of windows; observations are numbered 0 … K-1.

    Rows of observations that are missing entirely are NaN. No gradient is lost where a loss leaves them out, as in
    ``(said.reconstruction - x)[observed].square().mean()``.

    Attributes
    ----------
    one_step
        Shape (B, K, C): observations 1 … K, each predicted from those before it; K is the first forecast.
    reconstruction
        Shape (B, K, C): observations 0 … K-1, each after it was seen.
    forecast
        Shape (B, H, C): at the times asked for, each from the observations up to it.
    states
        Shape (H, B, S): the hidden states h, or (h, m), at the times of the forecast.
    cost
        Evaluations of the field.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import ODERNN, Prediction, hbnode
    >>> model = ODERNN(hbnode(4, 8), size=4, channels=2)
    >>> found = model(torch.arange(8.0).expand(3, 8), torch.randn(3, 6, 2))
    >>> isinstance(found, Prediction), found.forecast.shape
    (True, torch.Size([3, 2, 2]))
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

    Examples
    --------
    >>> import torch
    >>> from hbode.models import ResidualCell
    >>> ResidualCell(4, 2)(torch.zeros(5, 2), torch.zeros(5, 4)).shape
    torch.Size([5, 4])
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

    The state is h for a first-order system and (h, m) for a second-order one, zero until the first observation. The
    cell updates all of it, the linear read-out sees h alone. Samples may miss channels, have times and counts of their
    own, and several observations at one time: all are updates of one solve, which carries its step size through them.

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
        The update at observations: "residual" (`ResidualCell`, as published), "gru" (`torch.nn.GRUCell`), or a module
        of x (B, C) and the state (B, S) that returns the state.
    missing
        What the cell sees where an observation misses some channels. "predict": what the model itself predicts for
        them, which is no news; nothing changes where none is missing. "mask": 0, and beside x the mask, for series in
        which the gaps tell something.
    outputs
        Channels of the read-out, default C; others, which no observations are compared with, go with "mask".
    start
        A module that makes the state (B, S) before the first observation of the whole window x (B, K, C), in which
        nothing may be missing then. None: zero.

    Raises
    ------
    ValueError
        If there is no `cell` of that name, or `missing` and `outputs` are not as above.

    Examples
    --------
    >>> import torch
    >>> from hbode.models import ODERNN, hbnode
    >>> model = ODERNN(hbnode(4, 8), size=4, channels=2)
    >>> sum(p.numel() for p in model.parameters()) > 0
    True
    """

    def __init__(
        self,
        system: System,
        size: int,
        channels: int,
        solver: SolverSettings | None = None,
        cell: str | nn.Module = "residual",
        missing: str = "predict",
        outputs: int | None = None,
        start: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.system = system
        self.size = size
        self.channels = channels
        self.solver = solver or SolverSettings()
        self.missing = missing
        if isinstance(cell, str) and cell not in CELLS:
            raise ValueError(f"cell must be one of {', '.join(CELLS)}, or a module, got {cell!r}")
        if missing not in ("predict", "mask"):
            raise ValueError(f"missing must be 'predict' or 'mask', got {missing!r}")
        if missing == "predict" and outputs not in (None, channels):
            raise ValueError(f"outputs must be the {channels} channels that missing='predict' fills, got {outputs}")
        state = 2 * size if system.second_order else size
        seen = channels if missing == "predict" else 2 * channels
        self.cell = CELLS[cell](state, seen) if isinstance(cell, str) else cell
        self.start = start
        self.decode = nn.Linear(size, channels if outputs is None else outputs)

    def forward(self, t: Tensor, x: Tensor, mask: Tensor | None = None) -> Prediction:
        """Read a window and forecast.

        Parameters
        ----------
        t
            Times of the K observations and of the H forecasts, shape (B, K + H), in the time unit of γ and ξ. They do
            not decrease from one observation of a sample to the next, nor from one forecast to the next; the last
            forecast is not before the last observation. Anything where an observation is missing entirely.
        x
            Observations, shape (B, K, C), floating; NaN where a channel is missing.
        mask
            What was observed, boolean, shape (B, K, C), or (B, K) for all channels. Default: all that is not NaN.

        Raises
        ------
        ValueError
            If the shapes or the times do not fit.
        """
        if x.ndim != 3 or x.shape[2] != self.channels or x.shape[1] < 1:
            raise ValueError(f"x must have shape (B, K, {self.channels}) with K > 0, got {tuple(x.shape)}")
        count = x.shape[1]
        if t.ndim != 2 or len(t) != len(x) or t.shape[1] <= count:
            raise ValueError(f"t must have shape ({len(x)}, K + H) with K = {count}, H > 0, got {tuple(t.shape)}")
        shared = bool((t == t[:1]).all())
        seen = Observations.of(t[:, :count], x, mask, shared)
        ahead = t[:, count:]
        if bool((seen.present & (t[:, :count] > ahead[:, -1:])).any()):
            raise ValueError("t must end with a forecast that is not before the last observation")
        if self.start is not None and not seen.complete:
            raise ValueError("x must be complete, at different times, for a start that is made of all of it")
        since = torch.minimum(seen.since, ahead[:, :1])
        times = torch.cat((since.amin(0), ahead[0]) if shared else (since, ahead), -1)
        second_order = self.system.second_order
        state = x.new_zeros(len(x), self.size * (1 + second_order)) if self.start is None else self.start(x)
        h0, m0 = state.chunk(2, -1) if second_order else (state, None)
        solution = hbodeint(
            self.system,
            h0,
            times,
            m0=m0,
            updates=Update(seen.t, self._observe, seen.data),
            options={"first_step": math.inf},  # spans between observations are short: the first try is all of one
            **self.solver.arguments,
        )
        cost = SolveCounts()
        cost.add(solution.stats)
        before, after = self._sides(seen, cast(UpdateRecord, solution.updates))
        states = _joined(solution.h, solution.m)[1:]
        if not seen.complete:
            states = torch.where((ahead < seen.since).T.unsqueeze(-1), 0, states)
        forecast, reconstruction = self._decoded(states), seen.blanked(self._decoded(after))
        one_step = torch.cat((seen.blanked(self._decoded(before[1:]), 1), forecast[:, :1]), 1)
        return Prediction(one_step, reconstruction, forecast, states, cost)

    def _observe(self, t: Tensor, *state_and_data: Any) -> Any:
        """Return the state after the observations at one time, h or (h, m)."""
        *state, (x, observed, first) = state_and_data
        s = torch.cat(state, -1)
        if first is not None:
            s = torch.where(first.unsqueeze(-1), 0, s)
        for slot in range(x.shape[-2]):
            s = self._updated(s, x[..., slot, :], None if observed is None else observed[..., slot, :])
        return s.chunk(2, -1) if self.system.second_order else s

    def _updated(self, s: Tensor, x: Tensor, observed: Tensor | None) -> Tensor:
        """Return states (..., S) after one observation (..., C) each, unchanged where nothing was observed."""
        if self.missing == "mask":
            x = torch.cat((x, torch.ones_like(x) if observed is None else observed.to(x)), -1)
        elif observed is not None:
            x = torch.where(observed, x, self.decode(s[..., : self.size]))
        lead = s.shape[:-1]  # a GRUCell takes one axis of samples
        after = self.cell(x.reshape(-1, x.shape[-1]), s.reshape(-1, s.shape[-1])).view(*lead, -1)
        return torch.as_tensor(after if observed is None else torch.where(observed.any(-1, keepdim=True), after, s))

    def _sides(self, seen: Observations, record: UpdateRecord) -> tuple[Tensor, Tensor]:
        """Return the states before and after each observation, (K, B, S), finite where there is none."""
        before, after = (_joined(side.h, side.m) for side in record)
        if seen.complete:
            return before, after
        first, x, observed = (v.transpose(0, 1) for v in (seen.first, seen.x, seen.observed))
        # Those between the observations at one time, which the solve did not show, are computed again.
        states = [torch.where(first.unsqueeze(-1), 0, before.nan_to_num())]
        for slot in range(x.shape[2] - 1):
            states.append(self._updated(states[-1], x[:, :, slot], observed[:, :, slot]))
        return seen.each(states), seen.each([*states[1:], after.nan_to_num()])

    def _decoded(self, s: Tensor) -> Tensor:
        """Return what is read out of states (K, B, S), shape (B, K, C)."""
        out: Tensor = self.decode(s[..., : self.size]).transpose(0, 1)
        return out


def _joined(h: Any, m: Any) -> Tensor:
    """Return states as the cell sees them, h or (h, m), (..., S)."""
    return torch.as_tensor(h) if m is None else torch.cat((h, m), -1)
