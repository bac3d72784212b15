"""The derivatives of whole simulations: all steps linearised at once, then one linear recurrence.

A simulation by fixed steps is x_{k+1} = Φ_k(x_k, θ). With the states at hand, A_k = ∂Φ_k/∂x and B_k = ∂Φ_k/∂θ are those
of many single steps, side by side; S_{k+1} = A_k S_k + B_k is what is left of the order of time. The result is the
derivative of what was computed, to rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from ...solvers import METHODS, Damping, Field, Method
from .state_space import NeuralStateSpace

ENTRIES = 20_000_000
"""How many entries of Jacobians are made at once."""


class _Interval(nn.Module):
    """The map from one sample to the next, and the read-out, of one sample of the batch."""

    def __init__(self, model: NeuralStateSpace, method: Method) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, kind: str, state: Tensor, piece: Tensor, span: Tensor) -> Tensor:
        """Return the state (n,) after an interval, with u = Σ piece[:, k] s^k in it; or the outputs at its start."""
        model, system = self.model, self.model.system
        y = state.view(2, -1) if system.second_order else state
        if kind == "read":
            h, m = y.unbind() if system.second_order else (y, y[:0])
            out: Tensor = model.readout(h, m, piece[:, 0])
            return out

        def u(s: Tensor) -> Tensor:
            value = piece[:, -1]
            for k in reversed(range(piece.shape[1] - 1)):
                value = piece[:, k] + s.to(piece.dtype) * value
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
        for i in range(model.substeps):
            carry, _ = self.method.step(field, i * dt, dt, carry)
        return carry[0].reshape(-1)


class Sensitivities(NamedTuple):
    """Derivatives of the outputs (T, B, Cy): by the parameters, (T, B, Cy, P), and by the initial state, (..., n)."""

    parameters: Tensor
    state: Tensor


def trained(model: NeuralStateSpace) -> dict[str, nn.Parameter]:
    """Return the parameters that a simulation from a given state depends on, by name."""
    found = {name: x for name, x in model.named_parameters() if x.requires_grad}
    return {name: x for name, x in found.items() if not name.startswith("encoder.")}


@torch.no_grad()
def sensitivities(
    model: NeuralStateSpace, t: Tensor, pieces: Tensor, states: Tensor, parameters: bool = True
) -> Sensitivities:
    """Return the derivatives of a simulation.

    Parameters
    ----------
    model
        With fixed steps, by an explicit one-step method.
    t
        Times (T,) or (B, T).
    pieces
        u between the samples, (T, B, Cu, K), as polynomials in the time since the start of each interval.
    states
        What the simulation gave, (T, 2, B, d) or (T, B, d).
    parameters
        Whether those by the parameters are wanted; else they have P = 0.
    """
    method = METHODS[model.method]
    if not method.explicit_one_step or not model.substeps:
        raise ValueError(f"method={model.method!r} with substeps={model.substeps} has no fixed explicit steps")
    interval, names = _Interval(model, method), trained(model)
    values = {f"model.{name}": x.detach() for name, x in names.items()} if parameters else {}
    sizes = sum(x.numel() for x in values.values())
    count, batch = len(pieces), pieces.shape[1]
    x = (states.transpose(1, 2) if model.system.second_order else states).reshape(count * batch, -1)
    spans = (t.diff().expand(batch, -1) if t.ndim == 1 else t.diff()).T.reshape(-1)
    flat, n = pieces.reshape(count * batch, *pieces.shape[2:]), x.shape[1]

    def of_one(kind: str, state: Tensor, piece: Tensor, span: Tensor) -> tuple[Tensor, Tensor]:
        def value(own: dict[str, Tensor], state: Tensor) -> Tensor:
            out: Tensor = functional_call(interval, own, (kind, state, piece, span))
            return out

        by_own, by_state = jacrev(value, argnums=(0, 1))(values, state)
        joined = [j.reshape(len(by_state), -1) for j in by_own.values()]
        return torch.cat(joined, -1) if joined else by_state[:, :0], by_state

    def of_all(kind: str, rows: int) -> tuple[Tensor, Tensor]:
        size = max(1, ENTRIES // ((sizes + n) * n * 40))
        chunks = zip(x[:rows].split(size), flat[:rows].split(size), padded[:rows].split(size), strict=True)
        made = [vmap(lambda *one: of_one(kind, *one))(*chunk) for chunk in chunks]
        by_own, by_state = (torch.cat(part) for part in zip(*made, strict=True))
        lead = rows // batch, batch, by_state.shape[1]
        return by_own.view(*lead, sizes), by_state.view(*lead, n)

    padded = torch.cat((spans, spans.new_ones(batch)))
    b, a = of_all("step", (count - 1) * batch)
    read_own, read_state = of_all("read", count * batch)
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
