"""The functions of torchdiffeq."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..gradients import Backprop
from ..output.dense import DenseOutput
from .adjoint_arguments import AdjointArguments, Arguments, run_adjoint
from .events import EventFn, Func, positive_at_start, with_event_gradient
from .methods import SCIPY, check_method
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
        rk4 (the 3/8 rule), explicit_adams, implicit_adams, fixed_adams (the same), and implicit ones: implicit_euler,
        implicit_midpoint, trapezoid, sdirk2, trbdf2, radauIIA3, radauIIA5, gl4, gl6; scipy_solver, without gradient,
        which it has in `odeint_adjoint`.
    options
        Adaptive: first_step, min_step, max_step, safety, ifactor, dfactor, step_t and jump_t (times to step to, and
        times at which func jumps), max_num_steps (between two times of t), norm (of the user's form of the state),
        dtype (time is in float64 always; others give a warning). Fixed grid: step_size or grid_constructor(func, y0,
        t), else t is the grid; interp ("linear", "cubic"); perturb, to evaluate func just inside the ends of each step,
        or where it is given as False at both ends, the last time included; norm, of which a fixed grid makes no use, as
        it measures no error. Adams besides: max_order, max_iters, implicit; implicit ones: max_iters. scipy_solver:
        solver, max_step, min_step (of LSODA; that of scipy 1.17 takes no notice of it). Others give a warning.
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

    Examples
    --------
    >>> import torch
    >>> from hbode.compat import odeint
    >>> odeint(lambda t, y: -y, torch.ones(2), torch.linspace(0, 1, 3)).shape
    torch.Size([3, 2])
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
    rounding, for the memory of the adjoint method. Where adjoint_rtol, adjoint_atol, adjoint_method or
    adjoint_options, other than norm="seminorm" alone, say how an adjoint equation is to be solved, or a method is
    scipy_solver, that equation is solved instead, from each time of t to the one before: no states are stored but
    those at t, and the gradient is that of the exact solution to within the tolerances of both solves.

    Parameters
    ----------
    func, y0, t, rtol, atol, method, options, event_fn
        As in `odeint`.
    adjoint_rtol, adjoint_atol
        Tolerances of the adjoint equation: numbers, or one entry for each of the tensors of its state, (t, y, y_bar,
        *adjoint_params). Default: rtol and atol, the smallest entry.
    adjoint_method, adjoint_options
        Its method, and the options of that. Default: method, and options without their norm.
        ``adjoint_options["norm"]`` is a function of the scaled error of that state, a tuple, in which the tensors of a
        tuple y0 stand one by one; or "seminorm", which leaves the parameters out. Default: the largest of the norm of
        the solve, of y and of y_bar, |t|, and the root mean squares of the parameters.
    adjoint_params
        The tensors that receive gradients besides y0 and t, and the only ones. Default: the parameters of func.

    Returns
    -------
    Tensor or tuple
        As `odeint`; with `event_fn` the time of the event may be differentiated, with the result zero. The node
        ``grad_fn`` of the solution has a dict `adjoint_options`: a norm that is put there before the backward pass is
        that of an adjoint equation.

    Raises
    ------
    ValueError
        If func is no module and adjoint_params is not given, and as `odeint`.
    RuntimeError
        If a second derivative, or one by torch.func, is wanted through an adjoint equation.
    SolveError
        If the solve of the adjoint equation fails, and as `odeint`.

    Notes
    -----
    If func has callback_step_adjoint, callback_accept_step_adjoint or callback_reject_step_adjoint, they are called in
    the backward pass: by an adjoint equation as the others are by a solve, with its state, y and y_bar flat where y0 is
    a tuple; for each step run again the first two, as ``callback(t1, (y, y_bar), dt)``: the time and the state at its
    end, the cotangent that later steps sent there, and its length, positive.

    Examples
    --------
    >>> import torch
    >>> from hbode.compat import odeint_adjoint
    >>> field = torch.nn.Linear(2, 2)
    >>> t, own = torch.linspace(0, 1, 3), tuple(field.parameters())
    >>> y = odeint_adjoint(lambda t, y: field(y), torch.ones(2), t, adjoint_params=own)
    >>> y[-1].sum().backward()
    >>> field.weight.grad.shape
    torch.Size([2, 2])
    """
    forward = Arguments(func, y0, t, rtol, atol, method, options, event_fn)
    how = AdjointArguments(adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options)
    return run_adjoint(forward, how, adjoint_params)


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

    Examples
    --------
    >>> import torch
    >>> from hbode.compat import odeint_event
    >>> t, y = odeint_event(lambda t, y: -y, torch.ones(1), torch.tensor(0.0), event_fn=lambda t, y: y[0] - 0.5)
    >>> round(t.item(), 4)
    0.6931
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

    Examples
    --------
    >>> import torch
    >>> from hbode.compat import odeint_dense
    >>> y = odeint_dense(lambda t, y: -y, torch.ones(2), 0.0, 1.0)
    >>> y(0.5).shape
    torch.Size([2])
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
