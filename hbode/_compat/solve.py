"""A call in torchdiffeq's terms, solved."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..arguments import lost_time, too_few_digits, too_fine
from ..gradients import Backprop, DiscreteAdjoint, Problem
from ..solvers import METHODS, Autocast, Clock, Crossing, Field, Status, Tape, real_dtype
from ..solvers.reference import SCIPY_METHODS, solve_scipy
from .events import EventFn, Func, at_fixed_time, positive_at_start
from .methods import ADAPTIVE, FIXED, SCIPY, check_method, grid_method, warn_unknown
from .plans import CALLBACKS, Watch, adaptive_plan, callbacks, grid_plan, number
from .state import (
    ArgumentError,
    ArgumentTypeError,
    Layout,
    SolveError,
    State,
    check_times,
    fitted,
    tolerance,
    warn,
)

_REMEDIES = {
    Status.NON_FINITE: "non-finite values in state `y`, in what func returned, or NaN from an event_fn without a zero "
    "before it. Check them there, or set options['max_step']",
    Status.STEP_UNDERFLOW: "underflow in dt. Name the times at which func jumps in options['jump_t'], set "
    "options['min_step'], loosen rtol and atol, or use float64",
    Status.NOT_CONVERGED: "the iteration for an implicit step did not converge. Lower options['step_size'], raise "
    "options['max_iters'], or loosen rtol and atol",
    Status.MAX_STEPS: "Reached maximum number of iterations without an event. Raise options['step_size']",
}


def run(
    func: Func,
    y0: State,
    t: Tensor,
    rtol: Any,
    atol: Any,
    method: str | None,
    options: Mapping[str, Any] | None,
    event_fn: EventFn | None,
    params: tuple[Tensor, ...] | None = None,
    on_replay: Callable[[Any, Tensor, Tensor | None], None] | None = None,
) -> Any:
    """Return what `odeint` returns, or with `params` `odeint_adjoint`: the tensors that receive gradients."""
    if event_fn is not None and (not isinstance(t, Tensor) or t.shape != (2,)):
        raise ArgumentError(f"t must have shape (2,) where event_fn is given, got {getattr(t, 'shape', t)}")
    if check_method(method) == SCIPY:
        if event_fn is not None:
            raise NotImplementedError("method 'scipy_solver' finds no events; take dopri5")
        wanted = (*(params or ()), t, *(y0 if isinstance(y0, tuple) else (y0,)))
        if params is not None and torch.is_grad_enabled() and any(getattr(x, "requires_grad", False) for x in wanted):
            raise NotImplementedError("method 'scipy_solver' has no gradient; take dopri5, or torch.no_grad()")
        return _by_scipy(func, y0, t, rtol, atol, options or {})
    layout, problem, precision = prepared(func, y0, t, rtol, atol, method, options, event_fn)
    if problem.plan.crossings:
        start = problem.y0.detach()
        if float(problem.plan.crossings[0].fn(problem.clock.start().detach(), start)) == 0.0:
            return t[0].detach().clone(), layout.split(torch.stack((problem.y0, problem.y0)))
    with precision.off():
        if params is None:
            solved = Backprop().solve(problem, ignore)
        else:
            solved = DiscreteAdjoint().solve(replace(problem, leaves=params, on_replay=on_replay), ignore)
    raise_failure(solved.tape)
    if event_fn is None:
        return layout.split(solved.rows)
    if solved.tape.status[0] != Status.EVENT:
        raise SolveError(Status.MAX_STEPS, *solved.tape.failed_at[0], detail="event_fn never changed its sign")
    rows = torch.cat((solved.rows[:1], solved.event_y))
    event_t = solved.event_t[0].to(t)
    return event_t.detach() if params is None else event_t, layout.split(rows)


def prepared(
    func: Func,
    y0: State,
    t: Tensor,
    rtol: Any,
    atol: Any,
    method: str | None,
    options: Mapping[str, Any] | None,
    event_fn: EventFn | None = None,
) -> tuple[Layout, Problem, Autocast]:
    """Return the solve that the arguments ask for, checked, and the mixed precision that it runs without, but for func.

    With `event_fn` it is the search for its zero.
    """
    if not callable(func):
        raise ArgumentTypeError(f"func must be callable as func(t, y), got {type(func).__name__}")
    name, options = check_method(method), dict(options or {})
    layout, y = Layout.of(y0)
    t, values = check_times(t, y)
    rtol, atol = tolerance("rtol", rtol, layout, y), tolerance("atol", atol, layout, y)
    norm = layout.norm(options.get("norm"))
    warn_unknown(name, options)
    adaptive, search, real = name in ADAPTIVE, event_fn is not None, real_dtype(y)
    clock = Clock(t.double(), values)
    lost = None if search else lost_time([values], real)
    if search:  # half the largest number that func can be given as its time stands for no end
        far = math.copysign(0.5 * torch.finfo(real).max, values[1] - values[0])
        clock = Clock.of(torch.stack((clock.times[0], clock.times.new_tensor(far))))
    if lost is not None:
        warn(lost, RuntimeWarning)
    crossings: tuple[Crossing, ...] = ()
    if event_fn is not None:
        entry = positive_at_start(event_fn, t[0].detach(), y0)
        crossings = (Crossing(at_fixed_time(entry, layout, torch.float64 if adaptive else real)),)
    precision = Autocast.now(y.device.type)
    watched = {"crossings": crossings, **_hooks(func, name, options, layout, clock.values, t)}
    if adaptive:
        solver: Any = METHODS[name]
        plan = adaptive_plan(options, clock.values, norm, rtol, atol, **watched)
        if fine := too_fine("y0", y.dtype, rtol, atol):
            warn(fine)
    else:
        if coarse := too_few_digits("y0", y.dtype, name, METHODS[FIXED.get(name, "rk38")]):
            raise ArgumentTypeError(coarse)
        plan = grid_plan(options, func, y0, t, clock.values, **watched)
        whole = plan.max_steps * plan.step_size if search else abs(clock.values[-1] - clock.values[0])
        points = () if search else (clock.values[0], *(node.value for node in plan.stops))
        solver = grid_method(name, options, rtol, atol, whole, points)

    def bind(tensors: Sequence[Tensor | None], damped: bool | None = None) -> tuple[Field, tuple[Crossing, ...]]:
        return _field(precision.around(func), layout, y), crossings

    return layout, Problem(solver, bind, y, clock, (), plan), precision


def raise_failure(tape: Tape) -> None:
    """Raise if the solve did not reach its end."""
    (status,) = tape.status
    if status.failed:
        raise SolveError(status, *tape.failed_at[0], detail=_REMEDIES[status])


def ignore(_: int) -> None:
    """Take the number of evaluations of a backward pass, which torchdiffeq has no place for."""


def _field(func: Func, layout: Layout, like: Tensor) -> Field:
    if layout.shapes is None:
        return Field(lambda t, y: fitted(func(t, y), y.shape, y), real_dtype(like))
    return Field(lambda t, y: layout.join(func(t, layout.split(y)), y), real_dtype(like))


def _hooks(
    func: Func, name: str, options: Mapping[str, Any], layout: Layout, times: Sequence[float], t: Tensor
) -> dict[str, Any]:
    """Return the hooks of the loop that call the callbacks of func and hold the solve to max_num_steps."""
    adaptive = name in ADAPTIVE
    found = callbacks(func, CALLBACKS, CALLBACKS if adaptive else CALLBACKS[:1], name)
    limit = number(options, "max_num_steps", math.inf) if adaptive else math.inf
    if not found and limit == math.inf:
        return {}
    like = t.detach().to(torch.float64) if adaptive else t.detach()
    watch = Watch(layout, times, like, limit)
    hooks = {}
    for hook, key in zip(("on_step", "on_accept", "on_reject"), CALLBACKS, strict=True):
        counts = hook == "on_step" and limit != math.inf
        if key in found or counts:
            hooks[hook] = watch.hook(found.get(key), counts)
    return hooks


def _by_scipy(func: Func, y0: State, t: Tensor, rtol: Any, atol: Any, options: Mapping[str, Any]) -> State:
    layout, y = Layout.of(y0)
    times = check_times(t, y)[0].double()
    tols: list[Any] = [tolerance(key, tol, layout, y) for key, tol in (("rtol", rtol), ("atol", atol))]
    rtol, atol = (tol.reshape(-1).cpu().numpy() if isinstance(tol, Tensor) else tol for tol in tols)
    warn_unknown(SCIPY, options)
    callbacks(func, CALLBACKS, (), SCIPY)
    solver = options.get("solver", "LSODA")
    if solver not in SCIPY_METHODS:
        raise ArgumentError(f"options['solver'] must be one of {', '.join(SCIPY_METHODS)}, got {solver!r}")
    passed = {key: options[key] for key in ("min_step", "max_step") if key in options}
    done = solve_scipy(solver, _field(func, layout, y), y, times, rtol, atol, passed)
    if done.failure is not None:
        raise SolveError(Status.NON_FINITE, float(times[0]), math.nan, detail=f"scipy says: {done.failure}")
    return layout.split(done.rows)
