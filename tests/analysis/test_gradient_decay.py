"""Gradients on their way back: matrix exponentials of linear systems, and torch's own gradients.

Bars: solves at rtol = atol = 1e-11 leave 1e-8 in an exponential; two ways to differentiate the same steps agree to
rounding, 1e-10 after some hundred operations.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from hbode import FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, hbodeint
from hbode.analysis import gradient_decay, gradient_flow

TIGHT = {"rtol": 1e-11, "atol": 1e-11}
EXACT, ROUNDING = 1e-8, 1e-10
GAMMA, XI = 0.3, 0.7
KINDS = ["node", "sonode", "heavy ball", "heavy ball per channel", "generalised", "generalised with σ"]


def linear(kind, k):
    """Return a linear system with ∂f/∂h = k, and the matrix of its first-order form."""
    n = len(k)
    eye, zero = np.eye(n), np.zeros((n, n))
    per_channel = torch.linspace(0.1, 1.5, n, dtype=torch.float64)

    def f(t, h):
        return h @ k.mT

    k_xi = k.numpy() - XI * eye
    return {
        "node": lambda: (FirstOrder(f), k.numpy()),
        "sonode": lambda: (
            SecondOrder(lambda t, h, m: h @ k.mT - 0.9 * m),
            np.block([[zero, eye], [k.numpy(), -0.9 * eye]]),
        ),
        "heavy ball": lambda: (
            HeavyBall(f, GAMMA, trainable=False),
            np.block([[zero, eye], [k.numpy(), -GAMMA * eye]]),
        ),
        "heavy ball per channel": lambda: (
            HeavyBall(f, per_channel, trainable=False),
            np.block([[zero, eye], [k.numpy(), -np.diag(per_channel.numpy())]]),
        ),
        "generalised": lambda: (
            GeneralizedHeavyBall(f, GAMMA, XI, None, trainable=False),
            np.block([[zero, eye], [k_xi, -GAMMA * eye]]),
        ),
        "generalised with σ": lambda: (
            GeneralizedHeavyBall(f, GAMMA, XI, lambda m: 2.0 * m, trainable=False),
            np.block([[zero, 2.0 * eye], [k_xi, -GAMMA * eye]]),
        ),
    }[kind]()


def squares(h, m):
    return (h**2).sum() + (h * m).sum()


def gradient_at_the_end(sol):
    """Return ∂ squares / ∂(h, m) at T by hand, shape (..., P)."""
    h = sol.h[-1]
    return 2 * h if sol.m is None else torch.cat((2 * h + sol.m[-1], h), -1)


# Against closed forms


@pytest.mark.parametrize("t", [(0.0, 1.5), (1.0, -0.5)], ids=["increasing", "decreasing"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_system_takes_gradients_back_by_its_matrix_exponential(draw, kind, t):
    system, matrix = linear(kind, draw(3, 3))
    sol = hbodeint(system, draw(4, 3), t, m0=draw(4, 3) if system.second_order else None, dense=True, **TIGHT)
    found = gradient_decay(sol, squares)
    end = gradient_at_the_end(sol).numpy()
    assert found.t[[0, -1]].tolist() == list(t) and found.norm.shape == (len(found.t), 4)
    assert torch.equal(found.t[:-1], sol.stats.t)
    for when, norm in zip(found.t.tolist(), found.norm.numpy(), strict=True):
        known = np.linalg.norm(end @ expm((t[1] - when) * matrix), axis=1)  # rows: gᵀ Φ
        assert norm == pytest.approx(known, rel=EXACT)
    assert found.decay.numpy() == pytest.approx(found.norm[0].numpy() / np.linalg.norm(end, axis=1), rel=EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_batch_axis_there_is_one_gradient(draw, kind):
    system, matrix = linear(kind, draw(3, 3))
    sol = hbodeint(system, draw(3), (0.0, 1.5), dense=True, **TIGHT)
    found = gradient_decay(sol, squares)
    end = gradient_at_the_end(sol).numpy()
    assert found.norm.shape == found.t.shape and found.decay.shape == ()
    assert float(found.norm[0]) == pytest.approx(np.linalg.norm(end @ expm(1.5 * matrix)), rel=EXACT)
    assert float(found.norm[-1]) == pytest.approx(np.linalg.norm(end), rel=EXACT)


@pytest.mark.parametrize("rate", [-2.0, 0.5])
def test_decay_is_below_one_where_gradients_fade_and_above_where_they_grow(draw, rate):
    sol = hbodeint(FirstOrder(lambda t, h: rate * h), draw(2, 3), (0.0, 3.0), dense=True, **TIGHT)
    found = gradient_decay(sol, lambda h, m: h.sum())
    assert found.decay.tolist() == pytest.approx([math.exp(3 * rate)] * 2, rel=EXACT)
    assert found.norm[-1].tolist() == pytest.approx([math.sqrt(3)] * 2)


def test_samples_have_a_decay_of_their_own(draw):
    """One decays at its own rate: h' = -(rate of the sample) h."""
    rates = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
    sol = hbodeint(FirstOrder(lambda t, h: -rates * h), draw(3, 2), (0.0, 2.0), dense=True, **TIGHT)
    found = gradient_decay(sol, lambda h, m: (h**2).sum())
    assert found.decay.tolist() == pytest.approx((-2 * rates[:, 0]).exp().tolist(), rel=EXACT)


