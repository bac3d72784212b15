"""Fields, the ODE-RNN, and sizes of equal parameter count."""

import math

import pytest
import torch
from torch import nn

from hbode import FirstOrder, GeneralizedHeavyBall, hbodeint
from hbode.models import ODERNN, SYSTEMS, DenseField, ResidualCell, SolverSettings, equal_sizes, make_system
from hbode.models import parameter_count as count
from hbode.systems import System

CHANNELS, OBSERVED, AHEAD = 3, 5, 4


def window(batch: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    gaps = 0.5 + torch.rand(batch, OBSERVED + AHEAD - 1, generator=generator, dtype=torch.float64)
    t = torch.cat((torch.zeros(batch, 1, dtype=torch.float64), gaps.cumsum(1)), 1)
    return t, torch.randn(batch, OBSERVED, CHANNELS, generator=generator)


def model(name: str, **options: object) -> ODERNN:
    torch.manual_seed(0)
    return ODERNN(make_system(name, 6, 7), 6, CHANNELS, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", ["residual", "gru"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_shapes_and_a_gradient_for_every_parameter(name: str, cell: str) -> None:
    t, x = window()
    learner = model(name, cell=cell)
    said = learner(t, x)
    assert said.one_step.shape == said.reconstruction.shape == (6, OBSERVED, CHANNELS)
    assert said.forecast.shape == (6, AHEAD, CHANNELS)
    torch.testing.assert_close(said.one_step[:, -1], said.forecast[:, 0])
    loss = said.forecast.square().mean() + said.one_step.square().mean() + said.reconstruction.square().mean()
    loss.backward()
    for key, parameter in learner.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", SYSTEMS)
def test_both_gradient_modes_agree(name: str) -> None:
    t, x = window()
    grads = []
    for gradient in ("discrete_adjoint", "backprop"):
        learner = model(name, solver=SolverSettings(gradient=gradient)).double()
        said = learner(t, x.double())
        said.forecast.sum().backward()
        grads.append([p.grad for p in learner.parameters() if p.grad is not None])
        assert (said.cost.nfe_backward > 0) == (gradient == "discrete_adjoint")
    for a, b in zip(*grads, strict=True):
        # Two orders of summation of the same numbers.
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_cost_counts_every_segment() -> None:
    t, x = window()
    said = model("node", solver=SolverSettings(method="dopri5", rtol=1e-1, atol=1.0))(t, x)
    # So loose a tolerance is met by one step in each of the K segments: the derivative after the observation and six
    # stages. One more is the derivative that the solve begins with.
    assert said.cost.nfe == 7 * OBSERVED + 1
    assert said.cost.rejected == 0


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", [FirstOrder, GeneralizedHeavyBall])
def test_one_solve_is_a_solve_for_each_segment(kind: type[System], shared: bool) -> None:
    t, x = window()
    t, x = (t[:1].expand_as(t) if shared else t), x.double()
    torch.manual_seed(0)
    settings = SolverSettings(method="dopri8", rtol=1e-12, atol=1e-12)
    learner = ODERNN(kind(DenseField(6, 7, activation=nn.Tanh)), 6, CHANNELS, settings).double()
    size, second = learner.size, learner.system.second_order
    state, before, after = x.new_zeros(len(x), size * (1 + second)), [], []
    for k in range(OBSERVED):
        state = learner.cell(x[:, k], state)
        after.append(state[:, :size])
        h, m = state.chunk(2, -1) if second else (state, None)
        end = k + 2 if k + 1 < OBSERVED else t.shape[1]
        sol = hbodeint(learner.system, h, t[:, k:end], m0=m, method="dopri8", rtol=1e-12, atol=1e-12)
        state = sol.h[1] if sol.m is None else torch.cat((sol.h[1], sol.m[1]), -1)
        before.append(sol.h[1])
    expected = [learner.decode(torch.stack(x, 1)) for x in (before, after, [*sol.h[1:]])]
    said = learner(t, x)
    given = [said.one_step, said.reconstruction, said.forecast]
    grads = []
    for outputs in (expected, given):
        loss = sum((out.square().sum() for out in outputs), torch.zeros(()))
        grads.append(torch.autograd.grad(loss, list(learner.parameters())))
    # Tolerance times segments and what the dynamics and the cells amplify: measured 1e-11 of the largest.
    for a, b in zip([*expected, *grads[0]], [*given, *grads[1]], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9 * float(a.detach().abs().max()))


def test_forecast_is_the_ode_let_run_on() -> None:
    t, x = window()
    learner = model("hbnode", solver=SolverSettings(rtol=1e-9, atol=1e-9)).double()
    with torch.no_grad():
        whole = learner(t, x.double()).forecast
        first = learner(t[:, : OBSERVED + 1], x.double()).forecast
    # Same end state of the encoder, so the first forecast cannot depend on how many follow; tolerance of the solver.
    torch.testing.assert_close(whole[:, :1], first, rtol=1e-7, atol=1e-7)


def test_samples_do_not_mix() -> None:
    t, x = window()
    learner = model("ghbnode", solver=SolverSettings(rtol=1e-8, atol=1e-8)).double()
    with torch.no_grad():
        together, alone = learner(t, x.double()).forecast[2:3], learner(t[2:3], x[2:3].double()).forecast
    # The common steps differ; measured 4e-6, while another sample's forecast differs by 0.1 and more.
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_time_is_real_time() -> None:
    """A heavy ball without force and cell: the momentum decays by e^(-γ Δt) over each sample's own gap."""
    system = make_system("hbnode", 1, 2)
    with torch.no_grad():
        for parameter in system.f.parameters():  # type: ignore[union-attr]
            parameter.zero_()
    gaps = torch.tensor([0.5, 2.0], dtype=torch.float64)
    t = torch.stack((torch.zeros(2, dtype=torch.float64), gaps), 1)
    h0, m0 = torch.zeros(2, 1), torch.ones(2, 1)
    _, m = hbodeint(system, h0, t, m0=m0, method="dopri5", rtol=1e-7, atol=1e-9)
    gamma = 1 / (1 + math.exp(3))
    torch.testing.assert_close(m[-1, :, 0].double(), torch.exp(-gamma * gaps), rtol=1e-5, atol=0)


def test_equal_sizes_are_equal() -> None:
    def build(name: str, size: int, hidden: int) -> nn.Module:
        return ODERNN(make_system(name, size, hidden), size, CHANNELS)

    before = torch.get_rng_state()
    sizes = equal_sizes(build, list(SYSTEMS), "hbnode", 16)
    assert torch.equal(before, torch.get_rng_state())
    assert sizes["hbnode"] == (16, 16)
    counts = [count(build(name, *size)) for name, size in sizes.items()]
    target = count(build("hbnode", 16, 16))
    assert max(abs(c - target) for c in counts) <= 0.02 * target


def test_dense_field_inputs() -> None:
    h = torch.randn(4, 5)
    assert DenseField(5, 8)(torch.zeros(()), h).shape == (4, 5)
    assert DenseField(5, 8, inputs=2)(torch.zeros(()), h, h).shape == (4, 5)


def test_residual_cell_is_linear() -> None:
    cell = ResidualCell(4, 3)
    x, s = torch.randn(2, 3), torch.randn(2, 4)
    zero = cell(torch.zeros_like(x), torch.zeros_like(s))
    torch.testing.assert_close(cell(2 * x, 2 * s) - zero, 2 * (cell(x, s) - zero))


def test_errors_name_the_argument() -> None:
    t, x = window()
    learner = model("node")
    with pytest.raises(ValueError, match="name must be one of node"):
        make_system("lstm", 4, 4)
    with pytest.raises(ValueError, match="hidden must be at least 1"):
        DenseField(3, 0)
    with pytest.raises(ValueError, match="x must have shape"):
        learner(t, x[..., :2])
    with pytest.raises(ValueError, match="t must have shape"):
        learner(t[:, :OBSERVED], x)
    with pytest.raises(ValueError, match="cell must be one of"):
        model("node", cell="lstm")
    with pytest.raises(ValueError, match="size must be at least 2"):
        equal_sizes(lambda *_: nn.Linear(1, 1), ["node"], "node", 1)
