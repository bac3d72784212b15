"""A call in torchdiffeq's terms, solved."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..gradients import Backprop, Explicit, Problem, Solved
from ..reference.ode import SCIPY_METHODS, solve_scipy
from ..setup.arguments import lost_time, too_few_digits, too_fine
from ..solvers import METHODS, Autocast, Clock, Crossing, Field, Status, Tape, real_dtype
from ..solvers.warning import warn
from .events import EventFn, Func, at_fixed_time, positive_at_start
from .methods import ADAPTIVE, FIXED, SCIPY, check_method, grid_method, known_options
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
) -> Any:
    """Return what `odeint` returns."""
    layout, rows, event_t = solve(func, y0, t, rtol, atol, method, options, event_fn)
    return layout.split(rows) if event_t is None else (event_t.detach(), layout.split(rows))


def solve(
    func: Func,
    y0: State,
    t: Tensor,
    rtol: Any,
    atol: Any,
    method: str | None,
    options: Mapping[str, Any] | None,
    event_fn: EventFn | None,
    gradient: Callable[[Problem], Solved] = lambda problem: Backprop().solve(problem, ignore),
) -> tuple[Layout, Tensor, Tensor | None]:
    """Return the layout of the state, its rows in it, and the time of the event where one was asked for."""
    if event_fn is not None and (not isinstance(t, Tensor) or t.shape != (2,)):
        raise ArgumentError(f"t must have shape (2,) where event_fn is given, got {getattr(t, 'shape', t)}")
    if check_method(method) == SCIPY:
        if event_fn is not None:
            raise NotImplementedError("method 'scipy_solver' finds no events; take dopri5")
        return (*_by_scipy(func, y0, t, rtol, atol, options or {}), None)
    layout, problem, precision = prepared(func, y0, t, rtol, atol, method, options, event_fn)
    if problem.plan.crossings:
        start = problem.y0.detach()
        if float(problem.plan.crossings[0].fn(problem.clock.start().detach(), start)) == 0.0:
            return layout, torch.stack((problem.y0, problem.y0)), t[0].detach().clone()
    with precision.off():
        solved = gradient(problem)
    raise_failure(solved.tape)
    if event_fn is None:
        return layout, solved.rows, None
    (ended,) = solved.tape.outcomes
    if ended.status != Status.EVENT:
        raise SolveError(Status.MAX_STEPS, ended.t, ended.dt, detail="event_fn never changed its sign")
    return layout, torch.cat((solved.rows[:1], solved.event_y)), solved.event_t[0].to(t)


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
    name = check_method(method)
    layout, y = Layout.of(y0)
    t, values = check_times(t, y)
    rtol, atol = tolerance("rtol", rtol, layout, y), tolerance("atol", atol, layout, y)
    options = known_options(name, options or {})
    norm = layout.norm(options.get("norm"))
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

    def bind(given: Explicit, damped: bool | None = None) -> tuple[Field, tuple[Crossing, ...]]:
        return flat_field(precision.around(func), layout, y), crossings

    return layout, Problem(solver, bind, y, clock, Explicit(), plan), precision


def raise_failure(tape: Tape) -> None:
    """Raise if the solve did not reach its end."""
    (ended,) = tape.outcomes
    if ended.status.failed:
        raise SolveError(ended.status, ended.t, ended.dt, detail=_REMEDIES[ended.status])


def ignore(_: int) -> None:
    """Take the number of evaluations of a backward pass, which torchdiffeq has no place for."""


def flat_field(func: Func, layout: Layout, like: Tensor) -> Field:
    """Return func as a function of the one tensor that is integrated."""
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


def _by_scipy(
    func: Func, y0: State, t: Tensor, rtol: Any, atol: Any, options: Mapping[str, Any]
) -> tuple[Layout, Tensor]:
    layout, y = Layout.of(y0)
    times = check_times(t, y)[0].double()
    tols: list[Any] = [tolerance(key, tol, layout, y) for key, tol in (("rtol", rtol), ("atol", atol))]
    rtol, atol = (tol.reshape(-1).cpu().numpy() if isinstance(tol, Tensor) else tol for tol in tols)
    options = known_options(SCIPY, options)
    if options.get("norm") is not None:
        warn("options['norm'] is not used by 'scipy_solver': scipy measures errors in a norm of its own")
    callbacks(func, CALLBACKS, (), SCIPY)
    solver = options.get("solver", "LSODA")
    if solver not in SCIPY_METHODS:
        raise ArgumentError(f"options['solver'] must be one of {', '.join(SCIPY_METHODS)}, got {solver!r}")
    passed = {key: value for key, value in options.items() if key in ("min_step", "max_step")}
    done = solve_scipy(solver, flat_field(func, layout, y), y, times, rtol, atol, passed)
    if done.failure is not None:
        raise SolveError(Status.NON_FINITE, float(times[0]), math.nan, detail=f"scipy says: {done.failure}")
    return layout, done.rows
