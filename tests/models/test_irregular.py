"""Gaps, padding and repeated times in the ODE-RNN, against every sample alone, solved segment by segment."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hbode import FirstOrder, GeneralizedHeavyBall, hbodeint
from hbode.models import ODERNN, DenseField, SolverSettings

TIGHT = {"method": "dopri8", "rtol": 1e-12, "atol": 1e-12}
SIZE, CHANNELS, OBSERVED, AHEAD = 4, 2, 6, 3
# As in test_models.py: tolerance times segments and what the dynamics and the cells amplify.
CLOSE = 1e-9


def learner(kind: type, **options: object) -> ODERNN:
    torch.manual_seed(0)
    field = DenseField(SIZE, 6, activation=nn.Tanh)
    return ODERNN(kind(field), SIZE, CHANNELS, SolverSettings(**TIGHT), **options).double()  # type: ignore[arg-type]


def series(shared: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return t, x and mask of five samples, with every kind of gap; the last has no observation."""
    generator = torch.Generator().manual_seed(2)
    gaps = 0.2 + torch.rand(5, OBSERVED + AHEAD, generator=generator, dtype=torch.float64)
    gaps[:, [2, 4]] = 0.0  # observations 1 and 2 are at one time, and 3 and 4
    t = (gaps[:1].expand(5, -1) if shared else gaps).cumsum(1)
    x = torch.randn(5, OBSERVED, CHANNELS, generator=generator, dtype=torch.float64)
    mask = torch.ones(5, OBSERVED, CHANNELS, dtype=torch.bool)
    mask[1, 0] = mask[1, 5] = False  # begins later, ends earlier
    mask[2, 1] = mask[2, 3, 0] = False  # the first of two at one time, and one channel
    mask[3, :4] = False
    mask[4] = False
    x[2, 4, 1] = math.nan
    if not shared:
        t = t.clone()
        t[1, 5] = t[4, :OBSERVED] = math.nan  # padding has no time
        t[2, -AHEAD] = t[2, OBSERVED - 1]  # a forecast at the time of the last observation: after it
        t[3, -AHEAD:-1] = torch.tensor([0.1, 0.2])  # before the first observation
    return t, x, mask


