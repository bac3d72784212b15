"""The certificate of gradient flow: exact propagators, the identities of damped systems, and the NODE beside them.

Bars come from what is computed. Leapfrog has the determinant and, for gradient fields, the symplectic form at any step
size, so its residuals are rounding: 1e-12. The other methods solve at rtol = atol = 1e-10 and take up to a few hundred
steps, whose errors are below that and cancel in part: 1e-8. Results that come from two paths over the same steps
agree to rounding, 1e-10 after some hundred operations.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.linalg import expm

from hbode import FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, hbodeint
from hbode.analysis import gradient_flow
from hbode.analysis.gradients.matrix_free import largest_eigenvalue, trace_of_log
from hbode.analysis.gradients.propagator import Checked
from hbode.analysis.gradients.spectrum import pairing_gap
from hbode.analysis.linearised import StateAxes

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
COARSE = {"method": "leapfrog", "options": {"step_size": 0.5}}
EXACT, ROUNDING = 1e-8, 1e-12


def heavy_ball(f, gamma=0.3):
    return HeavyBall(f, gamma, trainable=False)


def generalized(f, gamma=0.3, xi=0.4, activation="tanh"):
    return GeneralizedHeavyBall(f, gamma, xi, activation, trainable=False)


def solved(system, h0, t=(0.0, 3.0), m0=None, **call):
    return hbodeint(system, h0, t, m0=m0, dense=True, **{**TIGHT, **call})


def restoring(net, rate=2.0, scale=0.1):
    """f = -rate h + scale · net: the NODE contracts, the heavy ball oscillates."""
    return lambda t, h: -rate * h + scale * net(t, h)


class Potential(torch.nn.Module):
    """f = -∇V for V = Σ cos(h W) + 0.15 ‖h‖², with the gradient written out."""

    def __init__(self, dim=3, width=4):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.w = torch.nn.Parameter(torch.randn(dim, width, generator=rng, dtype=torch.float64))

    def forward(self, t, h):
        return torch.sin(h @ self.w) @ self.w.T - 0.3 * h


# Known propagators


@pytest.mark.parametrize("t", [(0.0, 1.5), (1.0, -0.5)], ids=["increasing", "decreasing"])
@pytest.mark.parametrize("gamma", [0.4, [0.4, 0.1, 1.2]], ids=["one", "per channel"])
def test_linear_field_has_the_matrix_exponential(draw, gamma, t):
    """h'' = K h - γ h' - ξ h has Φ = exp((T - t) A), and the NODE h' = K h has Ψ = exp((T - t) K)."""
    k, xi = draw(3, 3), 0.7
    system = generalized(lambda t, h: h @ k.T, torch.tensor(gamma, dtype=torch.float64), xi, None)
    flow = gradient_flow(system, solved(system, draw(2, 3), t, m0=draw(2, 3)))
    eye, damping = np.eye(3), np.diag(np.broadcast_to(gamma, 3))
    a = np.block([[0 * eye, eye], [k.numpy() - xi * eye, -damping]])
    for n in range(0, len(flow.t), 7):
        phi = expm((t[1] - float(flow.t[n])) * a)
        s = np.linalg.svd(phi, compute_uv=False)
        known = {"measured": s[0], "sigma_min": s[-1], "rms": np.linalg.norm(phi) / math.sqrt(6)}
        for name, value in known.items():
            assert getattr(flow, name)[n].numpy() == pytest.approx(np.full(2, value), rel=EXACT)
        assert flow.log_det[n].numpy() == pytest.approx(np.full(2, np.linalg.slogdet(phi)[1]), abs=EXACT)
    for n in range(0, len(flow.node.t), 7):
        psi = expm((t[1] - float(flow.node.t[n])) * k.numpy())
        assert flow.node.measured[n].numpy() == pytest.approx(np.full(2, np.linalg.norm(psi, 2)), rel=EXACT)
        assert flow.node.log_det[n].numpy() == pytest.approx(np.full(2, np.linalg.slogdet(psi)[1]), abs=EXACT)
    assert flow.t[[0, -1]].tolist() == list(t)
    assert flow.bound.numpy() == pytest.approx(np.exp(-np.mean(gamma) / 2 * (t[1] - flow.t.numpy())), rel=1e-12)
    assert flow.holds and flow.notes == ()


def test_gradient_of_a_loss_is_that_of_the_solve(net, draw):
    """The discrete adjoint of hbodeint differentiates the same steps, of the heavy ball and of the NODE."""
    h0, m0 = draw(2, 3, grad=True), draw(2, 3, grad=True)
    system = heavy_ball(net(3, 5))

    def loss(h, m):
        return (h**2).sum() + (h * m).sum()

    sol = solved(system, h0, m0=m0)
    flow = gradient_flow(system, sol, loss=loss)
    found = torch.cat(torch.autograd.grad(loss(sol.h[-1], sol.m[-1]), (h0, m0)), -1).norm(dim=-1)
    assert flow.gradient_norm[0].tolist() == pytest.approx(found.tolist(), rel=1e-10)
    end = torch.cat((2 * sol.h[-1] + sol.m[-1], sol.h[-1]), -1).norm(dim=-1)
    assert flow.gradient_norm[-1].tolist() == pytest.approx(end.tolist(), rel=1e-10)

    h, _ = hbodeint(FirstOrder(system.f), h0, [0.0, 3.0], method="dopri5", **TIGHT)
    (found,) = torch.autograd.grad((h[-1] ** 2).sum(), h0)
    assert flow.node.gradient_norm[0].tolist() == pytest.approx(found.norm(dim=-1).tolist(), rel=1e-10)
    assert gradient_flow(system, sol, loss=lambda h, m: m.sum()).node.gradient_norm[0].tolist() == [0.0, 0.0]


# The identities


@pytest.mark.parametrize("t", [(0.0, 2.0), (1.0, -1.0)], ids=["increasing", "decreasing"])
@pytest.mark.parametrize("method", ["dprkn5", "dprkn6", "dprkn8", "dopri5"])
def test_residuals_of_a_tight_solve(net, draw, method, t):
    system = heavy_ball(net(3, 5))
    flow = gradient_flow(system, solved(system, draw(3, 3), t, m0=draw(3, 3), method=method), node=False)
    assert flow.residuals["determinant"] <= EXACT
    assert flow.residuals["eigenvalue_pairing"] <= EXACT
    assert flow.residuals["singular_value_pairing"] is None and flow.pair_sums is None
    assert flow.residuals["lower_bound"] <= EXACT
    assert not flow.gradient_field
    assert flow.holds


def test_coarse_steps_without_these_properties_are_found_out(net, draw):
    system = heavy_ball(net(3, 5))
    flow = gradient_flow(system, solved(system, draw(3, 3), method="rk4", options={"step_size": 0.5}), node=False)
    assert flow.residuals["determinant"] > 1e-5
    assert not flow.holds


@pytest.mark.parametrize("method", ["leapfrog", "yoshida4"])
@pytest.mark.parametrize("step_size", [0.5, 0.1])
@pytest.mark.parametrize(
    "system",
    [
        heavy_ball,
        generalized,
        lambda f: heavy_ball(f, torch.tensor([0.2, 1.1, 0.7], dtype=torch.float64)),
        lambda f: generalized(f, xi=torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), activation="hardtanh"),
    ],
    ids=["heavy ball", "generalised", "gamma per channel", "xi per channel"],
)
def test_leapfrog_has_the_determinant_at_any_step(net, draw, system, step_size, method):
    system = system(net(3, 5))
    sol = solved(system, draw(2, 3), (0.0, 4.0), m0=draw(2, 3), method=method, options={"step_size": step_size})
    flow = gradient_flow(system, sol, node=False)
    assert flow.residuals["determinant"] <= ROUNDING * sol.stats.accepted
    assert flow.holds


@pytest.mark.parametrize(
    "system, call",
    [
        (heavy_ball, {"method": "dprkn5"}),
        (heavy_ball, {"method": "dprkn6"}),
        (heavy_ball, {"method": "dprkn8"}),
        (heavy_ball, COARSE),
        (generalized, {"method": "dopri5"}),
        (generalized, COARSE),
    ],
    ids=["dprkn5", "dprkn6", "dprkn8", "leapfrog", "generalised, dopri5", "generalised, leapfrog"],
)
def test_gradient_field_pairs_singular_values(draw, system, call):
    """For any elementwise σ, and ξ h is a gradient too."""
    system = system(Potential())
    flow = gradient_flow(system, solved(system, draw(2, 3), (0.0, 2.0), m0=draw(2, 3), **call), node=False)
    assert flow.gradient_field
    bar = ROUNDING if call is COARSE else EXACT
    assert flow.residuals["singular_value_pairing"] <= bar
    assert flow.residuals["determinant"] <= bar
    assert flow.pair_sums.max() <= 100 * bar  # the condition of Φ is below 100 here
    assert flow.holds


def test_other_field_declared_a_gradient_field_is_found_out(net, draw):
    system = heavy_ball(net(3, 5))
    flow = gradient_flow(system, solved(system, draw(2, 3), **COARSE), gradient_field=True, node=False)
    assert flow.residuals["singular_value_pairing"] > 1e-2
    assert not flow.holds
    assert "NOT all claims hold" in str(flow)


def test_one_gamma_or_several(draw):
    """Both pairings need one γ; equal entries are one."""
    for gamma, paired in ([0.3, 0.3, 0.3], True), ([0.3, 0.3, 0.4], False):
        system = heavy_ball(Potential(), torch.tensor(gamma, dtype=torch.float64))
        flow = gradient_flow(system, solved(system, draw(2, 3), **COARSE), node=False)
        assert flow.gradient_field and flow.holds
        for name in ("eigenvalue_pairing", "singular_value_pairing"):
            assert (flow.residuals[name] is not None) == paired


def test_pairing_gap_of_matrices(draw):
    """Exact pairs, exact pairs of a defective matrix (eigenvalues off by √eps), and a matrix without pairs."""
    basis = draw(6, 6)
    paired = basis @ torch.tensor([1.0, -1.4, 0.3, -0.7, 5.0, -5.4], dtype=torch.float64).diag() @ basis.inverse()
    assert pairing_gap(paired, 0.4) <= 1e-12
    assert pairing_gap(paired, 0.5) >= 1e-3
    eye = torch.eye(3, dtype=torch.float64)
    jordan = 2 * eye + torch.ones(2, dtype=torch.float64).diag(1)
    defective = torch.cat((torch.cat((0 * eye, eye), 1), torch.cat((jordan, -0.4 * eye), 1)))
    for matrix in (defective, basis @ defective @ basis.inverse()):
        assert pairing_gap(matrix, 0.4) <= 1e-12
    assert pairing_gap(draw(6, 6), 0.4) >= 1e-2
    assert pairing_gap(torch.zeros(6, 6, dtype=torch.float64), 0.0) == 0.0


@given(
    seed=st.integers(0, 1000),
    dim=st.integers(1, 4),
    width=st.integers(1, 6),
    scale=st.floats(0.1, 3.0),
    gamma=st.floats(1e-3, 1.5),
    horizon=st.floats(-1.5, 3.0).filter(lambda x: abs(x) > 0.1),
    method=st.sampled_from(["dprkn6", "leapfrog"]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_determinant_and_bound_of_random_networks(seed, dim, width, scale, gamma, horizon, method):
    """At rtol 1e-8 the error of a step is that of 1e-8, and there are less than a hundred."""
    rng = torch.Generator().manual_seed(seed)
    w, v, h0, m0 = (
        torch.randn(shape, generator=rng, dtype=torch.float64)
        for shape in ((dim, width), (width, dim), (2, dim), (2, dim))
    )
    system = heavy_ball(lambda t, h: scale * torch.tanh(h @ w + t) @ v, gamma)
    call = {"options": {"step_size": 0.25}} if method == "leapfrog" else {"rtol": 1e-8, "atol": 1e-8}
    flow = gradient_flow(system, solved(system, h0, (0.0, horizon), m0=m0, method=method, **call), node=False)
    assert flow.residuals["determinant"] <= (1e-11 if method == "leapfrog" else 1e-6)
    assert flow.residuals["lower_bound"] <= 1e-6
    assert flow.holds
    bound = torch.exp(-gamma / 2 * (flow.t[-1] - flow.t))
    assert (flow.measured.amin(1) >= bound * (1 - 1e-6)).all()
    assert (flow.rms.amin(1) >= bound * (1 - 1e-6)).all()


# The NODE


def test_node_vanishes_and_the_heavy_ball_does_not(net, draw):
    """h' = -2 h + … over T = 20 contracts by e^-40 = 4e-18; the heavy ball by e^(-γ T / 2) = e^-3 at most."""
    system = heavy_ball(restoring(net(3, 5)))
    call = {"rtol": 1e-6, "atol": 1e-9}
    flow = gradient_flow(
        system, solved(system, draw(2, 3), (0.0, 20.0), **call), loss=lambda h, m: (h + m).sum(), nodes=2
    )
    assert flow.node.measured[0].max() <= 1e-12
    assert flow.node.gradient_norm[0].max() <= 1e-12
    assert flow.bound[0] == pytest.approx(math.exp(-3), rel=1e-12)
    assert flow.measured[0].min() >= math.exp(-3)
    assert flow.rms[0].min() >= math.exp(-3)
    assert flow.gradient_norm[0].min() >= 1e-3
    assert flow.holds


