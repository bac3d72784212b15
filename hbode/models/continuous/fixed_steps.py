"""Simulations by fixed steps from sample to sample, and their discrete adjoint, for the training of large models.

The steps x_{k+1} = Φ_k(x_k, θ) follow each other; what is to be pulled back through them does not. With the states at
hand, A_k = ∂Φ_k/∂x are those of many single steps, side by side, n vector-Jacobian products for a state of n numbers.
Of the order of time the recurrence λ_k = A_kᵀ (λ_{k+1} + g_{k+1}) alone is left, and the cotangent of the parameters is
one more product, of all steps with their λ. It is that of the computed solution, to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import functional_call, vjp

from ...solvers import CannotCompileError, Uniform, compiled, warn_of_eager
from .sensitivities import Interval, affine_scan, trained
from .state_space import NeuralStateSpace

BLOCK = 50
"""How many samples are one call, and side by side in the adjoint: so that its stages stay near the processor."""


def fixed_step_states(
    model: NeuralStateSpace, t: Tensor, pieces: Tensor, start: Tensor, compile: bool = False
) -> Tensor:
    """Return the states of a simulation, (T, 2, B, d) or (T, B, d); gradients reach `start` and the parameters.

    Parameters
    ----------
    model
        With fixed steps of an explicit one-step method.
    t
        Times (T,) or (B, T).
    pieces
        u between the samples, (T, B, Cu, K), as polynomials in the time since the start of each interval. They receive
        no gradient.
    start
        The state at the first time, (2, B, d) or (B, d).
    compile
        Run forward and adjoint as compiled code, which does not depend on T: one graph each for a model and a B.

    Raises
    ------
    ValueError
        For a model without such steps.

    Examples
    --------
    >>> import torch
    >>> from hbode import SecondOrder
    >>> from hbode.models.continuous import NeuralStateSpace, PositionReadout, fixed_step_states
    >>> model = NeuralStateSpace(SecondOrder(lambda t, h, m, u: u - h), PositionReadout(1), 1, method="rk4")
    >>> t, pieces, start = torch.linspace(0, 1, 11), torch.zeros(11, 3, 1, 4), torch.ones(2, 3, 1)
    >>> fixed_step_states(model, t, pieces, start).shape
    torch.Size([11, 2, 3, 1])
    """
    interval = Interval(model)
    names, parameters = zip(*trained(model).items(), strict=True) if trained(model) else ((), ())
    x0 = model.flat(start.unsqueeze(0))[0]
    count, batch = len(pieces) - 1, len(x0)
    # whole blocks: what they have too many are steps of no length
    missing = -count % BLOCK
    spans = t.diff().movedim(-1, 0).reshape(count, -1).to(x0.dtype)
    spans = torch.cat((spans, spans.new_zeros(missing, spans.shape[1])))
    pieces = torch.cat((pieces[:-1], pieces[-1:].expand(missing, *pieces.shape[1:])))
    states: Tensor = _FixedSteps.apply(interval, names, pieces, spans, compile, x0, *parameters)
    return model.whole(states[: count + 1].view(count + 1, batch, -1))


class _FixedSteps(torch.autograd.Function):
    """States (T, B, n) from x0 (B, n)."""

    @staticmethod
    def forward(
        ctx: Any,
        interval: Interval,
        names: tuple[str, ...],
        pieces: Tensor,
        spans: Tensor,
        compile: bool,
        x0: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        out, x = x0.new_empty(1 + len(pieces), *x0.shape), x0
        out[0] = x0
        for piece, span, part in zip(*(x.split(BLOCK) for x in (pieces, spans, out[1:])), strict=True):
            x = _run(roll, compile, interval, x, piece, span, part)
        ctx.save_for_backward(out, pieces, spans, *parameters)
        ctx.interval, ctx.names, ctx.compile = interval, names, compile
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, bars: Tensor) -> tuple[Any, ...]:
        states, pieces, spans, *parameters = ctx.saved_tensors
        own = {f"model.{name}": x.detach() for name, x in zip(ctx.names, parameters, strict=True)}
        after, totals = torch.zeros_like(states[0]), [torch.zeros_like(x) for x in parameters]
        blocks = zip(
            states[:-1].split(BLOCK), pieces.split(BLOCK), spans.split(BLOCK), bars[1:].split(BLOCK), strict=True
        )
        for x, piece, span, bar in reversed(list(blocks)):
            after, *parts = _run(pull, ctx.compile, ctx.interval, own, x, piece, span, bar, after)
            for total, part in zip(totals, parts, strict=True):
                total += part
        return None, None, None, None, None, after + bars[0], *totals


def roll(interval: Interval, x: Tensor, pieces: Tensor, spans: Tensor, out: Tensor) -> Tensor:
    """Return the state behind K steps from x (B, n), and write that behind each of them to `out`, (K, B, n)."""

    def step(k: Tensor, x: Tensor) -> Tensor:
        piece, span = (table.index_select(0, k).squeeze(0) for table in (pieces, spans))
        x = interval("step", x, piece, span.view(()) if len(span) == 1 else span.unsqueeze(-1))
        out.index_copy_(0, k, x.unsqueeze(0))
        return x.clone()

    if not torch.compiler.is_compiling():
        for k in torch.arange(len(pieces), device=x.device).split(1):
            x = step(k, x)
        return x

    def on(k: Tensor, x: Tensor) -> Tensor:
        return k < len(pieces)

    def advance(k: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return k + 1, step(k.view(1), x)

    done: Any = torch.while_loop(on, advance, (torch.zeros((), dtype=torch.long, device=x.device), x))
    last: Tensor = done[1]
    return last


def pull(
    interval: Interval, own: dict[str, Tensor], x: Tensor, pieces: Tensor, spans: Tensor, bars: Tensor, after: Tensor
) -> tuple[Tensor, ...]:
    """Return the cotangents of the first of the states x (K, B, n) that K steps start from, and of the parameters.

    `bars` are the direct ones of the states that the steps end with, (K, B, n); `after` is what comes from behind them.
    """
    count, batch, n = x.shape
    rows, piece = x.flatten(0, 1), pieces.flatten(0, 1)
    span = spans.expand(count, batch).reshape(-1, 1)
    out, cotangents = vjp(lambda z, own: functional_call(interval, own, ("step", z, piece, span)), rows, own)[:2]
    eye = torch.eye(n, dtype=x.dtype, device=x.device)
    a = torch.stack([cotangents(e.expand_as(out))[0].view_as(x) for e in eye], 3).flip(0)  # A_kᵀ, the last first
    sources = torch.cat((bars.flip(0), torch.zeros_like(after).unsqueeze(0)))
    sources[0] += after
    found = affine_scan(torch.cat((a[:1], a)), sources.unsqueeze(-1)).squeeze(-1)
    return found[-1], *cotangents(found[:-1].flip(0).flatten(0, 1))[1].values()


def _run(function: Any, compile: bool, interval: Interval, *given: Any) -> Any:
    """Call a function without a graph, compiled if that is asked for and possible."""
    with torch.no_grad():
        method = interval.method
        if compile and isinstance(method, Uniform):
            device = given[-1].device
            method.lay_out(device)
            try:
                return compiled(function, method, interval.model.system.f, device.type, fused=True)(interval, *given)
            except CannotCompileError as error:
                warn_of_eager(error)
        return function(interval, *given)