def test_gradients_below_the_range_of_floats_are_zero_and_those_above_it_infinite(draw):
    """Steps of Euler's method with dt = 1, from h = 0, that multiply by a thousandth or a thousand each."""
    for factor, end in ((1e-3, 0.0), (1e3, math.inf)):
        system = FirstOrder(lambda t, h, rate=factor - 1: rate * h)
        start = torch.zeros(2, 1, dtype=torch.float64)
        sol = hbodeint(system, start, (0.0, 120.0), method="euler", options={"step_size": 1.0}, dense=True)
        found = gradient_decay(sol, lambda h, m: h.sum())
        assert found.decay.tolist() == [end, end]
        assert found.norm[-51].tolist() == pytest.approx([factor**50] * 2, rel=ROUNDING)


def test_a_gradient_of_zero_at_the_end_has_no_decay(draw):
    """Of one sample, or for a first-order system and a loss of the momentum alone."""
    sol = hbodeint(FirstOrder(lambda t, h: -h), draw(2, 3), (0.0, 1.0), dense=True, **TIGHT)
    found = gradient_decay(sol, lambda h, m: h[0].sum())
    assert found.norm[:, 1].tolist() == [0.0] * len(found.t)
    assert found.decay[0].item() == pytest.approx(math.exp(-1), rel=EXACT) and bool(found.decay[1].isnan())
    assert bool(gradient_decay(sol, lambda h, m: m.sum()).decay.isnan().all())


# Against gradients by other means


@pytest.mark.parametrize("kind", ["node", "sonode", "heavy ball", "generalised"])
def test_a_nonlinear_field_has_the_gradients_of_torch(net, draw, kind):
    f = net(3, 5)
    system = {
        "node": FirstOrder(f),
        "sonode": SecondOrder(lambda t, h, m: f(t, h) - torch.tanh(m) * h),
        "heavy ball": HeavyBall(f, GAMMA),
        "generalised": GeneralizedHeavyBall(f, GAMMA, XI),
    }[kind]
    h0, m0 = draw(4, 3, grad=True), draw(4, 3, grad=True)
    wanted = (h0, m0) if system.second_order else (h0,)
    sol = hbodeint(system, h0, (0.0, 2.0), m0=m0 if system.second_order else None, dense=True, rtol=1e-6, atol=1e-6)
    value = squares(sol.h[-1], torch.zeros_like(h0) if sol.m is None else sol.m[-1])
    known = torch.cat(torch.autograd.grad(value, wanted, retain_graph=True), -1).norm(dim=-1)
    found = gradient_decay(sol, squares)
    assert found.norm[0].tolist() == pytest.approx(known.tolist(), rel=ROUNDING)
    assert found.decay.tolist() == pytest.approx((known / gradient_at_the_end(sol).norm(dim=-1)).tolist(), rel=ROUNDING)
    assert not found.norm.requires_grad and all(p.grad is None for p in system.parameters())