def test_failed_node_is_a_note(draw):
    """h' = h³ - 20 h blows up from h = 5 at t = ln(5) / 40 = 0.04, the heavy ball later."""
    system = heavy_ball(lambda t, h: h**3 - 20 * h)
    h0 = torch.full((2, 1), 5.0, dtype=torch.float64)
    flow = gradient_flow(system, solved(system, h0, (0.0, 0.1), rtol=1e-6))
    assert flow.node is None and flow.holds
    assert flow.notes[0].startswith("NODE: ") and "blow up" in flow.notes[0]
    assert flow.notes[0] in str(flow)
    assert gradient_flow(system, solved(system, h0, (0.0, 0.1), rtol=1e-6), node=False).notes == ()


# Matrix-free


def test_matrix_free_agrees_with_matrices(net, draw):
    """Singular values and gradients to 1e-8, Lanczos' tolerance; averages within four standard errors."""
    system = heavy_ball(restoring(net(12, 12), 1.0, 1.0))
    sol = solved(system, draw(2, 12), (0.0, 1.2), method="dprkn8", rtol=1e-6, atol=1e-6)
    call = {"loss": lambda h, m: (h**2).sum(), "nodes": 3}
    dense, free = gradient_flow(system, sol, **call), gradient_flow(system, sol, dense_limit=0, **call)
    assert free.holds and free.notes == () and free.residuals["eigenvalue_pairing"] is None
    assert not free.gradient_field
    assert dense.standard_errors is None
    for a, b in ((dense, free), (dense.node, free.node)):
        seen = ~b.measured.isnan().any(1)
        assert seen.sum() == 3 and seen[[0, -1]].all()
        assert torch.allclose(a.measured[seen], b.measured[seen], rtol=1e-7, atol=0)
        assert torch.allclose(a.gradient_norm, b.gradient_norm, rtol=1e-10, atol=0)
    assert torch.allclose(dense.sigma_min[~free.sigma_min.isnan()], free.sigma_min[~free.sigma_min.isnan()], rtol=1e-7)
    errors = free.standard_errors
    assert ((dense.log_det - free.log_det).abs() <= 4 * errors["log_det"] + 1e-10).all()
    assert ((dense.rms / free.rms - 1).abs() <= 4 * errors["rms"] + 1e-10).all()
    assert errors["log_det"].max() <= 0.1  # of a logarithm that is 12 · 0.3 · 1.2 = 4.3 at most


