"""Simulations as one system of equations: against the solve step by step, differences, closed forms."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from hbode import CubicInput, FirstOrder, HeavyBall, SecondOrder
from hbode.models.continuous import (
    LinearReadout,
    NeuralStateSpace,
    PositionReadout,
    StateBank,
    StateEncoder,
    fixed_step_states,
    sensitivities,
    solve_all_steps,
)
from hbode.models.continuous.sensitivities import affine_scan, trained
from hbode.timeseries import Records, Run
from hbode.timeseries.identification import Force
from hbode.timeseries.identification.runs.initial_states import estimate
from hbode.timeseries.identification.runs.stretches import pieces, stretches

EPS = torch.finfo(torch.float64).eps


def driven(rows=60, runs=3, seed=0):
    """Return stretches of random smooth inputs without meaning."""
    rng = np.random.default_rng(seed)
    u = [np.cumsum(rng.normal(size=(rows, 2)), 0) * 0.1 for _ in range(runs)]
    y = [rng.normal(size=(rows, 2)) for _ in range(runs)]
    return stretches(Records.from_arrays(np.arange(rows) * 0.2, y, u), None, "cubic")


def model_of(kind, seed=0, method="rk4", substeps=2):
    torch.manual_seed(seed)
    if kind == "first":
        return NeuralStateSpace(
            FirstOrder(Force(3, 2, hidden=4, momentum=False)),
            LinearReadout(2, 3, 2),
            3,
            method=method,
            substeps=substeps,
        ).double()
    if kind == "heavy ball":
        field = Force(2, 2, hidden=4, momentum=False)
        return NeuralStateSpace(HeavyBall(field, 0.3), PositionReadout(2), 2, method=method, substeps=substeps).double()
    return NeuralStateSpace(
        SecondOrder(Force(2, 2, hidden=4, unit="relu")), PositionReadout(2), 2, method=method, substeps=substeps
    ).double()


def start_of(model, batch):
    generator = torch.Generator().manual_seed(1)
    shape = (2, batch, model.size) if model.system.second_order else (batch, model.size)
    return 0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


CASES = [("first", "rk4"), ("second", "rk4"), ("second", "dopri5"), ("heavy ball", "dprkn5")]


@pytest.mark.parametrize("kind, method", CASES)
def test_all_steps_at_once_are_the_steps_one_by_one(kind, method):
    model, given = model_of(kind, method=method), driven()
    start = start_of(model, len(given))
    with torch.no_grad():
        expected = model.simulate(given.t, given.inputs, start).state
    found = solve_all_steps(model, given.t, given.u, start)
    # Sixty steps of a damped system, whose roundings stay about as large as each of them.
    assert (found - expected).abs().max() <= 1e5 * EPS * expected.abs().max()


@pytest.mark.parametrize("kind, method", CASES)
def test_sensitivities_are_those_of_automatic_differentiation(kind, method):
    model, given = model_of(kind, method=method), driven(rows=20)
    start = start_of(model, len(given)).requires_grad_()
    simulation = model.simulate(given.t, given.inputs, start)
    found = sensitivities(model, given.t, given.u, simulation.state.detach())
    weights = torch.randn(simulation.y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = [*trained(model).values(), start]
    grads = torch.autograd.grad((weights * simulation.y).sum(), wanted)
    by_parameters = torch.einsum("tby,tbyp->p", weights, found.parameters)
    expected = torch.cat([g.reshape(-1) for g in grads[:-1]])
    assert (by_parameters - expected).abs().max() <= 1e6 * EPS * expected.abs().max()
    by_state = torch.einsum("tby,tbyn->bn", weights, found.state)
    flat = grads[-1].transpose(0, 1).flatten(1) if model.system.second_order else grads[-1]
    assert (by_state - flat).abs().max() <= 1e6 * EPS * flat.abs().max()


def test_a_scan_of_affine_maps_is_the_recurrence():
    generator = torch.Generator().manual_seed(0)
    a = 0.5 * torch.randn(37, 4, 3, 3, generator=generator, dtype=torch.float64)
    b = torch.randn(37, 4, 3, 2, generator=generator, dtype=torch.float64)
    x, rows = torch.zeros(4, 3, 2, dtype=torch.float64), []
    for k in range(37):
        x = a[k] @ x + b[k]
        rows.append(x)
    expected = torch.stack(rows)
    assert (affine_scan(a, b) - expected).abs().max() <= 1e4 * EPS * expected.abs().max()


def test_steps_that_run_away_are_left_to_the_solver():
    class Unstable(torch.nn.Module):
        def forward(self, t, h, m, u):
            return 1e4 * h**3

    model = NeuralStateSpace(SecondOrder(Unstable()), PositionReadout(2), 2).double()
    given = driven()
    assert solve_all_steps(model, given.t, given.u, torch.ones(2, 3, 2, dtype=torch.float64)) is None


def test_a_simulation_converges_to_the_exact_one_at_order_four():
    class Spring(torch.nn.Module):
        def forward(self, t, h, m, u):
            return -4.0 * h - 0.4 * m

    t = torch.arange(11, dtype=torch.float64) / 2
    zero = CubicInput(t, torch.zeros(11, 1, dtype=torch.float64))
    exact = torch.from_numpy(expm(np.array([[0.0, 1.0], [-4.0, -0.4]]) * 5.0)[0, 0:1])
    errors = []
    for substeps in (4, 8):
        model = NeuralStateSpace(SecondOrder(Spring()), PositionReadout(1), 1, substeps=substeps)
        y = model.simulate(t, zero, torch.tensor([[[1.0]], [[0.0]]], dtype=torch.float64)).y
        errors.append(float((y[-1, 0] - exact).abs()))
    assert 3.5 < np.log2(errors[0] / errors[1]) < 4.6


def test_irregular_samples_are_stepped_through_one_by_one():
    rng = np.random.default_rng(3)
    t = np.cumsum(rng.uniform(0.05, 0.4, 40))
    given = stretches(Records.from_arrays(t, rng.normal(size=(40, 2)), rng.normal(size=(40, 2))), None, "linear")
    model = model_of("second")
    start = start_of(model, 1)
    with torch.no_grad():
        expected = model.simulate(given.t, given.inputs, start).state
    found = solve_all_steps(model, given.t, given.u, start)
    assert (found - expected).abs().max() <= 1e5 * EPS * expected.abs().max()
    with pytest.raises(ValueError, match="t must be equally spaced"):
        model_of("second", method="dopri5").simulate(given.t, given.inputs, start)


@pytest.mark.parametrize("kind", ["first", "second"])
def test_initial_states_are_found_from_what_followed(kind):
    model, given = model_of(kind), driven(rows=40)
    start = start_of(model, len(given))
    with torch.no_grad():
        y = model.simulate(given.t, given.inputs, start).y.transpose(0, 1)
    from dataclasses import replace

    found = estimate(model, replace(given, y=y), rounds=30)
    assert (found - start).abs().max() <= 1e-6  # least squares without noise: nothing is left


def test_states_like_those_of_training_are_looked_for_first():
    states = torch.arange(5.0, dtype=torch.float64).unsqueeze(1)
    outputs = torch.arange(5.0, dtype=torch.float64).view(5, 1, 1).expand(5, 4, 1)
    y = torch.tensor([3.2, 0.9], dtype=torch.float64).view(2, 1, 1).expand(2, 3, 1)
    assert StateBank(states, outputs).nearest(y, 2)[0, :, 0].tolist() == [3.0, 1.0]


def test_quintics_are_those_of_scipy_and_meet_the_samples():
    from scipy.interpolate import make_interp_spline

    rng = np.random.default_rng(0)
    t, u = np.cumsum(rng.uniform(0.5, 1.5, 30)), rng.normal(size=(30, 2))
    run = Records.from_arrays(t, u[:, :1], u)[0]
    table = pieces(run, "quintic")
    at = t[:-1] + 0.3 * np.diff(t)
    s = (at - t[:-1])[:, None]
    found = sum(table[:-1, :, k] * s**k for k in range(6))
    spline = make_interp_spline(t, u, k=5)
    # Six terms, each of the size of u or of its derivatives times a power of the step.
    assert np.abs(found - spline(at)).max() <= 1e5 * EPS * np.abs(table).max()
    assert np.abs(table[:, :, 0] - u).max() <= 1e5 * EPS * np.abs(table).max()


@pytest.mark.parametrize("between", ["hold", "linear", "cubic", "quintic"])
def test_rows_that_fill_gaps_change_no_input(between):
    rng = np.random.default_rng(0)
    t = np.delete(np.arange(40) / 10, slice(12, 20))
    run = Run(t, rng.normal(size=(32, 1)), rng.normal(size=(32, 2)))
    filled, rows = run.filled(0.2)
    assert len(filled) == 32 + 4 and np.diff(filled.t).max() < 0.2
    np.testing.assert_array_equal(filled.t[rows], t)
    table, whole = pieces(filled, between), pieces(run, between)
    np.testing.assert_allclose(table[rows], whole, atol=1e-9)
    new = np.setdiff1d(np.arange(len(filled)), rows)
    powers = (filled.t[new] - t[11])[:, None] ** np.arange(whole.shape[2])
    np.testing.assert_allclose(table[new, :, 0], np.einsum("tk,ck->tc", powers, whole[11]), atol=1e-9)


def test_an_encoder_starts_linear():
    torch.manual_seed(0)
    encoder = StateEncoder(4, 1, 2, 3).double()
    y, u = torch.randn(5, 4, 1, dtype=torch.float64), torch.randn(5, 4, 2, dtype=torch.float64)
    zero = encoder(0 * y, 0 * u)
    assert encoder(y, u).shape == (2, 5, 3)
    assert torch.allclose(encoder(2 * y, 2 * u) - zero, 2 * (encoder(y, u) - zero), rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="y must have the 4 samples"):
        encoder(y[:, :3], u[:, :3])


@pytest.mark.parametrize("kind, method", CASES)
@pytest.mark.parametrize("irregular", [False, True])
def test_the_adjoint_of_all_steps_is_that_of_automatic_differentiation(kind, method, irregular):
    model, given = model_of(kind, method=method), driven(rows=60)  # more than a block
    if irregular:
        if method != "rk4":
            return
        rates = np.linspace(0.2, 0.3, 3)
        u = [given.values[:, i].numpy() for i in range(3)]
        records = Records.from_arrays([np.arange(60) * rate for rate in rates], [x[:, :2] for x in u], u)
        given = stretches(records, None, "cubic")
    start = start_of(model, len(given)).requires_grad_()
    weights = torch.randn(60, *start.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = [*trained(model).values(), start]
    found, expected = (
        (states, torch.autograd.grad((weights * states).sum(), wanted, allow_unused=True, materialize_grads=True))
        for states in (
            fixed_step_states(model, given.t, given.u, start),
            model.simulate(given.t, given.inputs, start).state,
        )
    )
    # Sixty steps, whose roundings stay about as large as each of them; cubics are continuous at the knots.
    assert (found[0] - expected[0]).abs().max() <= 1e5 * EPS * expected[0].abs().max()
    for a, b in zip(found[1], expected[1], strict=True):
        assert (a - b).abs().max() <= 1e6 * EPS * max(float(b.abs().max()), 1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("error:compile=True")  # what runs uncompiled would agree with itself
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["first", "second"])
def test_compiled_steps_are_those_of_python_and_compile_once(kind, dtype):
    model, eps = model_of(kind, substeps=1).to(dtype), torch.finfo(dtype).eps

    def run(rows, compile):
        given = driven(rows=rows)
        start = start_of(model, len(given)).to(dtype).requires_grad_()
        states = fixed_step_states(model, given.t, given.u.to(dtype), start, compile)
        wanted = [*trained(model).values(), start]
        grads = torch.autograd.grad(states.square().mean(), wanted, allow_unused=True, materialize_grads=True)
        return states.detach(), grads

    for rows in (60, 30, 110):
        (a, of_a), (b, of_b) = run(rows, True), run(rows, False)
        # Roundings stay about as large as those of a hundred steps; tanh by exp has absolute ones.
        assert (a - b).abs().max() <= 1e3 * eps * b.abs().max()
        assert all(
            (x - y).abs().max() <= 1e4 * eps * max(float(y.abs().max()), 1e-2) for x, y in zip(of_a, of_b, strict=True)
        )
        if rows == 60:
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
