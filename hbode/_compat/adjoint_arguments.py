"""The arguments of `odeint_adjoint`: which gradient they ask for, and the adjoint equation they describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..gradients import DiscreteAdjoint, Problem, Solved
from ..gradients.backprop import differentiates_steps
from ..gradients.replay import replayed
from ..solvers import Autocast
from ..solvers.warning import warn
from .adjoint import AdjointEquation, Kept, ReplayOrBack, SolvedBack, adjoint_norm, refuse
from .events import EventFn, Func
from .methods import ADAPTIVE, SCIPY, check_method, known_options
from .plans import CALLBACKS, callbacks
from .solve import flat_field, ignore, solve
from .state import ArgumentError, ArgumentTypeError, Layout, State, tolerance


class Arguments(NamedTuple):
    """The arguments of `odeint`."""

    func: Func
    y0: State
    t: Tensor
    rtol: Any
    atol: Any
    method: str | None
    options: Mapping[str, Any] | None
    event_fn: EventFn | None


class AdjointArguments(NamedTuple):
    """What is said of the adjoint equation; None: what is said of the solve."""

    rtol: Any
    atol: Any
    method: str | None
    options: Mapping[str, Any] | None

    def ask(self) -> bool:
        """Return whether they ask for an adjoint equation.

        The seminorm alone does not: it keeps the parameters out of the choice of steps, and so do recorded steps.
        """
        said = {key for key, value in (self.options or {}).items() if (key, value) != ("norm", "seminorm")}
        return bool(said) or any(x is not None for x in (self.rtol, self.atol, self.method))


def run_adjoint(forward: Arguments, how: AdjointArguments, adjoint_params: Any) -> Any:
    """Return what `odeint_adjoint` returns."""
    params = _checked_params(forward.func, adjoint_params)
    kept = tuple({id(x): x for x in params if x.requires_grad}.values())
    layout, y = Layout.of(forward.y0)
    name = check_method(forward.method if how.method is None else how.method, "adjoint_method")
    asked = how.ask() or SCIPY in (name, forward.method)
    found = _callbacks(forward.func, name, asked)
    equation = _equation(forward, how, name, layout, y, kept, found if asked else {})
    if callable((how.options or {}).get("norm")) and not all(x.requires_grad for x in params):
        warn("adjoint_params that need no gradient are left out of the state that adjoint_options['norm'] gets")
    if asked:
        if differentiates_steps():
            refuse("transforms of torch.func or forward mode")
        rows, *events = SolvedBack.apply(equation, lambda: solve(*forward)[1:], y, forward.t, *kept)
    else:

        def recorded(problem: Problem) -> Solved:
            problem = replace(problem, leaves=kept, on_replay=_on_replay(layout, [*found.values()]) if found else None)
            if forward.event_fn is not None or differentiates_steps():
                return DiscreteAdjoint().solve(problem, ignore)
            return replayed(problem, Kept(equation), ignore, ReplayOrBack)

        _, rows, *events = solve(*forward, recorded)
    states = layout.split(rows)
    return states if forward.event_fn is None else (events[0], states)


def find_parameters(module: nn.Module) -> list[Tensor]:
    """Return the parameters of a module; of a copy made by nn.DataParallel, the tensors that stand for them."""
    if not isinstance(module, nn.Module):
        raise ArgumentTypeError(f"module must be an nn.Module, got {type(module).__name__}")
    if getattr(module, "_is_replica", False):  # it holds its parameters as plain tensors
        tensors = (x for part in module.modules() for x in vars(part).values() if isinstance(x, Tensor))
        return [x for x in tensors if x.requires_grad]
    return list(module.parameters())


def _checked_params(func: Any, given: Any) -> tuple[Tensor, ...]:
    if given is None:
        if not isinstance(func, nn.Module):
            raise ArgumentError(
                "func must be an nn.Module where adjoint_params are not given; adjoint_params=() says that there are "
                f"none. Got {type(func).__name__}"
            )
        given = find_parameters(func)
    params = tuple(given)
    for param in params:
        if not isinstance(param, Tensor):
            raise ArgumentTypeError(f"adjoint_params must be tensors, got {type(param).__name__}")
    return params


def _equation(
    forward: Arguments,
    how: AdjointArguments,
    name: str,
    layout: Layout,
    y: Tensor,
    params: tuple[Tensor, ...],
    found: Mapping[str, Callable[..., Any]],
) -> AdjointEquation:
    """Return the adjoint equation, with what is not said of it taken from the solve."""
    if how.method not in (None, forward.method) and forward.options is not None and how.options is None:
        raise ArgumentError("adjoint_options must be given where options are and adjoint_method is not method")
    tols: list[Any] = []
    for key, said, tol in (("rtol", how.rtol, forward.rtol), ("atol", how.atol, forward.atol)):
        if said is None:
            tols.append(float(torch.as_tensor(tolerance(key, tol, layout, y)).min()))
        else:
            state = Layout(tuple(x.shape for x in (y.new_zeros(()), y, y, *params)))
            tolerance(f"adjoint_{key}", said, state, y, "(t, y, y_bar, *adjoint_params)")
            tols.append(said)
    norm = (how.options or {}).get("norm")
    if norm not in (None, "seminorm") and not callable(norm):
        raise ArgumentError(f"adjoint_options['norm'] must be callable or 'seminorm', got {norm!r}")
    options = dict(forward.options or {})
    if how.options is not None:
        options = known_options(name, how.options, "adjoint_options")
    options["norm"] = adjoint_norm(norm, layout, layout.norm((forward.options or {}).get("norm")))
    if name == SCIPY:
        del options["norm"]
        if norm is not None:
            warn("adjoint_options['norm'] is not used by 'scipy_solver': scipy measures errors in a norm of its own")
    field = flat_field(Autocast.now(y.device.type).around(forward.func), layout, y)
    return AdjointEquation(field, tols[0], tols[1], name, options, found)


def _callbacks(func: Any, name: str, asked: bool) -> dict[str, Callable[..., Any]]:
    """Return the callbacks for the backward pass, by their names for a solve."""
    count = 0 if name == SCIPY else 1 if name not in ADAPTIVE else 3 if asked else 2
    why = " (the backward pass repeats accepted steps and rejects none)" if count == 2 else ""
    names = [f"{key}_adjoint" for key in CALLBACKS]
    found = callbacks(func, names, names[:count], name, why)
    return {key.removesuffix("_adjoint"): callback for key, callback in found.items()}


def _on_replay(layout: Layout, found: list[Callable[..., Any]]) -> Callable[[Any, Tensor, Tensor | None], None]:
    def on_replay(step: Any, y: Tensor, y_bar: Tensor | None) -> None:
        end, span = y.new_tensor([step.end.value, abs(step.end.value - step.start.value)], dtype=torch.float64)
        bar = torch.zeros_like(y) if y_bar is None else y_bar
        for callback in found:
            callback(end, (layout.split(y), layout.split(bar)), span)

    return on_replay
