"""Every error that a user can meet: what is raised, before any work, naming what came and what is allowed."""

from __future__ import annotations

import copy
import math
import pickle
import re
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

import hbode.compat as compat
from hbode import (
    METHODS,
    Event,
    FirstOrder,
    GeneralizedHeavyBall,
    HeavyBall,
    SecondOrder,
    SolverError,
    Status,
    hbodeint,
    split,
)

H0 = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
T = [0.0, 1.0]


def f(t, h):
    return -torch.sin(h)


def never(t, h, *more):
    raise AssertionError("the field must not be evaluated before the arguments are checked")


def call(func=never, h0=H0, t=T, **keywords):
    return hbodeint(func, h0, t, **keywords)


TENSOR = torch.tensor([1e-3, 1e-4], dtype=torch.float64)

ARGUMENTS = {
    "func": ({"func": 3}, TypeError, "func must be callable as f(t, h) or a system, got int"),
    "h0 list": ({"h0": [1.0]}, TypeError, "h0[0] must be a floating or complex tensor, or a tuple, list or dict"),
    "h0 integers": (
        {"h0": torch.ones(2, dtype=torch.long)},
        TypeError,
        "got torch.int64: h0.float() makes it one",
    ),
    "m0 shape": (
        {"m0": torch.zeros(2, dtype=torch.float64)},
        ValueError,
        "m0 must have the shape and dtype of h0, (1, 2), torch.float64; got (2,), torch.float64",
    ),
    "m0 dtype": ({"m0": torch.zeros(1, 2)}, ValueError, "got (1, 2), torch.float32"),
    "m0 type": ({"m0": 0.0}, ValueError, "got float"),
    "m0 of a first-order system": (
        {"func": FirstOrder(never), "m0": H0},
        ValueError,
        "m0 must not be given: a FirstOrder system has no momentum",
    ),
    "coefficients of a system": (
        {"func": HeavyBall(never), "gamma": 0.1, "xi": 0.2, "activation": "tanh"},
        ValueError,
        "gamma, xi, activation must not be given: the HeavyBall owns them",
    ),
    "activation": (
        {"activation": "swish"},
        ValueError,
        "activation must be one of ['hardtanh', 'tanh'], a callable or None, got 'swish'",
    ),
    "gamma shape": ({"gamma": torch.ones(3)}, ValueError, "γ and ξ must broadcast to h0, (1, 2), got shape (3,)"),
    "xi larger than h0": (
        {"gamma": 0.1, "xi": torch.ones(4, 2)},
        ValueError,
        "γ and ξ must broadcast to h0, (1, 2), got shape (4, 2)",
    ),
    "t type": ({"t": None}, TypeError, "t must be a tensor or a sequence of numbers, got None"),
    "t complex": ({"t": [0.0, 1j]}, TypeError, "t must hold real numbers, got torch.complex128"),
    "t bool": ({"t": torch.tensor([False, True])}, TypeError, "t must hold real numbers, got torch.bool"),
    "t empty": ({"t": []}, ValueError, "t must have shape (T,) or (B, T) with T at least 1, got (0,)"),
    "t number": ({"t": torch.tensor(1.0)}, ValueError, "t must have shape (T,) or (B, T) with T at least 1, got ()"),
    "t axes": (
        {"t": torch.zeros(1, 1, 2)},
        ValueError,
        "t must have shape (T,) or (B, T) with T at least 1, got (1, 1, 2)",
    ),
    "t not finite": ({"t": [0.0, math.inf]}, ValueError, "t must be finite, got NaN or Inf"),
    "t not monotone": ({"t": [0.0, 1.0, 0.5]}, ValueError, "t must be monotone: increasing or decreasing"),
    "t of another batch": ({"t": torch.zeros(3, 2)}, ValueError, "t has times for 3 samples, h0 has 1"),
    "no batch axis": (
        {"h0": torch.tensor(1.0), "per_sample": True},
        ValueError,
        "h0 must have a batch axis for times or steps per sample, got shape ()",
    ),
    "gradient": ({"gradient": "forward"}, ValueError, "gradient must be one of discrete_adjoint, continuous_adjoint, "),
    "rtol negative": ({"rtol": -1.0}, ValueError, "rtol must be zero or positive and without gradient, got -1.0"),
    "atol NaN": ({"atol": math.nan}, ValueError, "atol must be zero or positive and without gradient, got nan"),
    "rtol with gradient": (
        {"rtol": TENSOR.clone().requires_grad_()},
        ValueError,
        "rtol must be zero or positive and without gradient",
    ),
    "rtol type": ({"rtol": "tight"}, TypeError, "rtol must be a number or a tensor, got str"),
    "no tolerance": ({"rtol": 0.0, "atol": 0.0}, ValueError, "rtol and atol must not both be zero"),
    "tolerance tensor with Adams": (
        {"func": FirstOrder(never), "method": "implicit_adams", "rtol": TENSOR},
        ValueError,
        "rtol must be one number for this method, got shape (2,)",
    ),
    "tolerance tensor with scipy": (
        {"method": "scipy:RK45", "atol": TENSOR},
        ValueError,
        "atol must be one number for this method, got shape (2,)",
    ),
    "method": ({"method": "rk45"}, ValueError, "method must be one of euler, midpoint,"),
    "method of another system": (
        {"func": SecondOrder(never), "method": "dprkn6"},
        ValueError,
        "method 'dprkn6' integrates h'' + γ h' = f(t, h); a SecondOrder system needs another, such as dopri5",
    ),
    "leapfrog of a first-order system": (
        {"func": FirstOrder(never), "method": "leapfrog"},
        ValueError,
        "method 'leapfrog' integrates h'' + γ h' = f(t, h); a FirstOrder system needs another",
    ),
    "Nystrom with an activation": (
        {"activation": "tanh", "method": "dprkn6"},
        ValueError,
        "method 'dprkn6' needs h' = m, without activation; take dopri5 or leapfrog",
    ),
    "scipy method": (
        {"method": "scipy:RK4"},
        ValueError,
        "method must be scipy:<one of RK23, RK45, DOP853, Radau, BDF, LSODA>, got 'scipy:RK4'",
    ),
    "scipy with gradient": (
        {"method": "scipy:RK45", "h0": H0.clone().requires_grad_()},
        ValueError,
        "method 'scipy:RK45' has no gradient; call it under torch.no_grad()",
    ),
    "back end": (
        {"method": "jax:dopri5"},
        ValueError,
        "method must name a back end scipy or torchdiffeq before the colon, got 'jax:dopri5'",
    ),
    "reference with events": (
        {"method": "scipy:RK45", "event": never},
        ValueError,
        "method 'scipy:RK45' is a reference: no events, dense output or times and steps per sample",
    ),
    "reference with dense output": (
        {"method": "torchdiffeq:dopri5", "dense": True},
        ValueError,
        "method 'torchdiffeq:dopri5' is a reference",
    ),
    "reference per sample": (
        {"method": "scipy:RK45", "per_sample": True},
        ValueError,
        "is a reference: no events, dense output or times",
    ),
    "event": ({"event": 3}, TypeError, "event must be callable, got int"),
}

