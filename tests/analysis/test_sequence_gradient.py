"""Gradients back through recurrent layers, against whole Jacobians and against what must hold."""

import math

import matplotlib.pyplot as plt
import pytest
import torch

from hbode.analysis import sequence_gradient
from hbode.models.recurrent import HeavyBallLayer


def jacobian_norm(layer, x, k, first_only):
    """‖∂s_T/∂s_k‖_F / √n of one sequence through an LSTM, of the state or of its first tensor."""
    _, state = layer(x[:k])
    state = tuple(s.detach() for s in state)

    def rest(*state):
        return layer(x[k:], state)[1]

    rows = torch.autograd.functional.jacobian(rest, state)
    by_h = [out[0] for out in rows] if first_only else [part for out in rows for part in out]
    return math.sqrt(sum(float(j.square().sum()) for j in by_h) / sum(s.numel() for s in state))


def test_norms_are_those_of_whole_jacobians():
    torch.manual_seed(0)
    layer, x = torch.nn.LSTM(2, 6).double(), torch.randn(40, 1, 2, dtype=torch.float64)
    flow = sequence_gradient(layer, x, points=5, probes=400)
    assert flow.t.tolist() == [8, 16, 24, 32, 40] and float(flow.state[-1]) == pytest.approx(1, rel=0.2)
    for i, k in enumerate(flow.t[:-1].int().tolist()):
        # A mean of 400 squares, whose spread is at most √2 of it: a standard error of 7 %, half of it in the root.
        assert float(flow.state[i]) == pytest.approx(jacobian_norm(layer, x, k, False), rel=0.2)
        assert float(flow.hidden[i]) == pytest.approx(jacobian_norm(layer, x, k, True), rel=0.2)


@pytest.mark.parametrize("is_complex", [False, True])
def test_oscillators_stay_above_their_bound_and_a_plain_network_does_not(is_complex):
    torch.manual_seed(0)
    x = torch.randn(4, 1000, 3)
    layer = HeavyBallLayer(3, 32, radius=(0.99, 0.9999), complex=is_complex)
    flow = sequence_gradient(layer, x, loss=lambda h, m: h.square().sum(), bound=layer.gradient_bound)
    # 16 probes of 4 sequences: a standard error below 9 % of the norm.
    assert bool((flow.state > 0.6 * flow.bound).all()) and float(flow.bound[0]) > 1e-3
    assert flow.gradient_norm is not None and bool((flow.gradient_norm[:-1] > 0).all())
    plain = sequence_gradient(torch.nn.RNN(3, 32, batch_first=True), x)
    assert float(plain.state[0]) < 1e-12


def test_one_oscillator_exactly():
    """∂z_T/∂z_t = E^{T-t}, whose norm is known."""
    torch.manual_seed(0)
    layer = HeavyBallLayer(1, 1).double()
    flow = sequence_gradient(layer, torch.randn(1, 64, 1).double(), points=4, probes=400)
    E, _ = layer.propagator(torch.tensor(1.0, dtype=torch.float64))
    for t, found in zip(flow.t.tolist(), flow.state.tolist(), strict=True):
        exact = torch.linalg.matrix_norm(torch.linalg.matrix_power(E[0], int(64 - t))) / math.sqrt(2)
        assert found == pytest.approx(float(exact.detach()), rel=0.2)


def test_table_and_figure():
    flow = sequence_gradient(torch.nn.GRU(2, 4), torch.randn(40, 2, 2), points=6)
    assert "hidden" in repr(flow) and flow.bound is None and flow.gradient_norm is None
    (axes,) = flow.plot(label="GRU").axes
    assert axes.get_yscale() == "log" and len(axes.lines) == 1
    layer = HeavyBallLayer(2, 4)
    sequence_gradient(layer, torch.randn(2, 40, 2), bound=layer.gradient_bound).plot(axes)
    assert len(axes.lines) == 3
    plt.close("all")


def test_what_does_not_fit_is_refused():
    layer, x = torch.nn.GRU(2, 4), torch.randn(40, 2, 2)
    with pytest.raises(ValueError, match="points must be at least 2"):
        sequence_gradient(layer, x, points=1)
    with pytest.raises(ValueError, match="x must be three-dimensional with at least 50 samples"):
        sequence_gradient(layer, x, points=50)
    with pytest.raises(TypeError, match="layer must return"):
        sequence_gradient(lambda x, state: x, x)
