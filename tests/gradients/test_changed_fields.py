"""Fields that are not what they were when a gradient runs their steps again: repeated exactly, or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hbode import FirstOrder, hbodeint

T = [0.0, 1.0]


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 3, dtype=torch.float64)
        self.norm = nn.BatchNorm1d(3, dtype=torch.float64)
        self.sign, self.count = 1.0, 0

    def forward(self, t, h):
        return self.sign * torch.tanh(self.linear(h))


class Dropped(Field):
    def forward(self, t, h):
        return nn.functional.dropout(torch.tanh(self.linear(h)), 0.3)


class Noisy(Field):
    def forward(self, t, h):
        return torch.tanh(self.linear(h)) * (1 + 0.1 * torch.randn_like(h))


class Normed(Field):
    def forward(self, t, h):
        return self.norm(self.linear(h))


class Counting(Field):
    """Every second evaluation is another; a step has six, so that only the start shows it."""

    def forward(self, t, h):
        self.count += 1
        return torch.tanh(self.linear(h)) * (1 + self.count % 2)


class OwnGenerator(Field):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, t, h):
        return torch.tanh(self.linear(h)) + 0.1 * torch.randn(h.shape, generator=self.generator, dtype=h.dtype)


def start():
    return torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def solved(f, gradient="discrete_adjoint", per_sample=False, **options):
    system = FirstOrder(f)
    options = {"step_size": 0.25, **options}
    sol = hbodeint(system, start(), T, method="dopri5", gradient=gradient, per_sample=per_sample, options=options)
    return sol.h[-1].square().sum()


WAYS = {
    "all kept": {},
    "checkpoints": {"checkpoints": 2},
    "per sample": {"per_sample": True},
    "jumps": {"jump_ts": [0.4]},
}


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Dropped, Noisy, Normed])
def test_what_was_drawn_is_drawn_again_and_buffers_change_once(kind, way, create_graph):
    """As backpropagation, which evaluates nothing twice, to the rounding of some hundred operations."""
    found = []
    for gradient in ("discrete_adjoint", "backprop"):
        f = kind()
        torch.manual_seed(1)
        given = {k: v for k, v in WAYS[way].items() if gradient == "discrete_adjoint" or k != "checkpoints"}
        value = solved(f, gradient, **given)
        state = torch.get_rng_state()
        (bar,) = torch.autograd.grad(value, f.linear.weight, create_graph=create_graph)
        assert torch.equal(state, torch.get_rng_state())
        found.append((value, bar, f.norm.running_mean, f.norm.running_var, f.norm.num_batches_tracked.double()))
    if way == "jumps":  # the first time is evaluated once more, for what the field uses
        found = [entry[:2] for entry in found] if kind is Normed else found
    for ours, expected in zip(*found, strict=True):
        assert torch.allclose(ours, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_field_that_was_changed_before_the_backward_pass_is_refused(per_sample, create_graph):
    f = Field()
    first = solved(f, per_sample=per_sample)
    f.sign = -1.0
    second = solved(f, per_sample=per_sample)
    with pytest.raises(RuntimeError, match=r"the field has changed since the solve.*t = .*gradient='backprop'"):
        torch.autograd.grad(first + second, f.linear.weight, create_graph=create_graph)
    f.sign = 1.0
    assert torch.autograd.grad(solved(f, per_sample=per_sample), f.linear.weight)[0].isfinite().all()


@pytest.mark.parametrize("way", ["all kept", "checkpoints", "per sample"])
@pytest.mark.parametrize("kind", [Counting, OwnGenerator])
def test_what_cannot_be_repeated_is_refused(kind, way):
    value = solved(f := kind(), **WAYS[way])
    with pytest.raises(RuntimeError, match="the field has changed since the solve"):
        torch.autograd.grad(value, f.linear.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_no_change(dtype):
    """Steps run again sum in another order, and a field may compute in bfloat16 or have kinks."""
    f = Field().to(dtype)
    half = Field().to(torch.bfloat16)
    w = nn.Parameter(torch.ones(3, dtype=dtype))

    def rough(t, h):
        return 5 * torch.relu(f.linear(h)) - 3 * w * h + half.linear(h.to(torch.bfloat16)).to(dtype)

    for tol in (1e-2, 1e-5):
        sol = hbodeint(FirstOrder(rough), start().to(dtype), [0.0, 5.0], rtol=tol, atol=tol)
        assert torch.autograd.grad(sol.h[-1].sum(), w)[0].isfinite().all()