def test_matrix_free_gradient_field(draw):
    system = heavy_ball(Potential())
    sol = solved(system, draw(2, 3), (0.0, 1.5), m0=draw(2, 3), method="leapfrog", options={"step_size": 0.1})
    flow = gradient_flow(system, sol, dense_limit=0, node=False, nodes=3)
    assert flow.gradient_field
    assert flow.residuals["singular_value_pairing"] <= ROUNDING
    assert flow.pair_sums[0].max() <= 1e-7
    assert flow.holds


def test_what_matrix_free_cannot_find_is_not_held(draw):
    """h'' = -30 h with dt = 0.5: J - I has eigenvalues beyond 1, and the series of log J diverges."""
    system = heavy_ball(lambda t, h: -30 * h)
    sol = solved(system, draw(2, 3), (0.0, 1.0), **COARSE)
    flow = gradient_flow(system, sol, dense_limit=0, node=False)
    assert math.isnan(flow.residuals["determinant"]) and not flow.holds
    assert "diverges" in flow.notes[0]
    assert gradient_flow(system, sol, node=False).holds
    sol = solved(system, draw(2, 3), (0.0, 1.0), method="euler", options={"step_size": 0.5})
    flow = gradient_flow(system, sol, dense_limit=0, node=False)
    assert "smallest singular values: the step from t = 0 is too long" in flow.notes[1]
    assert flow.sigma_min[:-1].isnan().all() and not flow.measured[0].isnan().any()


