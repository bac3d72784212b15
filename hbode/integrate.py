"""`hbodeint`: the front door."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .gradients import Compilation, ContinuousAdjoint, Explicit, Gradient, Problem
from .inputs import Input
from .output.dense import DenseOutput
from .progress.bar import progress_bar
from .reference.ode import solve_by_reference
from .setup.arguments import (
    as_system,
    as_times,
    check_called,
    check_method,
    check_state,
    check_times,
    check_tolerances,
    constant_coefficients,
    default_method,
    lost_time,
    too_few_digits,
    too_fine,
)
from .setup.bound import bound_field
from .setup.compiler import subject, uncompiled
from .setup.events import EventLike, as_events, crossing
from .setup.knots import check_inputs, with_knots
from .setup.options import check_names, configured, gradient_mode, is_adaptive, plan
from .setup.state_tree import State, StateTree, halves
from .setup.updates import Update, merge
from .solution import Solution, Stats, event_records, raise_failure, stats_of
from .solvers import (
    Autocast,
    ButcherTableau,
    Clock,
    Field,
    Method,
    MovingStart,
    NystromTableau,
    SampleClock,
    as_method,
    real_dtype,
)
from .solvers.warning import warn
from .systems import System
from .systems.coefficients import Activation, OfTime


@uncompiled
def hbodeint(
    func: Callable[..., State] | System,
    h0: State,
    t: Tensor | Sequence[float],
    *,
    m0: State | None = None,
    args: tuple[Any, ...] = (),
    inputs: Input | None = None,
    gamma: float | State | OfTime | None = None,
    xi: float | State | OfTime | None = None,
    activation: str | Activation | None = None,
    method: str | ButcherTableau | NystromTableau | Method | None = None,
    rtol: float | State = 1e-5,
    atol: float | State = 1e-7,
    gradient: str | Gradient = "discrete_adjoint",
    per_sample: bool = False,
    event: EventLike | Sequence[EventLike] | None = None,
    updates: Update | None = None,
    dense: bool = False,
    options: Mapping[str, Any] | None = None,
    compile: bool = False,
    progress: bool = False,
    throw: bool = True,
) -> Solution:
    """Integrate a heavy-ball neural ODE, h'' + γ h' = f(t, h), or any system of `hbode.systems`.

    Parameters
    ----------
    func
        ``f(t, h, *args)`` returning the shape and dtype of h, as a callable or module: the force of a heavy ball.
        Under `torch.autocast` f runs in mixed precision, backwards too, and the solver in the dtype of h0.
        Or a system (`FirstOrder`, `SecondOrder`, `HeavyBall`, `GeneralizedHeavyBall`), which then owns γ, ξ, σ.
        Its time is a tensor of shape (), or (B, 1, …, 1) against h (B, ...) where samples step by themselves.
    h0
        Initial position, any shape (...), floating or complex; shape (B, ...) for times or steps per sample. Implicit
        methods take no half precision.
        Or a tuple, list or dict of such tensors, also nested, whose shapes and real dtypes may differ. Then f, event
        functions, `norm` and the solution have states of the same form, and the time of f is (B, 1) where samples step
        by themselves. The parts are solved as one, with one error, in the dtype they are promoted to.
    t
        Times of the solution, non-strictly increasing or decreasing; the first is that of h0. Shape (T,), or
        (B, T) for times per sample; a shorter sample repeats its last time. Carried in float64; f gets its time in
        the real dtype of h0, with a warning where that cannot tell the requested times apart.
    m0
        Initial momentum, form, shape and dtype of h0 (default: zero). Only for second-order systems.
    args
        Further arguments of f; tensors among them receive gradients.
    inputs
        A measured input u, `LinearInput`, `HoldInput` or `CubicInput`, which must cover t: f gets u(t) as well, as
        ``f(t, h, u(t), *args)``, shape (C,) or (B, C), and gradients reach the values. Adaptive steps end where a
        line or a causal cubic has a kink of more than some 100 rtol of its size, or of rtol where most knots have; the
        jumps of `HoldInput` are points of discontinuity, on all grids. On a Duffing oscillator with 2,000 noisy samples
        a linear input took 9,987 evaluations, and 14,767 without; a held one 12,047 with all jumps and 90,647 without;
        both at errors smaller by 1,000 and more. With times per sample in both, every sample stops at its own
        knots; where samples with knots of their own share their steps, these end at all jumps and at no kinks. What
        `options` have for step_ts (for jumps: jump_ts) is taken instead; an empty list stands for none. Methods of
        scipy and torchdiffeq are told nothing.
    gamma, xi, activation
        For a bare `func`: damping γ (default sigmoid(-3) ≈ 0.0474), restoring coefficient ξ and σ of the
        generalised heavy ball, as in `GeneralizedHeavyBall`; fixed, or tensors that receive gradients. For an h0 of
        several tensors one number, or a tuple, list or dict as h0 is, with a number or tensor for each.
        Or functions γ(t) and ξ(t), such as `NesterovDamping` or ``lambda t: 3 / t``, finite on the whole span, that
        return a tensor which broadcasts to h (one number, for an h0 of several tensors); gradients reach what they
        hold. Nyström methods keep the damping exact but for its interpolation in a step, which is of higher order than
        they are; with γ(t) "auto" steps the first-order form.
    method
        A name in `hbode.METHODS`, a `ButcherTableau` or `NystromTableau` or another `Method` (`hbode.solvers`), or
        "scipy:<solve_ivp method>" or "torchdiffeq:<method>". Default: dprkn6 where the
        momentum enters through linear damping alone, dopri5 elsewhere. For stiff fields (``stats.stiffness`` near 1)
        "auto", which is the default while the field is not stiff and esdirk4 while it is; prox_bdf3, or prox_bdf2 if
        stiff modes oscillate; radauIIA5, which is the most exact and dearest; or another implicit method. On a heavy
        ball they solve for the acceleration alone. rkc, which is explicit, where the stiff eigenvalues are near the
        negative real axis, as those of diffusion: the quickest there. imex_ark3 and imex_ark4 for a `SplitField`, of
        which they are implicit in the stiff part; for another f in all of it.
        kvaerno5 has a node at 1.23 of a step, and yoshida4 at -0.35 and 1.35: they evaluate f beyond the ends of the
        span, and beside a point of jump_ts, where the time that f is given is held, their order is two. No other does.
    rtol, atol
        Tolerances of the local error, relative and absolute; numbers, or tensors that broadcast to the state
        ((2, *h0) for a second-order system). For an h0 of several tensors as γ and ξ.
    gradient
        A name, with the settings of the mode in `options`, or a mode of `hbode.gradients`.
        "discrete_adjoint" (`DiscreteAdjoint`: checkpoints): the exact gradient of what was computed, from the states of
        the accepted steps, or from few of them.
        "reversible" (`Reversible`: coupling): the same to rounding, at the memory of one step; methods other than
        leapfrog and yoshida4 run in a coupled scheme at twice their cost.
        "continuous_adjoint" (`ContinuousAdjoint`: adjoint_rtol, adjoint_atol, adjoint_method, adjoint_state,
        adjoint_norm): the adjoint equation, solved backwards by steps of its own.
        "backprop": through the stored graph; the mode for forward mode and derivatives beyond the second.
    per_sample
        Give every sample its own steps and counts. Times of shape (B, T) without it: all samples take the same
        fraction of the way to their next update, or to the end, in a step.
    event
        An `Event`, a function (a terminal event), or several. An event may replace the state, and the solve goes on.
    updates
        An `Update`: the state is replaced at known times.
    dense
        Keep the interpolants, so that the solution can be called at any time.
    options
        Steps: first_step, min_step, max_step, safety, min_factor, max_factor, norm, controller ("I", "PI", "PID" or
        gains (p, i, d)), max_steps. Points: step_ts (to step to), jump_ts (discontinuities). Fixed grids, on any
        method: step_size or grid_constructor(func, h0, t); methods without an error estimate otherwise step from
        one requested time to the next. Adams methods: max_order, max_iters. Implicit methods and auto: inner, the
        solver of their equations ("anderson", "newton_krylov", "fletcher_reeves", "barzilai_borwein", "lbfgs", or
        an object such as `hbode.solvers.implicit.inner.Anderson()`; by default "newton_krylov" for radauIIA3, 5, gl4
        and gl6, else "anderson"), and inner_share, the share of the tolerances that it may leave in each step that is
        chosen, and in the whole span where steps are given (0.01 for diagonally implicit methods and auto, else 0.1).
        Others: coupling, for the scheme of `Reversible`. Settings of the gradient mode.
    compile
        Run the loop of the solve, and that of its discrete adjoint, as compiled code (`torch.compile`; a CPU needs
        a C++ compiler). The first solve compiles, for some ten seconds a pass; later ones with the same code of f,
        method and shapes do not, whatever their times and tolerances. Numbers that f closes over, holds or takes are
        part of the code: pass those that change as tensors, in args or in modules. For explicit one-step methods,
        without events, jump_ts, norm, dense output and checkpoints, and for parameters in modules that f holds, closes
        over or names. Everything else, and an f that cannot be compiled, runs uncompiled, with a warning that says why.
    progress
        Show a progress bar over the time.
    throw
        Raise where the solve fails; otherwise rows that were not reached are NaN and ``stats.status`` tells.

    Returns
    -------
    Solution
        Unpacks as ``h, m``, each of shape (T, *h0) and of the form of h0; m is None for a first-order system.

    Raises
    ------
    ValueError, TypeError
        For arguments that do not fit, before any work.
    SolverError
        If the solve fails and `throw` is set.

    Examples
    --------
    >>> import torch
    >>> from hbode import hbodeint
    >>> sol = hbodeint(lambda t, h: -h, torch.ones(3, 2), torch.linspace(0, 1, 5), gamma=0.1)
    >>> h, m = sol
    >>> h.shape, m.shape, sol.stats.status.name
    (torch.Size([5, 3, 2]), torch.Size([5, 3, 2]), 'SUCCESS')
    """
    tree = None if isinstance(h0, Tensor) else StateTree.of(h0, per_sample or as_times(t).ndim == 2)
    if tree is not None:
        h0, m0, options = tree.join("h0", h0), None if m0 is None else tree.join("m0", m0), tree.options(options)
        rtol, atol = tree.numbers("rtol", rtol), tree.numbers("atol", atol)
        gamma, xi = tree.numbers("gamma", gamma), tree.numbers("xi", xi)
    system = as_system(func, gamma, xi, activation)
    check_called(system, len(args), inputs is not None)
    options = dict(options or {})
    method = default_method(system) if method is None else method
    name = method if isinstance(method, str) else type(method).__name__
    check_state(h0, m0, system)
    times = check_times(t, h0, per_sample)
    rows = times[:1] if times.ndim == 2 and times.stride(0) == 0 else times  # the same times for all samples
    if lost := lost_time(rows.reshape(-1, times.shape[-1]).tolist(), real_dtype(h0)):
        warn(lost, RuntimeWarning)
    knots = None
    if inputs is not None:
        check_inputs(inputs, times, h0)
        knots, args = inputs.times, (inputs.coefficients(), *args)
    stepped = system if tree is None else tree.system(system, len(args))
    mode, options = gradient_mode(gradient, options)
    check_tolerances(rtol, atol)
    events = as_events(event)
    if not isinstance(updates, Update | None):
        raise TypeError(f"updates must be one Update, with all its times, got {type(updates).__name__}")
    resets = [e.reset for e in events if e.reset is not None]
    y0 = torch.stack((h0, torch.zeros_like(h0) if m0 is None else m0)) if system.second_order else h0

    precision = Autocast.now(h0.device.type)
    own_gamma, own_xi = coefficients = constant_coefficients(system, times, h0)
    varying = system.varying[0] is not None
    if ":" in name:
        if events or dense or per_sample or times.ndim == 2:
            raise ValueError(f"method {name!r} is a reference: no events, dense output or times and steps per sample")
        with precision.off():
            given = name, stepped, h0, y0, times, coefficients, args, rtol, atol, options, throw, precision, tree, knots
            return solve_by_reference(*given)
    base = as_method(method)
    check_names(options, base, name)
    reduced = system.damped and system.activation is None
    chosen = mode.adapt(configured(base, options, rtol, atol, reduced, times, varying))
    check_method(name, chosen, system)
    if coarse := too_few_digits("h0", h0.dtype, name, chosen):
        raise TypeError(coarse)
    samples, requested = times.ndim == 2, times
    if updates is not None and tree is not None:
        updates = replace(updates, fn=tree.replacing("Update.fn", updates.fn, system.second_order))
    merged = None if updates is None else merge(updates, times, h0, system.second_order)
    times = times if merged is None else merged.times
    slots = [i for i, arg in enumerate(args) if isinstance(arg, Tensor)]
    crossings = tuple(crossing(e, system.second_order, len(h0) if samples else None, tree) for e in events)

    def bind(given: Explicit, damped: bool | None = None) -> tuple[Field, tuple[Any, ...]]:
        values = list(args)
        for slot, tensor in zip(slots, given.args, strict=True):
            values[slot] = tensor
        form = chosen.damped if damped is None else damped
        return bound_field(stepped, form, h0, given.gamma, given.xi, values, precision, knots), crossings

    of_samples: tuple[tuple[float, ...], ...] = ()
    if inputs is not None:
        options, of_samples = with_knots(
            inputs,
            options,
            times,
            h0,
            rtol,
            adaptive=is_adaptive(chosen, options),
            per_sample=per_sample,
            compile=compile,
            adjoint=isinstance(mode, ContinuousAdjoint),
        )
    grid_arguments = func, h0, t if isinstance(t, Tensor) else requested
    drawn = plan(chosen, options, times, rtol, atol, grid_arguments, None if merged is None else merged.updates)
    if drawn.adaptive and (fine := too_fine("h0", h0.dtype, rtol, atol)):
        warn(fine)
    clock: Clock | SampleClock = SampleClock(times, h0.ndim) if samples else Clock.of(times)
    stats: list[Stats] = []

    def on_backward(evaluations: int) -> None:
        stats[0].nfe_backward = evaluations

    with precision.off(), progress_bar(times, progress and not samples) as advance:
        problem = Problem(
            MovingStart(chosen) if resets else chosen,
            bind,
            y0,
            clock,
            Explicit(own_gamma, own_xi, tuple(args[slot] for slot in slots)),
            replace(drawn, keep_interpolants=dense, sample_stops=of_samples, crossings=crossings, on_accept=advance),
            damped=system.damped and not varying,
            owners=(system, *(e.fn for e in events), *resets, *(() if updates is None else (updates.fn, updates.data))),
            tied=samples and not per_sample,
            compilation=Compilation(subject(system.f)) if compile else None,
        )
        solved = mode.solve(problem, on_backward)
    stats.append(stats_of(solved, samples))
    if throw:
        raise_failure(solved, samples)
    rows = clock.place(solved.rows, solved.tape.rows.places, 0 if updates is None else updates.t.shape[-1])
    record = None
    if merged is not None:
        rows, record = merged.read(clock, rows, system.second_order, tree)
    return Solution(
        t if isinstance(t, Tensor) else requested,
        *halves(rows, system.second_order, 1, tree),
        stats[0],
        event_records(solved, crossings, system.second_order, samples, tree),
        DenseOutput(problem, solved) if dense else None,
        record,
        tree,
    )