def alone(model: ODERNN, t: Tensor, x: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return one-step predictions (the first included), reconstructions and forecasts of one sample, NaN for gaps."""
    second = model.system.second_order
    state, now = x.new_zeros(1, SIZE * (1 + second)), None
    rows = [[x.new_full((CHANNELS,), math.nan)] * OBSERVED for _ in range(2)]
    forecasts = []
    events = [(t[k].item(), 0, k) for k in range(OBSERVED) if observed[k].any()]
    events += [(at, 1, k) for k, at in enumerate(t[OBSERVED:].tolist())]
    for at, kind, k in sorted(events):
        if now is not None and at > now:
            h, m = state.chunk(2, -1) if second else (state, None)
            sol = hbodeint(model.system, h, [now, at], m0=m, **TIGHT)
            state = sol.h[1] if m is None else torch.cat((sol.h[1], sol.m[1]), -1)
        said = model.decode(state[:, :SIZE])[0]
        if kind:
            forecasts.append(said)
            now = at if now is not None else None
            continue
        rows[0][k], now = said, at
        if model.missing == "mask":
            given = torch.cat((torch.where(observed[k], x[k], 0), observed[k].double()))
        else:
            given = torch.where(observed[k], x[k], said)
        state = model.cell(given.unsqueeze(0), state)
        rows[1][k] = model.decode(state[:, :SIZE])[0]
    return torch.stack(rows[0]), torch.stack(rows[1]), torch.stack(forecasts)


@pytest.mark.parametrize(
    ("kind", "shared", "options"),
    [
        (FirstOrder, False, {"missing": "mask", "cell": "gru"}),
        (FirstOrder, True, {}),
        pytest.param(GeneralizedHeavyBall, False, {}, marks=pytest.mark.slow),
        pytest.param(GeneralizedHeavyBall, True, {"missing": "mask", "cell": "gru"}, marks=pytest.mark.slow),
    ],
)
def test_a_batch_with_gaps_is_each_sample_alone(kind, shared, options):
    t, x, mask = series(shared)
    model, x = learner(kind, **options), x.requires_grad_()
    observed = mask & ~x.isnan()
    said = model(t, x, mask)
    one_step, reconstruction, forecast = map(
        torch.stack, zip(*(alone(model, *sample) for sample in zip(t, x, observed, strict=True)), strict=True)
    )
    expected = [one_step[:, 1:], reconstruction, forecast]
    given = [said.one_step[:, :-1], said.reconstruction, said.forecast]
    grads = []
    for parts in (expected, given):
        loss = sum((part[~part.isnan()].square().sum() for part in parts), torch.zeros(()))
        grads.append(torch.autograd.grad(loss, [x, *model.parameters()]))
    for a, b in zip([*expected, *grads[0]], [*given, *grads[1]], strict=True):
        scale = float(a.detach().nan_to_num().abs().max())
        torch.testing.assert_close(b, a, rtol=CLOSE, atol=CLOSE * scale, equal_nan=True)
    assert torch.equal(said.reconstruction.isnan().any(-1), ~observed.any(-1))


@pytest.mark.parametrize("shared", [False, True])
def test_a_mask_that_hides_nothing_changes_nothing(shared):
    t, x, _ = series(shared)
    t, x = t.nan_to_num(), x.nan_to_num()
    t = t.cummax(1).values + torch.arange(t.shape[1])
    model = learner(GeneralizedHeavyBall)
    with torch.no_grad():
        assert torch.equal(model(t, x).forecast, model(t, x, torch.ones_like(x).bool()).forecast)


def test_what_is_missing_entirely_is_left_out():
    t, x, _ = series(False)
    t, x = t[:1] + torch.arange(9) / 10, x[:1].clone()
    x[0, 3] = math.nan
    keep = [0, 1, 2, 4, 5]
    model = learner(FirstOrder)
    with torch.no_grad():
        with_gap, without = model(t, x), model(t[:, [*keep, 6, 7, 8]], x[:, keep])
    # The same steps: there is no update at the gap.
    assert with_gap.cost.nfe == without.cost.nfe
    torch.testing.assert_close(with_gap.forecast, without.forecast, rtol=0, atol=1e-13)
    torch.testing.assert_close(with_gap.reconstruction[:, keep], without.reconstruction, rtol=0, atol=1e-13)


def test_times_with_gaps_have_gradients():
    t, x, mask = (part[:3] for part in series(False))
    model = learner(GeneralizedHeavyBall)
    model.solver = SolverSettings("dopri8", 1e-10, 1e-10)

    def loss(at: Tensor) -> Tensor:
        said = model(at, x, mask)
        return said.forecast.square().sum() + said.one_step.nan_to_num().square().sum()

    at = t.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(at), at)
    step = 1e-4
    for place in [(0, 0), (0, 5), (0, 7)]:  # the start, the last observation, a forecast
        shift = torch.zeros_like(t)
        shift[place] = step
        with torch.no_grad():
            slope = (loss(t + shift) - loss(t - shift)) / (2 * step)
        # differences of second order: step² times a third derivative of some ten
        assert abs(float(found[place] - slope)) <= 1e-6


def test_errors_name_the_argument():
    t, x, mask = series(False)
    model = learner(FirstOrder)
    with pytest.raises(ValueError, match="mask must be boolean"):
        model(t, x, mask.double())
    with pytest.raises(ValueError, match="mask must be boolean"):
        model(t, x, mask[:, :2])
    with pytest.raises(ValueError, match="t must not decrease"):
        model(torch.cat((t[:, :OBSERVED].flip(1), t[:, OBSERVED:]), 1)[:1], x[:1], mask[:1])
    with pytest.raises(ValueError, match="t must be finite at observations"):
        model(t, x)
    with pytest.raises(ValueError, match="t must end with a forecast"):
        model(torch.cat((t[:, :-AHEAD], t[:, -AHEAD:] - 5), 1), x, mask)
    with pytest.raises(ValueError, match="missing must be"):
        learner(FirstOrder, missing="forward")
    with pytest.raises(ValueError, match="outputs must be the 2 channels"):
        learner(FirstOrder, outputs=3)


def test_a_start_is_the_state_before_the_first_observation_and_a_cell_may_be_a_module() -> None:
    """A cell that changes nothing leaves the solve from the start alone; one that reads x out of it does not."""

    class Still(nn.Module):
        def forward(self, x: Tensor, s: Tensor) -> Tensor:
            return s

    class Start(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat((x[:, 0], x[:, 1], x[:, 2], x[:, 3]), -1)  # (B, 4 C) = (B, 2 SIZE)

    t, x, _ = series(shared=False)
    t = torch.arange(t.shape[1], dtype=t.dtype) + t[:, :1].nan_to_num()
    x = x.nan_to_num()
    model = learner(GeneralizedHeavyBall, cell=Still(), start=Start())
    said = model(t, x)
    h, m = Start()(x).chunk(2, -1)
    for k in range(len(x)):
        exact = hbodeint(model.system, h[k : k + 1], t[k], m0=m[k : k + 1], **TIGHT)
        rows = model.decode(exact.h[:, 0])
        torch.testing.assert_close(said.reconstruction[k], rows[:OBSERVED], rtol=0, atol=CLOSE)
        torch.testing.assert_close(said.forecast[k], rows[OBSERVED:], rtol=0, atol=CLOSE)
    x[0, 1] = math.nan
    with pytest.raises(ValueError, match="x must be complete"):
        model(t, x)
