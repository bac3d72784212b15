"""The adjoint equation as torchdiffeq poses it: solved backwards by any method, with options and a norm of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..gradients.replay import Replay
from ..gradients.walks import Stored
from ..solvers import Field, real_dtype
from .solve import solve
from .state import Layout, SolveError, mixed_norm

Solve = Callable[[], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class AdjointEquation:
    """The adjoint equation of a solve, and how it is to be solved.

    The state and its cotangent a go back from each time of t to the one before, together with the integrals that are
    the gradients of the first time and of the parameters θ (Chen et al. 2018, Algorithm 2):

        y' = f,   a' = -a ∂f/∂y,   t_bar' = -a ∂f/∂t,   θ_bar' = -a ∂f/∂θ.

    At each time of t the state is set to what the solve gave there. `field` is f; `options` are those of torchdiffeq,
    with a norm of (t_bar, y, a, *θ_bar), in which y and a are as they are integrated. The `callbacks`, by the names
    they have for a solve, get that tuple as the state.
    """

    field: Field
    rtol: Any
    atol: Any
    method: str
    options: Mapping[str, Any]
    callbacks: Mapping[str, Callable[..., Any]]

    def back(
        self, options: Mapping[str, Any], t: Tensor, moving: bool, rows: Tensor, bars: Tensor, params: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Return the gradients of y0, of t if it moves, and of the parameters, from the cotangents of the rows."""
        t_bar, t = torch.zeros_like(t), t.to(rows.device)
        state = [rows.new_zeros((), dtype=real_dtype(rows)), rows[-1], bars[-1], *map(torch.zeros_like, params)]
        layout = Layout(tuple(x.shape for x in state))

        def augmented(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            value, to_t, *others = self._products(t, like(state[1], rows), like(state[2], rows), moving, params)
            return (to_t, value, *others)

        for name, callback in self.callbacks.items():
            setattr(augmented, name, callback)
        for i in range(len(t) - 1, 0, -1):
            if moving:
                t_bar[i] = (bars[i].conj() * self.field(t[i], rows[i])).real.sum()
                state[0] = state[0] - t_bar[i]
            if t[i] != t[i - 1]:
                given = (augmented, tuple(state), t[[i, i - 1]], self.rtol, self.atol, self.method, options, None)
                try:
                    _, flat, _ = solve(*given)
                except SolveError as error:
                    why = f"in the adjoint equation, with adjoint_options as options: {error.detail}"
                    raise SolveError(error.status, error.t, error.dt, detail=why) from error
                state = [like(x, was) for x, was in zip(layout.split(flat[-1]), state, strict=True)]
            state[1:3] = rows[i - 1], state[2] + bars[i - 1]
        t_bar[0] = state[0]
        return state[2], t_bar if moving else None, state[3:]

    def _products(self, t: Tensor, y: Tensor, a: Tensor, moving: bool, params: Sequence[Tensor]) -> list[Tensor]:
        """Return f, and the products of -a with its derivatives by t, y and the parameters; with a graph if one is on.

        An implicit method differentiates them by y.
        """
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            t = t.detach().requires_grad_(moving)
            y = y if y.requires_grad else y.detach().requires_grad_()
            value = self.field(t, y)
            wanted = [*([t] if moving else []), y, *params]
            products: Sequence[Tensor] = [torch.zeros_like(x) for x in wanted]
            if value.requires_grad:
                products = torch.autograd.grad(
                    value, wanted, -a, retain_graph=True, create_graph=graph, materialize_grads=True
                )
        return [value if graph else value.detach(), *([] if moving else [torch.zeros_like(t)]), *products]


class SolvedBack(torch.autograd.Function):
    """A solve without a graph, whose gradient is the solution of its adjoint equation."""

    @staticmethod
    def forward(
        ctx: Any, equation: AdjointEquation, forward: Solve, y0: Tensor, t: Tensor, *params: Tensor
    ) -> tuple[Tensor, ...]:
        rows, event_t = forward()
        ctx.equation, ctx.adjoint_options = equation, dict(equation.options)
        ctx.save_for_backward(t, rows, event_t, *params)
        return (rows,) if event_t is None else (rows, event_t)

    @staticmethod
    def backward(ctx: Any, bars: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            refuse("create_graph=True")
        t, rows, event_t, *params = ctx.saved_tensors
        times = t if event_t is None else torch.stack((t[0].to(event_t.device), event_t))
        y0_bar, t_bar, params_bar = ctx.equation.back(ctx.adjoint_options, times, t.requires_grad, rows, bars, params)
        if t_bar is not None and event_t is not None:
            t_bar[1] = 0.0
        return None, None, y0_bar, t_bar, *params_bar


@dataclass(frozen=True)
class Kept(Stored):
    """Every carry is kept, and how the adjoint equation would be solved."""

    equation: AdjointEquation


class ReplayOrBack(Replay):
    """A replay of steps; where another norm has been put into the `adjoint_options` of its node, the adjoint equation.

    Its walk is `Kept`.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        outputs = Replay.forward(ctx, *args)
        ctx.adjoint_options, ctx.rows = dict(ctx.walk.equation.options), outputs[0].detach()
        ctx.version = ctx.rows._version
        return outputs

    @staticmethod
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        equation = ctx.walk.equation
        if ctx.adjoint_options["norm"] is equation.options["norm"] or bars[0] is None:
            return Replay.backward(ctx, *bars)
        if torch.is_grad_enabled():
            refuse("create_graph=True")
        if ctx.rows._version != ctx.version:
            raise RuntimeError("the solution was changed in place, which the adjoint equation needs as it was")
        _, t, *params = ctx.saved_tensors
        y0_bar, t_bar, params_bar = equation.back(ctx.adjoint_options, t, t.requires_grad, ctx.rows, bars[0], params)
        return *[None] * 6, y0_bar, t_bar, *params_bar


def adjoint_norm(
    given: Any, layout: Layout, state_norm: Callable[[Tensor], Any] | None
) -> Callable[[tuple[Tensor, ...]], Any]:
    """Return the norm of (t_bar, y, a, *θ_bar): one of the user's form of y and a, "seminorm", or the default, None.

    The default is the largest of |t_bar|, the norm of the solve of y and of a, and root-mean-square norms; the seminorm
    leaves the parameters out (Kidger, Chen, Lyons 2021).
    """
    if callable(given):
        split = layout.split if layout.shapes is not None else lambda y: (y,)
        return lambda state: given((state[0], *split(state[1]), *split(state[2]), *state[3:]))
    measure = state_norm or (lambda y: mixed_norm((y,)))

    def norm(state: tuple[Tensor, ...]) -> Tensor:
        t_bar, y, a, *params_bar = state
        norms = [t_bar.abs(), measure(y), measure(a)]
        if given != "seminorm" and params_bar:
            norms.append(mixed_norm(params_bar))
        return torch.stack([x.to(t_bar.real.dtype) for x in map(torch.as_tensor, norms)]).max()

    return norm


def like(x: Tensor, was: Tensor) -> Tensor:
    """Return a tensor in the dtype of another one; between real numbers nothing is complex but for the dtype."""
    return (x if was.is_complex() else x.real).to(was.dtype)


def refuse(asked: str) -> None:
    """Raise, for a derivative that only the steps of a solve have."""
    raise RuntimeError(
        f"the adjoint equation has no derivatives by {asked}: leave out adjoint_rtol, adjoint_atol, adjoint_method and "
        "adjoint_options, or take odeint"
    )