def test_every_node_has_the_gradient_with_respect_to_the_state_there(net, draw):
    """A solve from a node on, by the same steps."""
    system = HeavyBall(net(2, 4), GAMMA, trainable=False)
    call = {"method": "dopri5", "options": {"step_size": 0.25}}
    whole = hbodeint(system, draw(2, 2), [0.0, 0.5, 1.0], dense=True, **call)
    h, m = (x[1].detach().requires_grad_() for x in (whole.h, whole.m))
    rest = hbodeint(system, h, [0.5, 1.0], m0=m, **call)
    known = torch.cat(torch.autograd.grad(squares(rest.h[-1], rest.m[-1]), (h, m)), -1).norm(dim=-1)
    found = gradient_decay(whole, squares)
    assert found.t.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert found.norm[2].tolist() == pytest.approx(known.tolist(), rel=ROUNDING)


@pytest.mark.parametrize("batch", [None, False])
def test_a_heavy_ball_has_the_gradients_of_its_certificate(net, draw, batch):
    system = HeavyBall(net(3, 5), GAMMA, trainable=False)
    sol = hbodeint(system, draw(2, 3), (0.0, 3.0), dense=True)
    found = gradient_decay(sol, squares, batch)
    flow = gradient_flow(system, sol, loss=squares, batch=batch, node=False)
    assert torch.equal(found.t, flow.t) and found.norm.shape == flow.gradient_norm.shape
    assert torch.allclose(found.norm, flow.gradient_norm, rtol=ROUNDING, atol=0)


def test_samples_that_interact_are_one_state_with_batch_false(net, draw):
    f, h0 = net(), draw(3, 2, grad=True)
    sol = hbodeint(FirstOrder(lambda t, h: f(t, h) - h.mean(0)), h0, (0.0, 1.0), dense=True, **TIGHT)
    with pytest.raises(ValueError, match=r"must not interact.*pass batch=False"):
        gradient_decay(sol, squares)
    (known,) = torch.autograd.grad(sol.h[-1].square().sum(), h0)
    assert float(gradient_decay(sol, squares, batch=False).norm[0]) == pytest.approx(float(known.norm()), rel=ROUNDING)


def test_states_of_other_shapes(draw):
    """A number, a vector of samples with one entry, and images with a batch axis; h' = -h."""
    for h0, batch, shape in ((draw(), None, ()), (draw(4), True, (4,)), (draw(2, 2, 1, 3), None, (2,))):
        sol = hbodeint(FirstOrder(lambda t, h: -h), h0, (0.0, 1.0), dense=True, **TIGHT)
        found = gradient_decay(sol, lambda h, m: (h**2).sum(), batch)
        assert found.decay.shape == shape
        assert found.decay.numpy() == pytest.approx(np.full(shape, math.exp(-1)), rel=EXACT)


def test_a_terminal_event_is_the_end(draw):
    system = FirstOrder(lambda t, h: -h)
    sol = hbodeint(system, draw(2, 3), (0.0, 3.0), dense=True, event=lambda t, h: t - 1.25, **TIGHT)
    found = gradient_decay(sol, lambda h, m: (h**2).sum())
    assert found.t[-1].item() == pytest.approx(1.25, abs=1e-12)
    assert found.decay.tolist() == pytest.approx([math.exp(-1.25)] * 2, rel=EXACT)


def test_arguments_of_the_field_are_kept(draw):
    k = draw(3).abs()
    system = FirstOrder(lambda t, h, k, c: -c * k * h)
    sol = hbodeint(system, draw(2, 3), (0.0, 1.0), args=(k, 2.0), dense=True, **TIGHT)
    found = gradient_decay(sol, lambda h, m: h[:, 1].sum())
    assert found.decay.tolist() == pytest.approx([math.exp(-2 * float(k[1]))] * 2, rel=EXACT)


