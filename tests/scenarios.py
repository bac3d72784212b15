"""Solves with every input that takes a gradient, for each of the ways in which a solve can go."""

from __future__ import annotations

import torch

from hbode import Event, hbodeint
from hbode.solvers import run_tries


def increasing(*values):
    return torch.tensor(values, dtype=torch.float64)


def cotangents(outputs, seed=3):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(x.shape, generator=rng, dtype=torch.float64).to(x.dtype) for x in outputs]


def pulled_back(outputs, inputs):
    outputs = [x for x in outputs if x.numel()]
    return torch.autograd.grad(outputs, inputs, cotangents(outputs), allow_unused=True)


def assert_same(first, second, relative=1e-10):
    """Equal, each tensor relative to its largest entry, and none of them missing or zero throughout."""
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a is not None
        assert b is not None
        size = b.abs().max().item()
        assert size > 0
        assert (a - b).abs().max().item() <= relative * size


def unsynchronised(*block):
    """Run a block of tries; raise if it waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        return run_tries(*block)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def solved(problem, gradient, **call):
    """Solve h'' + γ h' + ξ h = net(t, h) + arg sin(h t), with all that a problem has of these."""
    return hbodeint(
        lambda t, h, arg: problem.net(t, h) + arg * torch.sin(h * t),
        problem.h0,
        problem.t,
        m0=problem.m0,
        args=(problem.arg,),
        gamma=problem.gamma,
        xi=problem.xi,
        gradient=gradient,
        **call,
    )


class Scenario:
    """A solve with every input that takes a gradient, for each of the ways in which a solve can go."""

    def __init__(self, net, draw, *, t, batch=2, gamma=None, decreasing=False, **call):
        self.net = net()
        self.call = call
        self.h0, self.m0 = draw(batch, 2, grad=True), draw(batch, 2, grad=True)
        t = t if isinstance(t, torch.Tensor) else increasing(*t)
        self.t = (-t if decreasing else t).requires_grad_()
        self.gamma = torch.tensor(0.3 if gamma is None else gamma, dtype=torch.float64, requires_grad=True)
        self.xi = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
        self.arg = draw(2, grad=True)

    @property
    def inputs(self):
        return (self.h0, self.m0, self.t, self.gamma, self.xi, self.arg, *self.net.parameters())

    def __call__(self, gradient):
        call = {"rtol": 1e-6, "atol": 1e-8, **self.call}
        sol = solved(self, gradient, **call)
        outputs = [sol.h, sol.m]
        for record in sol.events:
            outputs += [record.t, record.h, record.m]
        return [x.nan_to_num() if x.dtype.is_floating_point else x for x in outputs], sol


OUTPUTS = (0.0, 0.13, 0.5, 0.5, 0.71, 1.1)
RAGGED = torch.tensor([[0.0, 0.4, 0.5, 1.2], [0.1, 0.7, 0.7, 0.7]], dtype=torch.float64)


def stops(height):
    return Event(lambda t, h, m: h.sum() - height, terminal=True)


SCENARIOS = {
    "between steps": {"t": OUTPUTS},
    "decreasing": {"t": OUTPUTS, "decreasing": True},
    "gamma per channel": {"t": OUTPUTS, "gamma": [0.2, 0.9]},
    "step_ts": {"t": OUTPUTS, "options": {"step_ts": [0.2, 0.9], "controller": "PID"}},
    "jump_ts": {"t": OUTPUTS, "options": {"jump_ts": [0.3, 0.6]}},
    "per sample": {"t": OUTPUTS, "per_sample": True},
    "per sample, ragged": {"t": RAGGED, "per_sample": True},
    "per sample, decreasing": {"t": RAGGED, "per_sample": True, "decreasing": True},
    "times per sample": {"t": RAGGED},
    "event": {"t": OUTPUTS, "event": Event(lambda t, h, m: h[0, 0] - m[0, 1] - 0.3 * t, terminal=False)},
    "terminal event": {"t": OUTPUTS, "event": Event(lambda t, h, m: t - 0.6 + 0.1 * h[0, 0])},
    "events per sample": {
        "t": OUTPUTS,
        "per_sample": True,
        "event": [
            Event(lambda t, h, m: t - 0.6 + 0.1 * h[:, 0]),
            Event(lambda t, h, m: 0.2 + 0.1 * m[:, 1] - t, terminal=False),
        ],
    },
}
