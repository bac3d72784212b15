"""State-space models of driven systems: a system with an input, an initial state, a read-out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...inputs import Input
from ...integrate import hbodeint
from ...solvers import METHODS
from ...systems import System
from .state_bank import StateBank


class PositionReadout(nn.Module):
    """y = the first positions: the outputs were measured in the coordinates of the model.

    Parameters
    ----------
    outputs
        How many, Cy.
    absolute
        Whether their sign was not measured, y = |h|.

    Examples
    --------
    >>> from hbode.models.continuous import PositionReadout
    >>> readout = PositionReadout(2)
    """

    def __init__(self, outputs: int, absolute: bool = False) -> None:
        super().__init__()
        self.outputs, self.absolute = outputs, absolute

    def forward(self, h: Tensor, m: Tensor, u: Tensor) -> Tensor:
        """Return y, shape (..., Cy)."""
        y = h[..., : self.outputs]
        return y.abs() if self.absolute else y


class LinearReadout(nn.Module):
    """y = C (h, m, u), or its squares and an offset where no sign was measured; from the first positions at the start.

    Parameters
    ----------
    outputs, size, inputs
        Channels of y, of h and m together, and of u.
    squared
        Whether y = (C (h, m, u))² + o.

    Examples
    --------
    >>> from hbode.models.continuous import LinearReadout
    >>> readout = LinearReadout(2, 3, 1)
    """

    def __init__(self, outputs: int, size: int, inputs: int, squared: bool = False) -> None:
        super().__init__()
        start = torch.zeros(outputs, size + inputs)
        start[:, :size] = torch.eye(outputs, size)
        self.weight = nn.Parameter(start)
        self.offset = nn.Parameter(torch.zeros(outputs)) if squared else None

    def forward(self, h: Tensor, m: Tensor, u: Tensor) -> Tensor:
        """Return y, shape (..., Cy)."""
        y = nn.functional.linear(torch.cat((h, m, u), -1), self.weight)
        return y if self.offset is None else y.square() + self.offset


class Limited(nn.Module):
    """A read-out that saturates: what a sensor shows of it.

    Parameters
    ----------
    readout
        The read-out.
    low, high
        Limits of each output, (Cy,); infinite for none.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.continuous import Limited, PositionReadout
    >>> readout = Limited(PositionReadout(2), torch.zeros(2), torch.ones(2))
    """

    low: Tensor
    high: Tensor

    def __init__(self, readout: nn.Module, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.readout = readout
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(self, h: Tensor, m: Tensor, u: Tensor) -> Tensor:
        """Return y, shape (..., Cy)."""
        y: Tensor = self.readout(h, m, u)
        return torch.clamp(y, self.low.to(y), self.high.to(y))


class StateEncoder(nn.Module):
    """The initial state from the first n samples of outputs and inputs (Beintema, Tóth, Schoukens 2021).

    A linear map with a small network beside it, which is zero at the start.

    Parameters
    ----------
    samples
        n.
    outputs, inputs, size
        Channels of y, u and h.
    hidden
        Units of the network; 0 for none.
    momentum
        Whether the state has a momentum.

    Examples
    --------
    >>> from hbode.models.continuous import StateEncoder
    >>> encoder = StateEncoder(samples=10, outputs=2, inputs=1, size=2)
    """

    def __init__(
        self, samples: int, outputs: int, inputs: int, size: int, hidden: int = 16, momentum: bool = True
    ) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        self.samples, self.size, self.parts = samples, size, 1 + momentum
        given = samples * (outputs + inputs)
        self.linear = nn.Linear(given, self.parts * size)
        self.network = nn.Sequential(nn.Linear(given, hidden), nn.Tanh(), nn.Linear(hidden, self.parts * size))
        with torch.no_grad():
            for x in self.network[2].parameters():
                x.zero_()

    def forward(self, y: Tensor, u: Tensor) -> Tensor:
        """Return the state at the *last* of the samples (B, n, Cy) and (B, n, Cu): shape (2, B, d), or (B, d)."""
        if y.shape[-2] != self.samples:
            raise ValueError(f"y must have the {self.samples} samples that the encoder reads, got {y.shape[-2]}")
        given = torch.cat((y.flatten(-2), u.flatten(-2)), -1)
        state: Tensor = self.linear(given) + self.network(given)
        return torch.stack(state.chunk(2, -1)) if self.parts == 2 else state


class Simulation(NamedTuple):
    """Outputs (T, B, Cy) and states (T, 2, B, d), or (T, B, d) of a first-order system; NaN after a failure.

    Examples
    --------
    >>> import torch
    >>> from hbode.models.continuous import Simulation
    >>> Simulation(torch.zeros(1, 5, 2), torch.zeros(1, 2)).y.shape
    torch.Size([1, 5, 2])
    """

    y: Tensor
    state: Tensor


class NeuralStateSpace(nn.Module):
    """A driven system with a read-out: h'' = f(h, m, u), or whatever the system is; y = C(h, m, u).

    Parameters
    ----------
    system
        A system whose field takes the input behind the state: ``f(t, h, u)`` or ``f(t, h, m, u)``. Without explicit
        dependence on the time.
    readout
        A module (h, m, u) ↦ y, such as `PositionReadout`; for a first-order system m is empty, (..., 0).
    size
        Channels of h, d.
    encoder
        From the first samples to the state at the last of them; None where that is estimated by least squares.
    method
        An explicit method, stepping `substeps` times from one sample to the next.
    substeps
        0 for steps chosen by the tolerance `rtol`.

    Attributes
    ----------
    bank
        States of training, for the estimation of initial states that the outputs do not show.

    Examples
    --------
    >>> import torch
    >>> from hbode import CubicInput, SecondOrder
    >>> from hbode.models.continuous import NeuralStateSpace, PositionReadout
    >>> model = NeuralStateSpace(SecondOrder(lambda t, h, m, u: u - h - 0.1 * m), PositionReadout(1), 1)
    >>> t = torch.arange(50.0)
    >>> u = CubicInput(t, torch.sin(t).unsqueeze(1))
    >>> model.simulate(t, u, torch.zeros(2, 3, 1)).y.shape
    torch.Size([50, 3, 1])
    """

    def __init__(
        self,
        system: System,
        readout: nn.Module,
        size: int,
        encoder: StateEncoder | None = None,
        method: str = "rk4",
        substeps: int = 1,
        rtol: float = 1e-5,
    ) -> None:
        super().__init__()
        if substeps < 0:
            raise ValueError(f"substeps must not be negative, got {substeps}")
        self.system, self.readout, self.size, self.encoder = system, readout, size, encoder
        self.method, self.substeps, self.rtol = method, substeps, rtol
        self.bank: StateBank | None = None

    def simulate(self, t: Tensor, inputs: Input, state: Tensor, compile: bool = False) -> Simulation:
        """Simulate from an initial state by one solve, without a look at any output.

        Parameters
        ----------
        t
            Times (T,), or (B, T) for samples with times of their own.
        inputs
            u(t), for the batch or of each sample.
        state
            At the first time: (2, B, d), or (B, d) for a first-order system.
        compile
            As for `hbodeint`.
        """
        h0, m0 = state.unbind() if self.system.second_order else (state, None)
        grid, options = t, dict[str, float]()
        if self.substeps and t.shape[-1] > 1:
            if t.ndim == 1 and uniform(t):
                options = {"step_size": float(t[-1] - t[0]) / (len(t) - 1) / self.substeps}
            elif METHODS[self.method].error_order is None:  # which steps from one of the times to the next
                between = torch.arange(self.substeps, dtype=torch.float64, device=t.device) / self.substeps
                inner = t[..., :-1, None].double() + t.diff().unsqueeze(-1) * between
                grid = torch.cat((inner.flatten(-2), t[..., -1:].double()), -1)
            else:
                raise ValueError(f"t must be equally spaced for fixed steps by method={self.method!r}; take rk4")
        sol = hbodeint(
            self.system,
            h0,
            grid,
            m0=m0,
            inputs=inputs,
            method=self.method,
            rtol=self.rtol,
            atol=self.rtol,
            options=options,
            compile=compile,
            throw=False,
        )
        states = sol.h if sol.m is None else torch.stack((sol.h, sol.m), 1)
        if grid is not t:
            states = states[:: self.substeps]
        return Simulation(self.read(states, values_at(inputs, t)), states)

    def flat(self, state: Tensor) -> Tensor:
        """Return states (..., 2, B, d) or (..., B, d) as rows of numbers, (..., B, n)."""
        return state.transpose(-3, -2).flatten(-2) if self.system.second_order else state

    def whole(self, rows: Tensor) -> Tensor:
        """Return rows of numbers (..., B, n) as states."""
        return rows.unflatten(-1, (2, -1)).transpose(-3, -2) if self.system.second_order else rows

    def read(self, state: Tensor, u: Tensor) -> Tensor:
        """Return the outputs (T, B, Cy) of states (T, 2, B, d) or (T, B, d), at inputs (T, B, Cu)."""
        h, m = state.unbind(1) if self.system.second_order else (state, state[..., :0])
        y: Tensor = self.readout(h, m, u)
        return y


def uniform(t: Tensor) -> bool:
    """Return whether times (T,) are equally spaced, to rounding."""
    steps = t.double().diff()
    return bool((steps - steps.mean()).abs().max() <= 1e-9 * t.abs().max() + 1e-9 * steps.mean())


def values_at(inputs: Input, t: Tensor) -> Tensor:
    """Return u at times (T,) or (B, T): shape (T, 1, Cu) or (T, B, Cu)."""
    if t.ndim == 1:
        u: Tensor = inputs(t)
        return u.unsqueeze(1) if u.ndim == 2 else u
    return torch.stack([inputs(now.unsqueeze(1)) for now in t.unbind(1)])
