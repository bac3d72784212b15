"""The functions of torchdiffeq."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..dense import DenseOutput
from ..gradients import Backprop
from .events import EventFn, Func, positive_at_start, with_event_gradient
from .methods import ADAPTIVE, SCIPY, check_method, warn_unknown
from .plans import CALLBACKS, callbacks
from .solve import ignore, prepared, raise_failure, run
from .state import ArgumentError, ArgumentTypeError, Layout, State


def odeint(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFn | None = None,
) -> Any:
    """Integrate dy/dt = func(t, y) from y(t[0]) = y0; gradients by backpropagation through the steps.

    Parameters
    ----------
    func
        ``func(t, y)`` returning the shape of y, or a tuple of the shapes of y; its t has shape () and the real dtype
        of y. It may have the attributes callback_step, callback_accept_step and callback_reject_step, called as
        ``callback(t0, y0, dt)`` with the time and state at which a step starts and its length, positive. Methods on
        a fixed grid know the first only.
    y0
        A tensor of any shape, floating or complex, or a tuple of them, which has one dtype after promotion.
    t
        Times of the solution, shape (T,), floating, strictly increasing or decreasing; the first is that of y0.
    rtol, atol
        Tolerances of the local error: numbers, tensors that broadcast to y0, or for a tuple y0 one for each entry.
    method
        dopri5 (default), dopri8, tsit5, bosh3, fehlberg2, adaptive_heun; on a fixed grid euler, midpoint, heun2, heun3,
        rk4 (the 3/8 rule), explicit_adams, implicit_adams, fixed_adams (the same), and the implicit ones above;
        scipy_solver, without gradient.
    options
        Adaptive: first_step, min_step, max_step, safety, ifactor, dfactor, step_t and jump_t (times to step to, and
        times at which func jumps), max_num_steps (between two times of t), norm (of the user's form of the state),
        dtype (accepted; time is in float64 always). Fixed grid: step_size or grid_constructor(func, y0, t), else t
        is the grid; interp ("linear", "cubic"); perturb, to evaluate func just inside the ends of each step. Adams
        besides: max_order, max_iters; implicit ones: max_iters. scipy_solver: solver, min_step, max_step.
        Others give a warning.
    event_fn
        ``event_fn(t, y)``, real, any shape: the solve ends where one of its entries first changes sign. The second
        and last entry of t then only gives the direction. A method on a fixed grid needs `step_size`.

    Returns
    -------
    Tensor or tuple of Tensor
        Shape (T, *y0), in the form of y0. With `event_fn` a pair: the time of the event, shape (), without
        gradient, and the solution at t[0] and at that time, shape (2, *y0); see `odeint_event` for its gradient.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        For arguments that do not fit; they are ValueError and TypeError.
    NotImplementedError
        For events by scipy_solver.
    SolveError
        If an adaptive solve or an implicit step fails, or no event comes within 20,000 steps of a fixed grid.
    """
    return run(func, y0, t, rtol, atol, method, options, event_fn)


def odeint_adjoint(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFn | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Any = None,
) -> Any:
    """Integrate as `odeint`, storing the states of the accepted steps alone.

    The backward pass runs each accepted step again and differentiates it: the gradient is that of `odeint` to
    rounding, for the memory of the adjoint method. As no adjoint equation is solved, there is nothing to tolerate:
    adjoint_rtol, adjoint_atol, adjoint_method and adjoint_options are checked and have no effect.

    Parameters
    ----------
    func, y0, t, rtol, atol, method, options, event_fn
        As in `odeint`. If func has callback_step_adjoint or callback_accept_step_adjoint, they are called in the
        backward pass for each step run again, as ``callback(t1, (y, y_bar), dt)``: the time and the state at its
        end, the cotangent that later steps sent there, and its length, positive.
    adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options
        For compatibility. `adjoint_options` may hold norm="seminorm", or a norm, which is never called.
    adjoint_params
        The tensors that receive gradients besides y0 and t, and the only ones. Default: the parameters of func.

    Returns
    -------
    Tensor or tuple
        As `odeint`; with `event_fn` the time of the event may be differentiated, with the result zero.

    Raises
    ------
    ValueError
        If func is no module and adjoint_params is not given, and as `odeint`.
    NotImplementedError
        If a gradient is wanted from scipy_solver, and as `odeint`.
    """
    params = _adjoint_params(func, adjoint_params)
    chosen = method if adjoint_method is None else adjoint_method
    if chosen != method and options is not None and adjoint_options is None:
        raise ArgumentError("adjoint_options must be given where options are and adjoint_method is not method")
    layout, _ = Layout.of(y0)
    for name, tol in (("adjoint_rtol", adjoint_rtol), ("adjoint_atol", adjoint_atol)):
        if isinstance(tol, Tensor) and tol.requires_grad:
            raise ArgumentError(f"{name} must not require a gradient")
    name = check_method(chosen, "adjoint_method")
    if adjoint_options is not None:
        warn_unknown(name, adjoint_options, "adjoint_options")
        norm = adjoint_options.get("norm", "seminorm")
        if norm != "seminorm" and not callable(norm):
            raise ArgumentError(f"adjoint_options['norm'] must be callable or 'seminorm', got {norm!r}")
    supported = [f"{key}_adjoint" for key in CALLBACKS[: 2 if name in ADAPTIVE else 1]]
    why = " (the backward pass repeats accepted steps and rejects none)" if name in ADAPTIVE else ""
    names = [f"{key}_adjoint" for key in CALLBACKS]
    found = list(callbacks(func, names, supported, name, why).values())

    def on_replay(step: Any, y: Tensor, y_bar: Tensor | None) -> None:
        end, span = y.new_tensor([step.end.value, abs(step.end.value - step.start.value)], dtype=torch.float64)
        bar = torch.zeros_like(y) if y_bar is None else y_bar
        for callback in found:
            callback(end, (layout.split(y), layout.split(bar)), span)

    return run(func, y0, t, rtol, atol, method, options, event_fn, params, on_replay if found else None)


def odeint_event(
    func: Func,
    y0: State,
    t0: Tensor,
    *,
    event_fn: EventFn,
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> Any:
    """Integrate until an entry of event_fn changes its sign; gradients reach the time of the event.

    The derivative of that time comes from the implicit function theorem, dτ = -dg / (∂g/∂t + ∂g/∂y · func) for g the
    entry of event_fn that vanished. It reaches all that the state at the event depends on, and what event_fn
    itself uses.

    Parameters
    ----------
    func, y0, event_fn
        As in `odeint`.
    t0
        Time of y0: a floating tensor with one entry.
    reverse_time
        Whether to integrate towards earlier times.
    odeint_interface
        `odeint`, `odeint_adjoint`, or a function with their arguments and results.
    **kwargs
        Passed to `odeint_interface`.

    Returns
    -------
    event_t
        Time of the event, shape ().
    solution
        States at t0 and at the event, shape (2, *y0), in the form of y0.

    Raises
    ------
    ArgumentTypeError
        If t0 is no floating tensor with one entry; and as `odeint_interface`.
    """
    if not isinstance(t0, Tensor) or not t0.is_floating_point() or t0.numel() != 1:
        raise ArgumentTypeError(f"t0 must be a floating-point tensor with one entry, got {t0!r}")
    start = t0.reshape(1)
    ahead = 1.0 + start.detach().abs()
    t = torch.cat((start, start.detach() + (-ahead if reverse_time else ahead)))
    event_t, solution = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    if not torch.is_grad_enabled():
        return event_t, solution
    layout, _ = Layout.of(y0)
    rows = (solution,) if layout.shapes is None else solution
    _, end = Layout.of(tuple(row[-1] for row in rows) if layout.shapes else solution[-1])
    event_t, end = with_event_gradient(func, positive_at_start(event_fn, t[0], y0), layout, event_t.detach(), end)
    last = layout.split(end)
    if isinstance(last, Tensor):
        return event_t, torch.stack((solution[0], last))
    return event_t, tuple(torch.stack((row[0], x)) for row, x in zip(rows, last, strict=True))


def odeint_dense(
    func: Func,
    y0: State,
    t0: Tensor | float,
    t1: Tensor | float,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[[Tensor | float], State]:
    """Integrate from t0 to t1 and return the solution as a differentiable function of time.

    Parameters
    ----------
    func, y0, rtol, atol, method, options
        As in `odeint`.
    t0, t1
        Start and end, numbers or floating tensors with one entry.

    Returns
    -------
    callable
        Takes a time, or times of shape (n,), between t0 and t1; returns the state, shape (*y0), or (n, *y0).

    Raises
    ------
    NotImplementedError
        For scipy_solver, and as `odeint`.
    ValueError
        From the callable, for a time outside the solve or of more than one axis.
    """
    ends = [x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64) for x in (t0, t1)]
    t = torch.cat([x.reshape(-1) for x in ends])
    if len(t) != 2:
        raise ArgumentError(f"t0 and t1 must have one entry each, got {t0!r} and {t1!r}")
    if check_method(method) == SCIPY:
        raise NotImplementedError("method 'scipy_solver' has no dense output; take dopri5")
    layout, problem, precision = prepared(func, y0, t, rtol, atol, method, options)
    problem = replace(problem, plan=replace(problem.plan, keep_interpolants=True))
    with precision.off():
        solved = Backprop().solve(problem, ignore)
    raise_failure(solved.tape)
    output = DenseOutput(problem, solved)

    def dense(t_eval: Tensor | float) -> State:
        at = torch.as_tensor(t_eval, dtype=torch.float64, device=problem.y0.device)
        y = output(at if at.ndim else at.reshape(1))
        return layout.split(y if at.ndim else y[0])

    return dense


def find_parameters(module: nn.Module) -> list[Tensor]:
    """Return the parameters of a module; of a copy made by nn.DataParallel, the tensors that stand for them."""
    if not isinstance(module, nn.Module):
        raise ArgumentTypeError(f"module must be an nn.Module, got {type(module).__name__}")
    if getattr(module, "_is_replica", False):  # it holds its parameters as plain tensors
        tensors = (x for part in module.modules() for x in vars(part).values() if isinstance(x, Tensor))
        return [x for x in tensors if x.requires_grad]
    return list(module.parameters())


def _adjoint_params(func: Any, given: Any) -> tuple[Tensor, ...]:
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
    return tuple({id(param): param for param in params if param.requires_grad}.values())