def test_trace_of_log(draw):
    """Over all sign vectors of length 3 the average of vᵀ log(J) v is the trace, log det J."""
    j = torch.eye(3, dtype=torch.float64) + 0.2 * draw(3, 3)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3).unsqueeze(1)
    layout = StateAxes(torch.Size((3,)), None)
    step = Checked(lambda y: j @ y, draw(3), layout, "the map")
    assert trace_of_log(step, signs, 1e-15).mean().item() == pytest.approx(j.logdet().item(), abs=1e-12)
    assert trace_of_log(Checked(lambda y: 3 * y, draw(3), layout, "the map"), signs, 1e-15) is None


def test_largest_eigenvalue(draw):
    """Of two matrices at once, of sizes that leave the range of floats when they are squared."""
    matrices = torch.stack([a @ a.T for a in (draw(30, 30), draw(30, 30))])

    def gram(v):
        image = (matrices @ v.unsqueeze(-1)).squeeze(-1)
        norm = image.norm(dim=-1)
        return image / norm.unsqueeze(-1), norm.log() + 1000.0

    found, converged = largest_eigenvalue(gram, draw(2, 30), 1e-10)
    known = torch.linalg.eigvalsh(matrices)[:, -1].log() + 1000.0
    assert converged
    assert found.tolist() == pytest.approx(known.tolist(), abs=1e-10)


