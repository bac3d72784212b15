"""Published recurrent layers: their settings and start; the orthogonal RNN stays orthogonal."""

import pytest
import torch

from hbode.models.recurrent import (
    PUBLISHED,
    MomentumDTRIV,
    MomentumDTRIVCell,
    MomentumGRU,
    MomentumLSTM,
    MomentumLSTMCell,
    NesterovLSTM,
    PublishedNesterovLSTM,
    published_recurrent,
    start_as_published,
)

H = 6


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layers_run(name):
    torch.manual_seed(0)
    layer = published_recurrent(name, 1, H, batch_first=True)
    output, state = layer(torch.rand(3, 50, 1))
    assert output.shape == (3, 50, H)
    assert bool(output.isfinite().all())
    output.square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in layer.parameters())


@pytest.mark.parametrize("name", [name for name in PUBLISHED if not name.startswith("permuted-mnist-dtriv")])
def test_published_lstms_start_as_in_the_code(name):
    layer = published_recurrent(name, 4, H, num_layers=2)
    if isinstance(layer, MomentumDTRIV):
        return
    for k in range(2):
        W, U = layer.get_parameter(f"weight_ih_l{k}"), layer.get_parameter(f"weight_hh_l{k}")
        torch.testing.assert_close(W.T @ W, torch.eye(W.shape[1]), atol=1e-5, rtol=0)  # float32, of size 1
        assert torch.equal(U, torch.eye(4 * H, H))
        for bias in (layer.get_parameter(f"bias_ih_l{k}"), layer.get_parameter(f"bias_hh_l{k}")):
            assert bias.tolist() == [0.0] * H + [1.0] * H + [0.0] * 2 * H


@pytest.mark.parametrize(
    "name, mu, s",
    [("mnist-momentum", 0.6, 0.6), ("permuted-mnist-momentum", 0.6, 1.0), ("timit-momentum", 0.3, 0.1)],
)
def test_published_momenta(name, mu, s):
    """The momentum of the code: v = μ v + s (W x + b), within the formula of an LSTM."""
    torch.manual_seed(0)
    layer = published_recurrent(name, 4, H).double()
    x = torch.randn(30, 2, 4, dtype=torch.float64)
    h, c = torch.zeros(2, 2, H, dtype=torch.float64)
    v = torch.zeros(2, 4 * H, dtype=torch.float64)
    for x_t in x:
        v = mu * v + s * (x_t @ layer.weight_ih_l0.T + layer.bias_ih_l0)
        i, f, g, o = (v + h @ layer.weight_hh_l0.T + layer.bias_hh_l0).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    assert float((layer(x)[0][-1] - h).detach().abs().max()) < 1e-12  # 30 steps that round at 1e-16


def test_settings_can_be_replaced():
    layer = published_recurrent("mnist-momentum", 4, H, momentum=0.9)
    assert layer.settings["momentum"] == 0.9
    assert layer.settings["step_size"] == 0.6


def test_start_of_a_cell():
    cell = start_as_published(MomentumLSTMCell(3, H))
    assert torch.equal(cell.weight_hh, torch.eye(4 * H, H))
    assert float(cell.bias_ih.detach().sum()) == H


def test_the_codes_nesterov_cell_is_not_the_papers():
    torch.manual_seed(0)
    of_code, of_paper = PublishedNesterovLSTM(3, H, restart=6), NesterovLSTM(3, H, restart=6)
    of_paper.load_state_dict(of_code.state_dict())
    x = torch.randn(20, 2, 3)
    assert float((of_code(x)[0] - of_paper(x)[0]).detach().abs().max()) > 0.01


@pytest.mark.parametrize("module", [MomentumDTRIV, MomentumDTRIVCell])
@pytest.mark.parametrize("size", [1, 7, 8])
def test_the_recurrence_stays_orthogonal(module, size):
    torch.manual_seed(0)
    rnn = module(3, size, momentum=0.5).double()
    rnn.reset_parameters()  # in double precision now
    name = "weight_hh_l0" if module is MomentumDTRIV else "weight_hh"
    optimizer = torch.optim.SGD(rnn.parameters(), lr=0.01)
    before = getattr(rnn, name).detach().clone()
    for _ in range(3):
        x = torch.randn(10, 4, 3, dtype=torch.float64)
        state = rnn(x)[1] if module is MomentumDTRIV else rnn(x[1], rnn(x[0]))
        optimizer.zero_grad()
        state[0].square().sum().backward()
        optimizer.step()
        B = getattr(rnn, name)
        gap = (B @ B.T - torch.eye(size, dtype=torch.float64)).abs().max()
        assert float(gap.detach()) < 1e-12  # an exponential of a matrix of size 1, and a product
    assert size == 1 or not torch.allclose(before, getattr(rnn, name))


def test_names_and_modules_are_checked():
    with pytest.raises(ValueError, match="name must be one of"):
        published_recurrent("mnist", 1, H)
    with pytest.raises(ValueError, match="module must be an LSTM"):
        start_as_published(MomentumGRU(3, H))
    assert isinstance(start_as_published(MomentumLSTM(3, H)), MomentumLSTM)
