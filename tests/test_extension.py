"""What a user adds in a file of their own works with everything else: a method, a gradient mode, a system."""

import warnings

import pytest
import torch
from scenarios import assert_same
from torch import nn

from hbode import Event, FirstOrder, HeavyBall, SecondOrder, hbodeint
from hbode.analysis import gradient_flow, stiffness
from hbode.gradients import DiscreteAdjoint
from hbode.solvers import ButcherTableau, CollocationTableau, DirkTableau, Method, NystromTableau, RungeKutta, as_method

F64 = torch.float64
# Bogacki and Shampine's pair, as papers print it, and one of Nyström's: velocity Verlet.
PAIR = ButcherTableau.from_butcher(3, (0, 0.5, 0.75), ((), (0.5,), (0, 0.75)), (2 / 9, 1 / 3, 4 / 9))


# ---- a method


class Rosenbrock(Method):
    """ROS2 for diagonal Jacobians (Verwer et al., SIAM J. Sci. Comput. 20, 1999): nothing of it is in the package."""

    order, error_order = 2, 1
    gamma = 1 + 0.5**0.5

    def start(self, field, t, y):
        return y, field(t, y)

    def step(self, field, t, dt, carry):
        y, f = carry
        dt = dt.to(y.dtype)
        diagonal = 1 - self.gamma * dt * self.slopes(field, t, y)
        k1 = f / diagonal
        k2 = (field(t + dt, y + dt * k1) - 2 * k1) / diagonal
        y1 = y + dt * (1.5 * k1 + 0.5 * k2)
        f1 = field(t + dt, y1)
        return (y1, f1), (y, f, y1, f1, dt, 0.5 * dt * (k1 + k2))

    @staticmethod
    def slopes(field, t, y):
        return -30.0 * torch.ones_like(y)

    def slope(self, field, carry):
        return carry[1]

    def error(self, stages):
        return stages[-1]

    def interpolate(self, stages, theta):
        y, f, y1, f1, dt, _ = stages
        x = theta.to(y.dtype).reshape(*theta.shape, *[1] * (y.ndim + 1 - theta.ndim)) if theta.ndim == 1 else theta
        a, b = (1 + 2 * x) * (1 - x) ** 2, x * (1 - x) ** 2
        return a * y + b * dt * f + (1 - a) * y1 - x**2 * (1 - x) * dt * f1


def relaxing(w):
    return FirstOrder(lambda t, y: -30.0 * (y - torch.cos(w * t)))


@pytest.mark.parametrize(
    "method",
    [PAIR, pytest.param(RungeKutta(PAIR), marks=pytest.mark.slow), pytest.param(Rosenbrock(), marks=pytest.mark.slow)],
    ids=["tableau", "object", "own class"],
)
def test_a_method_works_with_events_dense_output_samples_and_gradients(method):
    w = torch.tensor(1.3, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.2], [0.4]], dtype=F64)
    t = torch.tensor([0.0, 0.3, 2.0], dtype=F64)
    options = {} if as_method(method).error_order else {"step_size": 2**-7}
    call = {"rtol": 1e-4, "atol": 1e-4, "options": options}
    exact = hbodeint(relaxing(w), y0, t, rtol=1e-11, atol=1e-11, dense=True)
    (expected,) = torch.autograd.grad(exact.h.square().sum(), w)
    for per_sample in (False, True):
        sol = hbodeint(relaxing(w), y0, t, method=method, per_sample=per_sample, dense=True, **call)
        torch.testing.assert_close(sol.h, exact.h, rtol=1e-2, atol=1e-2)
        (found,) = torch.autograd.grad(sol.h.square().sum(), w)
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
        with torch.no_grad():
            torch.testing.assert_close(sol(0.7)[0], exact(0.7)[0], rtol=1e-2, atol=1e-2)
    down = Event(lambda t, h: h.mean(), direction=-1)
    times = [
        hbodeint(relaxing(w), y0, t, method=m, event=down, **c).events[0].t for m, c in ((method, call), (None, {}))
    ]
    torch.testing.assert_close(*times, rtol=1e-2, atol=1e-2)


def test_a_method_is_analysed():
    y0 = torch.tensor([[0.2], [0.4]], dtype=F64)
    w = torch.tensor(1.3, dtype=F64)
    sol = hbodeint(relaxing(w), y0, [0.0, 0.3, 2.0], method=Rosenbrock(), dense=True)
    assert float(stiffness(relaxing(w), sol).largest.max()) == pytest.approx(30.0)


@pytest.mark.slow
def test_a_tableau_compiles_once():
    field = nn.Linear(2, 2, dtype=F64)
    call = {"method": PAIR, "options": {"step_size": 0.1}, "compile": True}
    y0 = torch.ones(3, 2, dtype=F64)
    before = None
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for _ in range(2):
            compiled = hbodeint(FirstOrder(lambda t, y: field(y)), y0, [0.0, 1.0], **call).h
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            assert before in (None, graphs)
            before = graphs
    eager = hbodeint(FirstOrder(lambda t, y: field(y)), y0, [0.0, 1.0], **(call | {"compile": False})).h
    torch.testing.assert_close(compiled, eager)


# ---- a gradient mode