OPTIONS = {
    "unknown": (
        {"tolerance": 1.0},
        "options for method 'dopri5' may be controller, coupling, first_step, grid_constructor, jump_ts, ",
    ),
    "controller name": ({"controller": "PD"}, "options['controller'] must be I, PI, PID or three gains, got 'PD'"),
    "controller gains": (
        {"controller": (0.1, 0.2)},
        "options['controller'] must be I, PI, PID or three gains (p, i, d), got (0.1, 0.2)",
    ),
    "controller type": (
        {"controller": 0.3},
        "options['controller'] must be I, PI, PID or three gains (p, i, d), got 0.3",
    ),
    "first_step": ({"first_step": 0.0}, "options['first_step'] must be positive, got 0"),
    "min_step": ({"min_step": -0.1}, "options['min_step'] must be positive, got -0.1"),
    "max_step": ({"max_step": math.nan}, "options['max_step'] must be positive, got nan"),
    "safety": ({"safety": -1.0}, "options['safety'] must be positive, got -1"),
    "min and max step": ({"min_step": 0.2, "max_step": 0.1}, "options['min_step']=0.2 is larger than 'max_step'=0.1"),
    "factors": ({"min_factor": 1.5, "max_factor": 2.0}, "options must have min_factor < 1 < max_factor, got 1.5 and 2"),
    "max_factor": ({"max_factor": 1.0}, "options must have min_factor < 1 < max_factor, got 0.2 and 1"),
    "max_steps": ({"max_steps": 0}, "options['max_steps'] must be at least 1, got 0"),
    "step_ts": ({"step_ts": [0.5, math.nan]}, "options['step_ts'] must be a list of finite times, got"),
    "jump_ts": ({"jump_ts": 0.5}, "options['jump_ts'] must be a list of finite times, got 0.5"),
    "jump_ts with gradient": (
        {"jump_ts": torch.tensor([0.5], requires_grad=True)},
        "options['jump_ts'] must not require a gradient",
    ),
    "jump_ts that have gradients": (
        {"jump_ts": [torch.tensor(0.5, requires_grad=True)]},
        "options['jump_ts'] must not require a gradient",
    ),
    "shared points": (
        {"step_ts": [0.5], "jump_ts": [0.5]},
        "options['step_ts'] and options['jump_ts'] must not share a time",
    ),
    "step_size": ({"step_size": -0.1}, "options['step_size'] must be positive, got -0.1"),
    "two grids": (
        {"step_size": 0.1, "grid_constructor": lambda *_: torch.tensor(T)},
        "options 'step_size' and 'grid_constructor' exclude each other",
    ),
    "grid order": (
        {"grid_constructor": lambda *_: torch.tensor([0.0, 0.0, 1.0])},
        "options['grid_constructor'] must return a strictly monotone 1-D tensor of times",
    ),
    "grid ends": (
        {"grid_constructor": lambda *_: torch.tensor([0.0, 0.9])},
        "options['grid_constructor'] must return times from t[0]=0 to t[-1]=1, got 0 to 0.9",
    ),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(case):
    keywords, kind, message = ARGUMENTS[case]
    with pytest.raises(kind, match=re.escape(message)):
        call(**keywords)


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case):
    options, message = OPTIONS[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        call(method="dopri5", options=options)


@pytest.mark.parametrize(
    "options", [{"jump_ts": [0.5]}, {"grid_constructor": lambda *_: T}, {"norm": torch.linalg.norm}]
)
def test_options_for_one_time_axis(options):
    message = "options 'jump_ts', 'grid_constructor' and 'norm' need one time axis and step size for the batch"
    with pytest.raises(ValueError, match=message):
        call(per_sample=True, options=options)


@pytest.mark.parametrize("name", ["rk4", "leapfrog"])
@pytest.mark.parametrize("key", ["first_step", "controller", "safety", "max_order"])
def test_options_of_other_methods(name, key):
    allowed = "coupling, grid_constructor, jump_ts, max_steps, step_size, step_ts"
    message = f"options for method '{name}' may be {allowed}; got {key}"
    with pytest.raises(ValueError, match=message):
        call(method=name, options={key: 1})


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("explicit_adams", {"max_order": 13}, "options['max_order'] must be between 1 and 12, got 13"),
        ("explicit_adams", {"max_order": 0}, "options['max_order'] must be between 1 and 12, got 0"),
        ("implicit_adams", {"max_order": 1}, "options['max_order'] must be between 2 and 12, got 1"),
        ("implicit_adams", {"max_iters": 0}, "options['max_iters'] must be at least 1, got 0"),
    ],
)
def test_options_of_adams_methods(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(method=name, options=options)


@pytest.mark.parametrize("name", ["leapfrog", "explicit_adams"])
def test_methods_without_an_error_estimate_say_so(name):
    with pytest.raises(NotImplementedError, match="no error estimate"):
        METHODS[name].error(None)


def test_a_corrector_that_does_not_converge_warns():
    """Functional iteration contracts only for dt |J| β < 1; here it is 10."""
    field = FirstOrder(lambda t, h: -30 * h)
    message = (
        "implicit_adams: functional iteration did not converge in 3 iterations; the solution may be inaccurate. Take"
    )
    with pytest.warns(UserWarning, match=message):
        hbodeint(field, H0, torch.linspace(0, 5, 6), method="implicit_adams", options={"max_iters": 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hbodeint(FirstOrder(f), H0, torch.linspace(0, 1, 21), method="implicit_adams")


SYSTEMS = {
    "f": (lambda: FirstOrder(None), TypeError, "f must be callable as f(t, h), got NoneType"),
    "epsilon": (lambda: HeavyBall(f, epsilon=0.0), ValueError, "epsilon must be positive, got 0.0"),
    "gamma": (
        lambda: HeavyBall(f, 1.5),
        ValueError,
        "gamma must lie strictly between 0 and epsilon=1 to be trainable as epsilon * sigmoid(omega), got 1.5; "
        "set trainable=False or raise epsilon",
    ),
    "gamma per channel": (lambda: HeavyBall(f, torch.tensor([0.5, 0.0])), ValueError, "got values from 0 to 0.5"),
    "xi": (
        lambda: GeneralizedHeavyBall(f, xi=0.0),
        ValueError,
        "xi must be positive to be trainable as softplus(chi), got 0; set trainable=False",
    ),
    "activation": (
        lambda: GeneralizedHeavyBall(f, activation="relu"),
        ValueError,
        "activation must be one of ['hardtanh', 'tanh'], a callable or None, got 'relu'",
    ),
    "noise": (lambda: HeavyBall(f).as_sde(-1.0), ValueError, "noise must be zero or positive, got -1"),
    "noise per channel": (
        lambda: HeavyBall(f).as_sde(torch.tensor([1.0, -2.0])),
        ValueError,
        "noise must be zero or positive, got values from -2 to 1",
    ),
    "noise on a first-order system": (
        lambda: FirstOrder(f).as_sde(1.0),
        ValueError,
        "as_sde needs a second-order system, got FirstOrder",
    ),
    "odd state": (
        lambda: split(torch.zeros(2, 3)),
        ValueError,
        "y must have an even number of entries on its last axis, got shape (2, 3)",
    ),
    "state without axes": (
        lambda: split(torch.tensor(1.0)),
        ValueError,
        "y must have an even number of entries on its last axis, got shape ()",
    ),
}


@pytest.mark.parametrize("case", SYSTEMS)
def test_systems(case):
    make, kind, message = SYSTEMS[case]
    with pytest.raises(kind, match=re.escape(message)):
        make()


FIELDS = {
    "type": (lambda t, h: 1.0, TypeError, "func must return a tensor, got float"),
    "shape": (lambda t, h: h[..., :1], ValueError, "func must return the shape of h, (1, 2), got (1, 1)"),
    "dtype": (lambda t, h: h.float(), TypeError, "func must return the dtype of h, torch.float64, got torch.float32"),
}


@pytest.mark.parametrize("method", ["dprkn6", "dopri5"])
@pytest.mark.parametrize("case", FIELDS)
def test_what_the_field_returns(case, method):
    field, kind, message = FIELDS[case]
    for func in (field, *([FirstOrder(field), SecondOrder(lambda t, h, m: field(t, h))] if method == "dopri5" else [])):
        with pytest.raises(kind, match=re.escape(message)):
            hbodeint(func, H0, T, method=method)


EVENTS = {
    "type": (lambda t, h, m: 1.0, False, TypeError, "an event function must return a tensor, got float"),
    "shape": (
        lambda t, h, m: h.flatten(),
        False,
        ValueError,
        "an event function must return one number, got shape (2,); for one event a sample, solve with per_sample=True",
    ),
    "shape per sample": (lambda t, h, m: h, True, ValueError, "an event function must return shape (1,), got (1, 2)"),
}


@pytest.mark.parametrize("case", EVENTS)
def test_what_an_event_returns(case):
    event, per_sample, kind, message = EVENTS[case]
    with pytest.raises(kind, match=re.escape(message)):
        hbodeint(f, H0, T, event=event, per_sample=per_sample)


def test_event_direction():
    with pytest.raises(ValueError, match="direction must be -1, 0 or 1, got 2"):
        Event(f, direction=2)


def test_dense_output():
    with pytest.raises(ValueError, match="the solution can be called only if it was made with dense=True"):
        hbodeint(f, H0, T)(0.5)
    sol = hbodeint(f, H0, T, dense=True)
    for t in (1.5, [0.5, -0.1]):
        with pytest.raises(ValueError, match="t must lie within the solve, from 0 to 1, got"):
            sol(torch.as_tensor(t))
    with pytest.raises(ValueError, match=re.escape("t must be a number or have shape (n,), got shape (1, 1)")):
        sol(torch.zeros(1, 1))
    sol = hbodeint(f, H0, T, dense=True, per_sample=True)
    with pytest.raises(ValueError, match="t must lie within the span that each sample was solved over"):
        sol(1.5)
    with pytest.raises(
        ValueError, match=re.escape("t must be a number or have shape (n,) or (1, n), got shape (2, 1)")
    ):
        sol(torch.zeros(2, 1))


def breaks(t, h):
    """Becomes NaN after t = 0.6."""
    return torch.where(t > 0.6, torch.nan, 1.0) * torch.sin(h)


def explodes(t, h):
    return h * h


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["increasing", "decreasing"])
@pytest.mark.parametrize("per_sample", [False, True])
class TestFailures:
    """Status, time, step, sample and remedy of each failure; NaN and a status instead with throw=False."""

    def solved(self, per_sample, sign, func, **keywords):
        def field(t, h):
            return sign * func(sign * t, h)

        t = sign * torch.linspace(0, 1, 5, dtype=torch.float64)
        keywords = {"method": "dopri5", "per_sample": per_sample, **keywords}
        with pytest.raises(SolverError) as caught:
            hbodeint(FirstOrder(field), H0, t, **keywords)
        sol = hbodeint(FirstOrder(field), H0, t, throw=False, **keywords)
        return caught.value, sol

    def check(self, error, sol, per_sample, status, remedy, rows):
        assert error.status is status
        assert (sol.stats.status[0] if per_sample else sol.stats.status) is status
        assert error.sample == (0 if per_sample else None)
        sample = ", sample 0" if per_sample else ""
        assert str(error).startswith(f"{status.name} at t = {error.t:.6g}, dt = {error.dt:.3g}{sample}: ")
        assert remedy in str(error)
        assert status.failed
        assert not sol.stats.success
        assert sol.h[:rows].isfinite().all()
        assert sol.h[rows:].isnan().all()

    def test_not_finite(self, per_sample, sign):
        error, sol = self.solved(per_sample, sign, breaks)
        self.check(error, sol, per_sample, Status.NON_FINITE, "Check them there", 3)
        assert sign * error.t == pytest.approx(0.6, abs=1e-14)  # to some ulps

    def test_not_finite_on_a_fixed_grid(self, per_sample, sign):
        error, sol = self.solved(per_sample, sign, breaks, method="rk4")
        self.check(error, sol, per_sample, Status.NON_FINITE, "Check them there", 3)
        assert (sign * error.t, error.dt) == (0.5, 0.25)

    def test_not_finite_at_the_start(self, per_sample, sign):
        for method in ("rk4", "dopri5"):
            error, sol = self.solved(per_sample, sign, lambda t, h: h / 0.0, method=method)
            self.check(error, sol, per_sample, Status.NON_FINITE, "Check them there", 1)
            assert error.t == 0.0

    def test_step_underflow(self, per_sample, sign):
        """h' = 4 h² with h(0) = 1 / 2 has its pole at t = 1 / 2, of the numerical solution to some 100 rtol."""
        error, sol = self.solved(per_sample, sign, lambda t, h: 4 * h * h, rtol=1e-8)
        self.check(error, sol, per_sample, Status.STEP_UNDERFLOW, "name jumps in jump_ts, loosen rtol and atol", 3)
        assert sign * error.t == pytest.approx(0.5, abs=1e-6)
        assert 0 < error.dt < 1e-14

    def test_max_steps(self, per_sample, sign):
        options = {"max_steps": 7, "max_step": 0.1}
        error, sol = self.solved(per_sample, sign, f, options=options)
        self.check(error, sol, per_sample, Status.MAX_STEPS, "Raise max_steps", 3)
        accepted, rejected = sol.stats.accepted, sol.stats.rejected
        assert (accepted[0] + rejected[0] if per_sample else accepted + rejected) == 7

    def test_max_steps_on_a_fixed_grid(self, per_sample, sign):
        error, sol = self.solved(per_sample, sign, f, method="rk4", options={"max_steps": 2})
        self.check(error, sol, per_sample, Status.MAX_STEPS, "Raise max_steps", 3)
        assert (sign * error.t, error.dt) == (0.5, 0.25)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_notices_what_is_not_finite(name):
    options = {"step_size": 0.1} if METHODS[name].error_order is None else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the corrector of implicit_adams does not converge either
        sol = hbodeint(breaks, H0, [0.0, 0.3, 1.0], method=name, options=options, throw=False)
    assert sol.stats.status is Status.NON_FINITE
    assert sol.h[1].isfinite().all()
    assert sol.h[2].isnan().all()


def test_every_status_says_what_happened():
    assert Status.SUCCESS.remedy == "the last time was reached"
    assert Status.EVENT.remedy == "a terminal event stopped the solve"
    assert [status.failed for status in Status] == [False, False] + [True] * (len(Status) - 2)


def test_failure_of_a_reference():
    """scipy stops before the pole of h' = h²; its own words are passed on."""
    with pytest.raises(SolverError, match="scipy:RK45 says: Required step size is less than spacing") as caught:
        hbodeint(FirstOrder(explodes), torch.ones(1, dtype=torch.float64), [0.0, 0.5, 1.5], method="scipy:RK45")
    assert caught.value.t == 0.5
    sol = hbodeint(
        FirstOrder(explodes), torch.ones(1, dtype=torch.float64), [0.0, 0.5, 1.5], method="scipy:RK45", throw=False
    )
    assert sol.h[:2].isfinite().all()
    assert sol.h[2].isnan().all()
    with pytest.raises(SolverError, match="torchdiffeq:dopri5 says: underflow in dt"):
        hbodeint(FirstOrder(explodes), torch.ones(1, dtype=torch.float64), [0.0, 1.5], method="torchdiffeq:dopri5")


def test_an_error_in_the_field_passes_through():
    with pytest.raises(ZeroDivisionError):
        hbodeint(lambda t, h: h / (1 // 0), H0, T)


def blows_up():
    return hbodeint(lambda t, h: h**3, H0, [0.0, 100.0], m0=H0, per_sample=True, rtol=1e-2)


def blows_up_in_compat():
    return compat.odeint(lambda t, y: y**2, torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 2.0]))


@pytest.mark.parametrize("solve", [blows_up, blows_up_in_compat])
def test_an_error_survives_copies_and_other_processes(solve):
    with pytest.raises(SolverError) as raised:
        solve()
    error = raised.value
    error.add_note("seen")
    for again in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
        assert again.__notes__ == ["seen"]


@pytest.mark.slow
def test_an_error_comes_back_from_a_process_pool():
    with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
        with pytest.raises(compat.SolveError, match="underflow in dt") as raised:
            pool.submit(blows_up_in_compat).result(120)
        assert raised.value.status == Status.STEP_UNDERFLOW
        assert raised.value.t == pytest.approx(1.0, abs=1e-6)


def test_compat_warns_of_a_jump_that_requires_a_gradient():
    y0, jump = torch.ones(1), torch.tensor([0.5], requires_grad=True)
    with pytest.warns(UserWarning, match="jump_t"):
        compat.odeint(lambda t, y: -y, y0, torch.tensor([0.0, 1.0]), options={"jump_t": jump})


NOW = 1.7e9
"""Float32 numbers are 128 apart there."""


@pytest.mark.parametrize(
    "t, dtype, warned",
    [
        ([NOW, NOW + 10.0], torch.float32, True),
        ([NOW + 10.0, NOW], torch.complex64, True),
        ([NOW, NOW + 10.0], torch.float64, False),
        ([0.0, 12_000.0, 12_001.0], torch.float32, False),  # 0.001 apart, for one
        ([0.0, 120_000.0, 120_000.0, 120_000.5], torch.float32, True),  # 0.008 apart, for a half
        ([NOW], torch.float32, False),
    ],
)
@pytest.mark.parametrize("interface", ["shared", "per sample", "compat"])
def test_times_that_the_dtype_of_the_state_cannot_tell_apart(interface, t, dtype, warned):
    h0, times = torch.ones(1, 1, dtype=dtype), torch.tensor(t, dtype=torch.float64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if interface == "compat":
            compat.odeint(lambda t, y: 0 * y, h0, torch.unique_consecutive(times))
        else:
            hbodeint(FirstOrder(lambda t, y: 0 * y), h0, times, per_sample=interface == "per sample")
    mine = [w for w in caught if issubclass(w.category, RuntimeWarning) and "reference time" in str(w.message)]
    assert len(mine) == warned
    assert all(w.filename == __file__ for w in mine)