# Batches, times, dtypes and modes


def test_batch_is_its_samples(net, draw):
    h0, m0 = draw(3, 2), draw(3, 2)
    system = heavy_ball(net())
    flow = gradient_flow(system, solved(system, h0, m0=m0, **COARSE))
    for i in range(3):
        one = gradient_flow(system, solved(system, h0[i], m0=m0[i], **COARSE))
        for name in ("measured", "sigma_min", "rms", "log_det"):
            assert getattr(one, name).shape == one.t.shape
            assert torch.allclose(getattr(flow, name)[:, i], getattr(one, name), rtol=1e-10, atol=1e-12)
    whole = gradient_flow(system, solved(system, h0, m0=m0, **COARSE), batch=False)
    assert torch.allclose(whole.measured, flow.measured.amax(1), rtol=1e-10)
    assert torch.allclose(whole.log_det, flow.log_det.sum(1), rtol=1e-10)


def test_samples_that_interact(net, draw):
    f = net()
    system = heavy_ball(lambda t, h: f(t, h) - h.mean(0))
    sol = solved(system, draw(3, 2))
    with pytest.raises(ValueError, match=r"must not interact.*pass batch=False"):
        gradient_flow(system, sol)
    flow = gradient_flow(system, sol, batch=False)
    assert flow.holds and flow.measured.shape == flow.t.shape