class Truncated:
    """The gradient through the last steps alone: the first state counts as a constant."""

    def adapt(self, method):
        return method

    def solve(self, problem, on_backward):
        held = problem.y0.detach()
        return DiscreteAdjoint().solve(type(problem)(**{**vars(problem), "y0": held}), on_backward)


def test_a_gradient_mode():
    w = torch.tensor(1.3, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.2]], dtype=F64, requires_grad=True)
    grads = []
    for gradient in (Truncated(), "discrete_adjoint"):
        sol = hbodeint(relaxing(w), y0, [0.0, 0.3], gradient=gradient, event=Event(lambda t, h: h.mean() - 9))
        grads.append(torch.autograd.grad(sol.h.sum(), (w, y0), allow_unused=True))
    assert_same(grads[0][:1], grads[1][:1])
    assert grads[0][1] is None and grads[1][1] is not None


# ---- a system


class Rayleigh(SecondOrder):
    """h'' = -K h - D(h, m) m with Rayleigh damping D = a + b K, learned."""

    def __init__(self, stiffness):
        super().__init__(self.force)
        self.log_rates = nn.Parameter(torch.tensor([-2.0, -3.0], dtype=F64))
        self.register_buffer("stiffness", stiffness)

    def force(self, t, h, m):
        a, b = self.log_rates.exp()
        return -h @ self.stiffness - a * m - b * m @ self.stiffness


@pytest.mark.parametrize("method", [None, "dopri5", "esdirk4"])
def test_a_system(method):
    system = Rayleigh(torch.tensor([[2.0, -1.0], [-1.0, 2.0]], dtype=F64))
    h0 = torch.tensor([[1.0, 0.0], [0.3, -0.2]], dtype=F64)
    matrix = torch.zeros(4, 4, dtype=F64)
    with torch.no_grad():
        a, b = system.log_rates.exp()
        matrix[:2, 2:] = torch.eye(2)
        matrix[2:, :2] = -system.stiffness
        matrix[2:, 2:] = -a * torch.eye(2) - b * system.stiffness
    exact = (torch.linalg.matrix_exp(2 * matrix) @ torch.cat((h0, 0 * h0), 1).T).T[:, :2]
    for per_sample in (False, True):
        sol = hbodeint(system, h0, [0.0, 2.0], method=method, per_sample=per_sample, dense=True, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(sol.h[-1], exact, rtol=1e-5, atol=1e-5)
        sol.h[-1].sum().backward()
        assert system.log_rates.grad.abs().min() > 0
    assert float(stiffness(system, sol).largest.max()) == pytest.approx(3**0.5, rel=0.1)


# ---- errors


class Alike:
    order = 1


class Unordered(Method):
    start = step = slope = interpolate = Rosenbrock.start


@pytest.mark.parametrize(
    ("method", "error", "match"),
    [
        ("dopri6", ValueError, "method must be one of .*got 'dopri6'"),
        (Alike(), TypeError, "instance of hbode.solvers.Method; got a Alike"),
        (Rosenbrock, TypeError, "got the class"),
        (Unordered(), TypeError, "method must have order; got a Unordered without"),
        (3, TypeError, "instance of hbode.solvers.Method; got a int"),
    ],
)
def test_what_is_no_method_is_refused(method, error, match):
    with pytest.raises(error, match=match):
        hbodeint(lambda t, h: -h, torch.ones(1), [0.0, 1.0], method=method)


def test_what_a_method_must_have_is_told_where_it_is_made():
    class Half(Method):
        order = 1
        start = slope = Rosenbrock.start

    with pytest.raises(TypeError, match=r"interpolate.*step"):
        Half()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: DirkTableau(2, (0.5,), ((0.4,),), (1.0,)), "row 0 of a must sum to"),
        (lambda: DirkTableau(2, (1.0,), ((1.0,),), (1.0,)), "b times c"),
        (lambda: DirkTableau(1, (1.0,), ((1.0, 0.0),), (1.0,)), "row 0 of a must have 1 entries"),
        (lambda: DirkTableau(1, (1.0,), ((1.0,),), (1.0,), (0.0,)), "b_error and error_order come together"),
        (lambda: CollocationTableau(2, (1.0,), ((1.0,),), (1.0,)), "b times c"),
        (lambda: CollocationTableau(1, (1.0,), ((1.0,),), (1.0,), filter=0.5), "filter must be a real eigenvalue"),
    ],
)
def test_implicit_tableaus_are_validated(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_methods_say_what_they_are():
    assert repr(as_method("dopri5")) == "RungeKutta(order=5, stages=6)"
    assert repr(as_method("dprkn6")).startswith("Nystrom(order=6")
    assert as_method(PAIR) is as_method(PAIR)
    assert isinstance(as_method("dprkn6").tableau, NystromTableau)


def test_a_nystrom_tableau_is_a_method():
    call = {"rtol": 1e-6, "atol": 1e-6}
    system = HeavyBall(lambda t, h: -h, 0.2, trainable=False)
    h0 = torch.ones(2, dtype=F64)
    named, given = (hbodeint(system, h0, [0.0, 3.0], method=m, **call) for m in ("dprkn6", as_method("dprkn6").tableau))
    assert torch.equal(named.h, given.h)
    sol = hbodeint(
        system, h0.expand(1, 2).clone().requires_grad_(), [0.0, 3.0], method=as_method("dprkn6").tableau, dense=True
    )
    assert gradient_flow(system, sol) is not None
