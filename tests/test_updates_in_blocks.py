"""Updates in the loops in blocks, eager and compiled, against the loops on the host that are tested by themselves."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from scenarios import unsynchronised
from torch import Tensor, nn

import hbode.gradients.problem
import hbode.gradients.replay
from hbode import Solution, Update, hbodeint
from hbode.solvers import solve_in_blocks
from hbode.solvers.loops.control import tie

UNITS, CHANNELS, SAMPLES = 4, 3, 5
# Two orders of the same sums: some hundred roundings of numbers of size one, over twenty steps and updates.
ROUNDED = 1e-12


class Model(nn.Module):
    """A field and a cell that updates all of the state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(UNITS, 8), nn.Tanh(), nn.Linear(8, UNITS))
        self.cell = nn.GRUCell(CHANNELS, 2 * UNITS)
        self.double()

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        out: Tensor = self.net(h)
        return out

    def observe(self, t: Tensor, h: Tensor, m: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h, m = self.cell(x, torch.cat((h, m), -1)).chunk(2, -1)
        return h, m


def case(kind: str, count: int = 7, seed: int = 3) -> tuple[Tensor, Update, Model, bool]:
    """Return times, updates, also at the first and last time, a model, and whether samples step by themselves."""
    draw = torch.Generator().manual_seed(seed)
    rand = partial(torch.rand, generator=draw, dtype=torch.float64)
    model = Model()
    if kind == "shared":
        t, at = torch.linspace(0, 3, 9, dtype=torch.float64), rand(count).sort().values * 3
        at[0], at[-1] = 0.0, 3.0
        data = torch.randn(count, SAMPLES, CHANNELS, generator=draw, dtype=torch.float64)
        return t, Update(at, model.observe, data), model, False
    t = torch.linspace(0, 1, 9, dtype=torch.float64) * (2 + rand(SAMPLES, 1))
    at = rand(SAMPLES, count).sort(1).values * t[:, -1:]
    at[:, 0], at[1, -1] = 0.0, t[1, -1]
    data = torch.randn(SAMPLES, count, CHANNELS, generator=draw, dtype=torch.float64)
    return t, Update(at, model.observe, data, rand(SAMPLES, count) > 0.2), model, kind == "per sample"


def solved(kind: str, method: str, **options: Any) -> tuple[Solution, list[Tensor], list[Tensor]]:
    """Return a solution, all that it gives out, and the gradients of a loss of all."""
    t, updates, model, per_sample = case(kind)
    gamma = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    h0 = torch.linspace(-1, 1, SAMPLES * UNITS, dtype=torch.float64).view(SAMPLES, UNITS).requires_grad_()
    given = {"gamma": gamma, "updates": updates, "per_sample": per_sample, "rtol": 1e-6, "atol": 1e-8}
    sol = hbodeint(model, h0, t, method=method, **given, **options)
    assert sol.m is not None and sol.updates is not None
    out = [sol.h, sol.m, *sol.updates.before, *sol.updates.after]
    weights = torch.Generator().manual_seed(5)
    loss = sum(
        ((x.nan_to_num() * torch.rand(x.shape, generator=weights, dtype=x.dtype)).square().sum() for x in out),
        torch.zeros(()),
    )
    return sol, out, list(torch.autograd.grad(loss, [h0, gamma, *model.parameters()]))


def assert_same(one: tuple[Solution, list[Tensor], list[Tensor]], other: Any) -> None:
    assert one[0].stats.status == other[0].stats.status
    for key in ("accepted", "rejected", "nfe"):
        assert getattr(one[0].stats, key) == getattr(other[0].stats, key), key
    for a, b in zip([*one[1], *one[2]], [*other[1], *other[2]], strict=True):
        size = float(a.detach().nan_to_num().abs().max())
        torch.testing.assert_close(b, a, rtol=ROUNDED, atol=ROUNDED * size, equal_nan=True)


KINDS = ["shared", "tied", "per sample"]


@pytest.mark.parametrize("method", ["dprkn6", "dopri5"])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_do_what_the_loops_on_the_host_do(kind: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards; and backwards by the steps that blocks are taken apart into."""
    expected = solved(kind, method)

    def in_blocks(*given: Any, tied: bool, subject: object, keep_records: bool) -> Any:
        return solve_in_blocks(*given, tied, keep_records=keep_records)

    monkeypatch.setattr(hbode.gradients.problem, "integrate", in_blocks)
    assert_same(expected, solved(kind, method))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dopri5", "dprkn6", "rk4"])  # dopri5 showed the fault that compiled.py works around
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_forwards_and_backwards(kind: str, method: str) -> None:
    options = {"step_size": 0.11} if method == "rk4" else {}
    assert_same(solved(kind, method, options=options), solved(kind, method, options=options, compile=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shared", "tied"])
def test_other_times_and_counts_compile_nothing_new(kind: str) -> None:
    model = Model()
    graphs = []
    for count, seed in ((7, 3), (7, 4), (11, 5), (40, 6)):
        t, updates, *_ = case(kind, count, seed)
        updates = Update(updates.t, model.observe, updates.data, updates.mask)
        h0 = torch.ones(SAMPLES, UNITS, dtype=torch.float64)
        sol = hbodeint(model, h0, t, updates=updates, method="dopri5", compile=True)
        sol.h.square().sum().backward()
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert len(set(graphs)) == 1


def test_samples_that_step_together_arrive_at_their_updates_together() -> None:
    """The k-th updates are reached in as many steps as if each span between updates was solved by itself."""
    t = torch.tensor([[0.0, 3.0], [0.0, 6.0], [0.0, 1.5]], dtype=torch.float64)
    at = torch.tensor([[1.0, 1.1, 2.0], [0.2, 4.0, 5.0], [0.5, 0.6, 1.4]], dtype=torch.float64)
    still = Update(at, lambda t, h, m: (h, m))
    h0 = torch.ones(3, 2, dtype=torch.float64)
    sol = hbodeint(lambda t, h: -h, h0, t, updates=still, rtol=1e-2, atol=1e-2, method="dprkn6")
    expected = torch.stack([torch.full((2,), float(x)) for x in t[:, 1]])
    assert len({int(n) for n in sol.stats.accepted}) == 1  # nobody waits for another
    torch.testing.assert_close(sol.h[-1].double(), _damped_cosine(expected.double()), rtol=0, atol=0.1)


def _damped_cosine(t: Tensor) -> Tensor:
    """Return the solution of h'' + γ h' + h = 0 from h = 1 at rest, for the default damping."""
    rate = torch.sigmoid(torch.tensor(-3.0, dtype=torch.float64)) / 2
    omega = (1 - rate**2).sqrt()
    return torch.exp(-rate * t) * (torch.cos(omega * t) + rate / omega * torch.sin(omega * t))


def test_a_short_span_does_not_hold_back_the_steps_that_follow() -> None:
    dt = torch.tensor([0.001, 0.5])  # what the first sample had left before its last update, and the second
    tied = tie(dt, torch.tensor([2.0, 1.0]), torch.tensor([True, True]))
    torch.testing.assert_close(tied, torch.tensor([0.5, 0.25]))
    tied = tie(dt, torch.tensor([2.0, 1.0]), torch.tensor([True, False]))
    torch.testing.assert_close(tied, torch.tensor([0.001, 0.5]))  # who waits keeps what it had


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_a_device_is_not_waited_for_at_each_update(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks hold steps and updates, and are run without a wait."""

    def in_blocks(*given: Any, tied: bool, subject: object, keep_records: bool) -> Any:
        return solve_in_blocks(*given, tied, run=unsynchronised, keep_records=keep_records)

    monkeypatch.setattr(hbode.gradients.problem, "integrate", in_blocks)
    t, updates, model, per_sample = case(kind)
    model, at, data = model.cuda(), updates.t.cuda(), updates.data.cuda()
    mask = None if updates.mask is None else updates.mask.cuda()
    h0 = torch.ones(SAMPLES, UNITS, dtype=torch.float64, device="cuda")
    update = Update(at, model.observe, data, mask)
    sol = hbodeint(model, h0, t.cuda(), updates=update, per_sample=per_sample, method="dopri5")
    assert bool(sol.h.isfinite().all())