def test_states_of_other_shapes(draw):
    """A number, a vector of one-channel samples, and images with a batch axis."""
    system = heavy_ball(lambda t, h: -torch.sin(h))
    for h0, call, shape in (
        (draw(), {}, ()),
        (draw(4), {"batch": True}, (4,)),
        (draw(2, 2, 1, 3), {}, (2,)),
    ):
        flow = gradient_flow(system, solved(system, h0, **COARSE), **call)
        assert flow.measured.shape == (7, *shape)
        assert flow.holds and flow.gradient_field


def test_arguments_of_the_field(net, draw):
    """Tensors and numbers in args, with a method that takes the force and with one that takes the right-hand side."""
    f, h0, k = net(), draw(2, 2), draw(2, grad=True)
    system = heavy_ball(lambda t, h, k, scale: f(t, h) - scale * k * h)
    closed = heavy_ball(lambda t, h: f(t, h) - 2.0 * k * h)
    for method in ("leapfrog", "dopri5"):
        call = {"method": method, "options": {"step_size": 0.25}}
        given = gradient_flow(system, solved(system, h0, args=(k, 2.0), **call))
        known = gradient_flow(closed, solved(closed, h0, **call))
        assert torch.allclose(given.measured, known.measured, rtol=1e-12)
        assert torch.allclose(given.node.measured, known.node.measured, rtol=1e-12)
        assert given.residuals["eigenvalue_pairing"] <= ROUNDING


def test_terminal_event_ends_the_last_step(net, draw):
    system = heavy_ball(net())
    flow = gradient_flow(system, solved(system, draw(2, 2), event=lambda t, h, m: t - 1.234))
    assert flow.t[-1].item() == pytest.approx(1.234, abs=1e-12)
    assert flow.node.t[-1].item() == flow.t[-1].item()
    assert flow.residuals["determinant"] <= EXACT


def test_jump_keeps_the_sides_of_the_field(draw):
    """f = -h up to t = 1, then -9 h, evaluated right at the jump by both steps beside it."""
    system = heavy_ball(lambda t, h: -torch.where(t < 1, 1.0, 9.0).double() * h)
    sol = solved(system, draw(2, 1), (0.0, 2.0), options={"jump_ts": [1.0]})
    flow = gradient_flow(system, sol)
    first, second = (expm(np.array([[0.0, 1.0], [-k, -0.3]])) for k in (1.0, 9.0))
    assert flow.measured[0].tolist() == pytest.approx([np.linalg.norm(second @ first, 2)] * 2, rel=EXACT)
    assert flow.node.measured[0].tolist() == pytest.approx([math.exp(-10)] * 2, rel=1e-6)


@pytest.mark.parametrize("dense_limit", [0, 128])
def test_float32(net, draw, dense_limit):
    system = heavy_ball(net().float())
    sol = solved(system, draw(2, 2).float(), (0.0, 1.0), rtol=1e-4, atol=1e-5)
    flow = gradient_flow(system, sol, dense_limit=dense_limit, nodes=2)
    assert flow.holds
    assert flow.residuals["determinant"] <= 1e-5  # some ten steps of rounding 1e-7 in each entry
    assert flow.measured.dtype == torch.float64


