"""Simulations by fixed steps as one system of equations: solved, and differentiated, for all steps at once.

A simulation is x_{k+1} = Φ_k(x_k, θ). With states at hand, A_k = ∂Φ_k/∂x and B_k = ∂Φ_k/∂θ are those of many single
steps, side by side, and a linear recurrence is what is left of the order of time:
δ_{k+1} = A_k δ_k + Φ_k(x_k) - x_{k+1} for a step of Newton's method (Lim, Zhu, Selfridge, Kasim, "Parallelizing
non-linear sequential models over the sequence length", 2024), and S_{k+1} = A_k S_k + B_k for the derivatives of what
was computed, which are exact to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vjp, vmap

from ...solvers import METHODS, Damping, Field
from .state_space import NeuralStateSpace

ENTRIES = 20_000_000
"""How many entries of Jacobians are made at once."""


class Interval(nn.Module):
    """The map from one sample to the next, and the read-out, of one sample of the batch or of many.

    Raises
    ------
    ValueError
        For a model without fixed steps of an explicit one-step method.
    """

    def __init__(self, model: NeuralStateSpace) -> None:
        super().__init__()
        self.model, self.method = model, METHODS[model.method]
        if not self.method.explicit_one_step or not model.substeps:
            raise ValueError(f"method={model.method!r} with substeps={model.substeps} has no fixed explicit steps")

    def forward(self, kind: str, state: Tensor, piece: Tensor, span: Tensor) -> Tensor:
        """Return the state (..., n) after an interval, u = Σ piece[..., k] s^k in it; or the outputs at its start."""
        model, system = self.model, self.model.system
        y = state.unflatten(-1, (2, -1)).movedim(-2, 0) if system.second_order else state
        if kind == "read":
            h, m = y.unbind() if system.second_order else (y, y[..., :0])
            out: Tensor = model.readout(h, m, piece[..., 0])
            return out

        def u(s: Tensor) -> Tensor:
            value = piece[..., -1]
            for k in reversed(range(piece.shape[-1] - 1)):
                value = piece[..., k] + s.to(piece.dtype) * value
            return value

        gamma, xi = system.coefficients()
        if self.method.damped:
            field = Field(lambda s, h: system.f(s, h, u(s)), y.dtype, Damping.of(gamma, xi, y), system.activation)
        else:
            g, x = (None if c is None else c.to(y.dtype) for c in (gamma, xi))
            field = Field(lambda s, z: system.rhs(s, z, g, x, u(s)), y.dtype, Damping.of(gamma, xi, y))
        start = torch.zeros((), dtype=torch.float64)
        carry = self.method.start(field, start, y)
        dt = span / model.substeps
        for i in range(model.substeps - 1):
            carry, _ = self.method.step(field, i * dt, dt, carry)
        carry, _ = self.method.last_step(field, (model.substeps - 1) * dt, dt, carry)
        return carry[0].movedim(0, -2).flatten(-2) if system.second_order else carry[0]


class Sensitivities(NamedTuple):
    """Derivatives of the outputs (T, B, Cy): by the parameters, (T, B, Cy, P), and by the initial state, (..., n).

    Examples
    --------
    >>> import torch
    >>> from hbode.models.continuous import Sensitivities
    >>> Sensitivities(torch.zeros(3, 2, 4), torch.zeros(3, 2, 2)).state.shape
    torch.Size([3, 2, 2])
    """

    parameters: Tensor
    state: Tensor


def trained(model: NeuralStateSpace) -> dict[str, nn.Parameter]:
    """Return the parameters that a simulation from a given state depends on, by name."""
    found = {name: x for name, x in model.named_parameters() if x.requires_grad}
    return {name: x for name, x in found.items() if not name.startswith("encoder.")}


class Linearised:
    """All steps of a simulation, linearised.

    Parameters
    ----------
    model
        With fixed steps, by an explicit one-step method.
    t
        Times (T,) or (B, T).
    pieces
        u between the samples, (T, B, Cu, K), as polynomials in the time since the start of each interval.
    """

    def __init__(self, model: NeuralStateSpace, t: Tensor, pieces: Tensor) -> None:
        self.model, self.interval = model, Interval(model)
        self.count, self.batch = pieces.shape[:2]
        spans = (t.diff().expand(self.batch, -1) if t.ndim == 1 else t.diff()).T.reshape(-1)
        self.spans = torch.cat((spans, spans.new_ones(self.batch)))
        self.pieces = pieces.reshape(self.count * self.batch, *pieces.shape[2:])

    def maps(self, kind: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return values, and derivatives by the states, of all steps or read-outs from x (K, B, n)."""

        def of_rows(states: Tensor, pieces: Tensor, spans: Tensor) -> tuple[Tensor, Tensor]:
            out, cotangents = vjp(lambda z: self.interval(kind, z, pieces, spans.unsqueeze(-1)), states)[:2]
            eye = torch.eye(out.shape[-1], dtype=out.dtype)
            return out, torch.stack([cotangents(e.expand_as(out))[0] for e in eye], 1)

        out, by_state = self._chunked(of_rows, x, x.shape[2])
        return out, by_state

    def maps_by_all(self, kind: str, x: Tensor, own: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return derivatives by parameters and by states of all steps or read-outs from x (K, B, n)."""

        def of_one(state: Tensor, piece: Tensor, span: Tensor) -> tuple[Tensor, Tensor]:
            def value(own: dict[str, Tensor], state: Tensor) -> Tensor:
                out: Tensor = functional_call(self.interval, own, (kind, state, piece, span))
                return out

            by_own, by_state = jacrev(value, argnums=(0, 1))(own, state)
            joined = [j.reshape(len(by_state), -1) for j in by_own.values()]
            return torch.cat(joined, -1) if joined else by_state[:, :0], by_state

        by_own, by_state = self._chunked(vmap(of_one), x, x.shape[2] + sum(value.numel() for value in own.values()))
        return by_own, by_state

    def _chunked(self, function: Callable[..., Sequence[Tensor]], x: Tensor, columns: int) -> list[Tensor]:
        """Call a function of states, pieces and spans, side by side, on as many rows at once as memory holds."""
        rows, n = len(x) * self.batch, x.shape[2]
        size = max(1, ENTRIES // (columns * n * 40))
        parts = (part[:rows].split(size) for part in (x.reshape(rows, n), self.pieces, self.spans))
        made = [function(*chunk) for chunk in zip(*parts, strict=True)]
        return [torch.cat(part).unflatten(0, (-1, self.batch)) for part in zip(*made, strict=True)]


@torch.no_grad()
def solve_all_steps(
    model: NeuralStateSpace, t: Tensor, pieces: Tensor, start: Tensor, guess: Tensor | None = None, rounds: int = 20
) -> Tensor | None:
    """Return the states of a simulation, (T, 2, B, d) or (T, B, d), by Newton's method; None if it does not converge.

    Parameters
    ----------
    model, t, pieces
        As for `Linearised`.
    start
        The state at the first time.
    guess
        The states of a simulation that is like it (default: at rest at the start).

    Examples
    --------
    >>> import torch
    >>> from hbode import SecondOrder
    >>> from hbode.models.continuous import NeuralStateSpace, PositionReadout, solve_all_steps
    >>> model = NeuralStateSpace(SecondOrder(lambda t, h, m, u: u - h), PositionReadout(1), 1, method="rk4")
    >>> t, pieces, start = torch.linspace(0, 1, 11), torch.zeros(11, 3, 1, 4), torch.ones(2, 3, 1)
    >>> solve_all_steps(model, t, pieces, start).shape
    torch.Size([11, 2, 3, 1])
    """
    steps = Linearised(model, t, pieces)
    x = model.flat(start.expand(len(pieces), *start.shape) if guess is None else guess).clone()
    x[0] = model.flat(start.unsqueeze(0))[0]
    limit = 1e3 * torch.finfo(x.dtype).eps
    last = torch.inf
    for _ in range(rounds):
        out, a = steps.maps("step", x[:-1])
        move = affine_scan(a, (out - x[1:]).unsqueeze(-1)).squeeze(-1)
        x[1:] += move
        size = float(move.abs().max()) if len(move) else 0.0
        if not size < 1e6:
            return None
        # The last step of a quadratic convergence need not be waited for.
        if size <= limit * (1 + float(x.abs().max())) or size**2 < limit * last * 1e-3 < limit:
            return model.whole(x)
        last = size
    return None


def affine_scan(a: Tensor, b: Tensor) -> Tensor:
    """Return x_1, ..., x_K of x_{k+1} = a_k x_k + b_k from x_0 = 0, for a (K, B, n, n) and b (K, B, n, m).

    By doubling: about log₂ K products of all matrices.
    """
    reach = 1
    while reach < len(a):
        b = torch.cat((b[:reach], b[reach:] + a[reach:] @ b[:-reach]))
        if 2 * reach < len(a):
            a = torch.cat((a[:reach], a[reach:] @ a[:-reach]))
        reach *= 2
    return b


@torch.no_grad()
def sensitivities(model: NeuralStateSpace, t: Tensor, pieces: Tensor, states: Tensor) -> Sensitivities:
    """Return the derivatives of a simulation.

    Parameters
    ----------
    model, t, pieces
        As for `Linearised`.
    states
        What the simulation gave, (T, 2, B, d) or (T, B, d).

    Examples
    --------
    >>> import torch
    >>> from hbode import SecondOrder
    >>> from hbode.models.continuous import NeuralStateSpace, PositionReadout, sensitivities, solve_all_steps
    >>> model = NeuralStateSpace(SecondOrder(lambda t, h, m, u: u - h), PositionReadout(1), 1, method="rk4")
    >>> t, pieces, start = torch.linspace(0, 1, 11), torch.zeros(11, 3, 1, 4), torch.ones(2, 3, 1)
    >>> sensitivities(model, t, pieces, solve_all_steps(model, t, pieces, start)).state.shape
    torch.Size([11, 3, 1, 2])
    """
    steps = Linearised(model, t, pieces)
    own = {f"model.{name}": x.detach() for name, x in trained(model).items()}
    x = model.flat(states)
    b, a = steps.maps_by_all("step", x[:-1], own)
    read_own, read_state = steps.maps_by_all("read", x, own)
    count, batch, n = x.shape
    sizes = b.shape[-1]
    s = x.new_zeros(batch, n, sizes + n)
    s[:, :, sizes:] = torch.eye(n, dtype=x.dtype)
    out = x.new_empty(count, batch, read_state.shape[2], sizes + n)
    for k in range(count):
        torch.matmul(read_state[k], s, out=out[k])
        if k < count - 1:
            s = a[k] @ s
            s[:, :, :sizes] += b[k]
    out[..., :sizes] += read_own
    return Sensitivities(out[..., :sizes], out[..., sizes:])