def test_solves_without_gradients_and_in_float32(net, draw):
    h0 = draw(2, 2)
    system = HeavyBall(net(), GAMMA, trainable=False)
    call = {"dense": True, "method": "leapfrog", "options": {"step_size": 0.1}}
    known = gradient_decay(hbodeint(system, h0, (0.0, 1.0), **call), squares).norm
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            sol = hbodeint(system, h0, (0.0, 1.0), **call)
            assert torch.equal(gradient_decay(sol, squares).norm, known)
    sol = hbodeint(HeavyBall(net().float(), GAMMA, trainable=False), h0.float(), (0.0, 1.0), **call)
    found = gradient_decay(sol, squares).norm
    assert found.dtype == torch.float64 and torch.allclose(found, known, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gradients_on_a_gpu_are_those_on_the_cpu(net, draw):
    h0 = draw(2, 2)
    cpu, gpu = (
        gradient_decay(hbodeint(FirstOrder(net().to(device)), h0.to(device), (0.0, 1.0), dense=True), squares)
        for device in ("cpu", "cuda")
    )
    assert not gpu.norm.is_cuda and torch.allclose(cpu.norm, gpu.norm, rtol=ROUNDING)


# Errors


@pytest.mark.parametrize(
    "call, error, message",
    [
        ({"dense": False}, ValueError, r"hbodeint\(..., dense=True\)"),
        ({"per_sample": True}, ValueError, "sol must have one time axis"),
        ({"t": torch.tensor([[0.0, 1.0], [0.0, 2.0]])}, ValueError, "sol must have one time axis"),
        ({"options": {"max_steps": 2}, "throw": False}, ValueError, "its status is MAX_STEPS"),
        ({"t": [0.0, 0.0]}, ValueError, "at least one step"),
        ({"method": "explicit_adams", "options": {"step_size": 0.5}}, ValueError, "one-step method such as dprkn6"),
        ({"h0": torch.ones(2, 2, dtype=torch.complex128)}, TypeError, "real state, got torch.complex128"),
        ({"h0": torch.ones(0, 2)}, ValueError, r"entries in its state, got h0 of shape \(0, 2\)"),
    ],
)
def test_solves_that_cannot_be_followed(draw, call, error, message):
    sol = hbodeint(FirstOrder(lambda t, h: -h), **{"h0": draw(2, 2), "t": [0.0, 1.0], "dense": True, **call})
    with pytest.raises(error, match=message):
        gradient_decay(sol, squares)


@pytest.mark.parametrize(
    "loss, error, message",
    [
        (lambda h, m: h, TypeError, r"loss must return a tensor with one real number, got shape \(2, 2\)"),
        (lambda h, m: 1.0, TypeError, "loss must return a tensor with one real number, got float"),
        (lambda h, m: torch.ones(()), ValueError, "loss must depend on h_T or m_T"),
        (lambda h, m: h.detach().sum(), ValueError, "loss must depend on h_T or m_T"),
    ],
)
def test_losses_that_have_no_gradient(draw, loss, error, message):
    sol = hbodeint(HeavyBall(lambda t, h: -h, trainable=False), draw(2, 2), [0.0, 1.0], dense=True)
    with pytest.raises(error, match=message):
        gradient_decay(sol, loss)


def test_what_is_no_solution_and_a_batch_that_is_none(draw):
    with pytest.raises(TypeError, match="sol must be the Solution of hbodeint, got Tensor"):
        gradient_decay(draw(2), squares)
    sol = hbodeint(FirstOrder(lambda t, h: -h), draw(), [0.0, 1.0], dense=True)
    with pytest.raises(ValueError, match=r"batch must be False for h0 of shape \(\)"):
        gradient_decay(sol, squares, batch=True)


def test_a_field_that_changed_since_the_solve(net, draw):
    f = net()
    sol = hbodeint(FirstOrder(f), draw(2, 2), [0.0, 1.0], dense=True)
    with torch.no_grad():
        f.w.mul_(1.5)
    with pytest.raises(ValueError, match="has the field changed since the solve"):
        gradient_decay(sol, squares)