def test_range_of_floats(draw):
    """σ_max of about 100^200 and a bound of e^-1000: the certificate is computed from logarithms."""
    zero = torch.zeros(1, 2, dtype=torch.float64)
    grows = heavy_ball(lambda t, h: 400 * h)
    flow = gradient_flow(grows, solved(grows, zero, (0.0, 100.0), **COARSE), node=False)
    assert flow.holds and flow.measured[0, 0] == math.inf and flow.pair_sums.max() <= EXACT
    decays = heavy_ball(lambda t, h: -h, 50.0)
    flow = gradient_flow(decays, solved(decays, draw(1, 2), (0.0, 40.0), **COARSE))
    assert flow.holds and flow.bound[0] == 0.0 and flow.pair_sums.max() <= EXACT


def test_results_have_no_graph_in_any_mode(net, draw):
    """Trainable parameters, times with gradients, and solves and calls under no_grad and inference_mode."""
    system = HeavyBall(net(), 0.3)
    h0, t = draw(2, 2, grad=True), torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)

    def loss(h, m):
        return h.sum()

    reference = gradient_flow(system, solved(system, h0, t), loss=loss)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            sol = solved(system, h0, t)
            flows = [gradient_flow(system, sol, loss=loss)]
        flows.append(gradient_flow(system, sol, loss=loss))
        for flow in flows:
            assert not any(x.requires_grad for x in vars(flow).values() if isinstance(x, torch.Tensor))
            assert torch.equal(flow.measured, reference.measured)
            assert torch.equal(flow.gradient_norm, reference.gradient_norm)
    backprop = gradient_flow(system, solved(system, h0, t, gradient="backprop"), loss=loss)
    assert torch.allclose(backprop.measured, reference.measured, rtol=1e-10)
    assert all(p.grad is None for p in system.parameters())


class SineByNumpy(torch.autograd.Function):
    """A field whose backward pass cannot be batched."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx, bar):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(bar.numpy() * np.cos(x.detach().numpy()))


def test_field_whose_backward_cannot_be_batched(draw):
    h0 = draw(2, 2)
    systems = heavy_ball(lambda t, h: SineByNumpy.apply(h)), heavy_ball(lambda t, h: torch.sin(h))
    flows = [gradient_flow(system, solved(system, h0, **COARSE), node=False) for system in systems]
    assert torch.allclose(flows[0].measured, flows[1].measured, rtol=1e-12)


# What it shows


def test_table_and_figure(net, draw):
    system = heavy_ball(net())
    flow = gradient_flow(system, solved(system, draw(2, 2), **COARSE), loss=lambda h, m: h.sum())
    for words in ("6 steps", "lower bound", "sigma_max", "NODE rms", "determinant", "all claims hold"):
        assert words in str(flow)
    figure = flow.plot()
    (panel,) = figure.axes
    assert panel.get_yscale() == "log" and panel.get_xlabel() == "t (time units)" and panel.get_ylabel()
    labels = [text.get_text() for text in panel.get_legend().get_texts()]
    assert len(labels) == 7 and sum("NODE" in label for label in labels) == 3
    drawn = panel.get_lines()[0].get_ydata()
    assert drawn.tolist() == pytest.approx(np.median(flow.measured.numpy(), 1).tolist())
    host = Figure()
    axes = host.subplots(1, 2)
    free = gradient_flow(system, solved(system, draw(2, 2), **COARSE), dense_limit=0, nodes=2)
    assert free.plot(axes[1]) is host and not axes[0].get_lines()
    assert len(axes[1].get_lines()[0].get_xdata()) == 2


# Errors


@pytest.mark.parametrize(
    "call, error, message",
    [
        ({"dense": False}, ValueError, r"hbodeint\(..., dense=True\)"),
        ({"per_sample": True}, ValueError, r"one time axis: t of shape \(T,\), and per_sample=False"),
        ({"method": "explicit_adams", "options": {"step_size": 0.1}}, ValueError, "one-step method such as dprkn6"),
        ({"options": {"max_steps": 2}, "throw": False}, ValueError, "its status is MAX_STEPS"),
        ({"t": [0.0, 0.0]}, ValueError, "at least one step"),
        ({"h0": torch.ones(0, 2)}, ValueError, r"entries in its state, got h0 of shape \(0, 2\)"),
        ({"h0": torch.ones(2, 2, dtype=torch.complex128)}, TypeError, "real state, got torch.complex128"),
    ],
)
def test_solves_that_cannot_be_analysed(draw, call, error, message):
    system = heavy_ball(lambda t, h: -h)
    sol = hbodeint(system, **{"h0": draw(2, 2), "t": [0.0, 1.0], "dense": True, **call})
    with pytest.raises(error, match=message):
        gradient_flow(system, sol)


@pytest.mark.parametrize(
    "call, error, message",
    [
        ({"nodes": 1}, ValueError, "nodes must be at least 2, got 1"),
        ({"probes": 0}, ValueError, "probes must be at least 2, got 0"),
        ({"dense_limit": -1}, ValueError, "dense_limit must be at least 0, got -1"),
        ({"loss": lambda h, m: h}, TypeError, r"loss must return a tensor with one real number, got shape \(2, 2\)"),
        ({"loss": lambda h, m: 1.0}, TypeError, "loss must return a tensor with one real number, got float"),
        ({"loss": lambda h, m: torch.ones(())}, ValueError, "loss must depend on h_T or m_T"),
    ],
)
def test_arguments_that_do_not_fit(draw, call, error, message):
    system = heavy_ball(lambda t, h: -h)
    sol = solved(system, draw(2, 2))
    with pytest.raises(error, match=message):
        gradient_flow(system, sol, **call)


def test_systems_that_do_not_fit(net, draw):
    f = net()
    system = heavy_ball(f)
    sol = solved(system, draw(2, 2))
    for other in (FirstOrder(f), SecondOrder(f), f):
        with pytest.raises(TypeError, match=f"HeavyBall or GeneralizedHeavyBall, got {type(other).__name__}"):
            gradient_flow(other, sol)
    with pytest.raises(TypeError, match="sol must be the Solution of hbodeint, got Tensor"):
        gradient_flow(system, sol.h)
    with pytest.raises(ValueError, match="their fields f differ"):
        gradient_flow(heavy_ball(net()), sol)
    with pytest.raises(ValueError, match="gamma has changed since"):
        gradient_flow(heavy_ball(f, 0.4), sol)
    with pytest.raises(ValueError, match="xi has changed since"):
        gradient_flow(generalized(f, xi=0.1), sol)
    with pytest.raises(ValueError, match=r"batch must be False for h0 of shape \(\)"):
        gradient_flow(oscillator := heavy_ball(lambda t, h: -h), solved(oscillator, draw()), batch=True)
    varied = heavy_ball(f, torch.tensor([[0.1], [0.2]], dtype=torch.float64))
    with pytest.raises(ValueError, match="gamma must be the same for all samples"):
        gradient_flow(varied, solved(varied, draw(2, 2)))


def test_field_that_changed_since_the_solve(net, draw):
    system = heavy_ball(net())
    sol = solved(system, draw(2, 2))
    with torch.no_grad():
        system.f.w.mul_(1.5)
    with pytest.raises(ValueError, match="has the field changed since the solve"):
        gradient_flow(system, sol)


def test_jacobian_that_is_not_finite(draw):
    """h ↦ √|h| at h = 0."""
    system = heavy_ball(lambda t, h: -torch.sqrt(h.abs()))
    with pytest.raises(ValueError, match=r"the Jacobian of the step from t = 0 must be finite, got NaN or Inf"):
        gradient_flow(system, solved(system, torch.zeros(2, 1, dtype=torch.float64), **COARSE))
