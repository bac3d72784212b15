"""The solvers of peers.py that run in torch, the problems they solve, and the errors of what they return.

Every solver integrates the heavy ball h'' + γ h' = f(h), γ = 0.05, from the same h0 at rest to the same times; a
training step takes the mean square of all positions and momenta and the gradients of h0 and of all weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchdiffeq
from _common import network
from torch import Tensor, nn

from hbode import HeavyBall, SolverError, hbodeint

GAMMA, MAX_STEPS = 0.05, 1000


class NotSolvedError(Exception):
    """A solver gave up: its step became too small, or its steps too many."""


@dataclass(frozen=True)
class Result:
    """Positions and momenta at all outputs, gradients if taken, evaluations of f forward and backward if told."""

    h: Tensor
    m: Tensor
    grads: Sequence[Tensor] = ()
    nfe: int | None = None
    nfe_backward: int | None = None


@dataclass(frozen=True)
class Solver:
    """A library with a method and a way to gradients: `run(tol)` is what is timed, `read` makes a `Result` of it."""

    name: str
    run: Callable[[float], Any]
    read: Callable[[Any], Result] = lambda result: result


@dataclass(frozen=True)
class Case:
    """A field in float32, an initial position, the times of the outputs, and the tolerance of the reference.

    The search for a tolerance starts at `guess`, by default at the level of error.
    """

    label: str
    net: nn.Module
    h0: Tensor
    t: Tensor
    reference_tol: float = 1e-12
    guess: float | None = None

    def reference(self) -> Result:
        """Return the solution and its gradients in float64, and leave the field in float32."""
        exact = Case(self.label, self.net.double(), self.h0.double(), self.t.double())
        result = hbode_step(exact, self.reference_tol, "discrete_adjoint", method="dprkn8")
        self.net.float()
        return result


class Scaled(nn.Module):
    """A field times a fixed number."""

    def __init__(self, net: nn.Module, scale: float) -> None:
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, h: Tensor) -> Tensor:
        return self.scale * self.net(h)


def dense_case(label: str, size: tuple[int, int, int], outputs: int, device: str, end: float = 8.0) -> Case:
    """Return the problem with the two-layer network of training_step.py."""
    batch, dim, hidden = size
    net = network(dim, hidden, torch.float64).to(device, torch.float32)
    h0 = torch.randn(batch, dim, generator=torch.Generator().manual_seed(1))
    return Case(label, net, h0.to(device), torch.linspace(0, end, outputs, device=device))


def convolutional_case(batch: int, device: str) -> Case:
    """Return the problem with two convolutions of 64 channels on 16 × 16 points, times 0.5."""
    torch.manual_seed(0)
    layers = nn.Conv2d(64, 64, 3, padding=1), nn.Tanh(), nn.Conv2d(64, 64, 3, padding=1)
    h0 = torch.randn(batch, 64, 16, 16, generator=torch.Generator().manual_seed(1))
    label = f"64 × 16 × 16, batch {batch}"
    net = Scaled(nn.Sequential(*layers), 0.5).to(device)
    return Case(label, net, h0.to(device), torch.tensor([0.0, 1.0]), 1e-8, guess=0.1)


class Stacked(nn.Module):
    """The heavy ball as one field on (h, m) stacked on a new first axis, counting its calls."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.nfe = net, 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.nfe += 1
        h, m = y.unbind()
        return torch.stack((m, self.net(h) - GAMMA * m))


class Flat(nn.Module):
    """The heavy ball as one field on rows of (h, m) flattened, as torchode takes them, counting its calls."""

    def __init__(self, net: nn.Module, shape: torch.Size) -> None:
        super().__init__()
        self.net, self.shape, self.nfe = net, shape, 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.nfe += 1
        h, m = y.chunk(2, -1)
        return torch.cat((m, self.net(h.view(len(h), *self.shape)).view_as(m) - GAMMA * m), -1)


def loss(h: Tensor, m: Tensor) -> Tensor:
    """Return the mean square of all positions and momenta."""
    return (h.square() + m.square()).mean()


def differentiated(case: Case, solve: Callable[[Tensor], Result], counter: Callable[[], int | None]) -> Result:
    """Return what `solve` gives from a leaf with the value of h0, with the gradients of the loss."""
    h0 = case.h0.detach().requires_grad_()
    result = solve(h0)
    grads = torch.autograd.grad(loss(result.h, result.m), (h0, *case.net.parameters()))
    return Result(result.h.detach(), result.m.detach(), grads, result.nfe, counter())


def hbode_forward(case: Case, tol: float, **settings: Any) -> Result:
    """Solve by hbode without gradients; settings are those of hbodeint."""
    with torch.no_grad():
        return _hbode(case, case.h0, tol, **settings)[0]


def hbode_step(case: Case, tol: float, gradient: str, **settings: Any) -> Result:
    """Take a training step by hbode; settings are those of hbodeint."""
    stats: list[Any] = []

    def solve(h0: Tensor) -> Result:
        result, told = _hbode(case, h0, tol, gradient=gradient, **settings)
        stats.append(told)
        return result

    return differentiated(case, solve, lambda: stats[0].nfe_backward)


def _hbode(case: Case, h0: Tensor, tol: float, **settings: Any) -> tuple[Result, Any]:
    net = case.net
    system = HeavyBall(lambda t, h: net(h), GAMMA, trainable=False)
    settings["options"] = {"max_steps": MAX_STEPS, **settings.get("options", {})}
    try:
        sol = hbodeint(system, h0, case.t, rtol=tol, atol=tol, **settings)
    except SolverError as error:
        raise NotSolvedError from error
    return Result(sol.h, sol.m, nfe=sol.stats.nfe), sol.stats


def torchdiffeq_forward(case: Case, tol: float, **settings: Any) -> Result:
    """Solve by torchdiffeq without gradients."""
    with torch.no_grad():
        return _torchdiffeq(case, Stacked(case.net), case.h0, tol, torchdiffeq.odeint, settings)


def torchdiffeq_step(case: Case, tol: float, solve: Callable[..., Tensor], **settings: Any) -> Result:
    """Take a training step by `odeint` or `odeint_adjoint`."""
    field = Stacked(case.net)
    forward: list[int] = []

    def run(h0: Tensor) -> Result:
        result = _torchdiffeq(case, field, h0, tol, solve, settings)
        forward.append(field.nfe)
        return result

    try:
        return differentiated(case, run, lambda: field.nfe - forward[0])
    except AssertionError as error:  # of the adjoint
        raise NotSolvedError from error


def _torchdiffeq(
    case: Case, field: Stacked, h0: Tensor, tol: float, solve: Callable[..., Tensor], settings: dict[str, Any]
) -> Result:
    y0 = torch.stack((h0, torch.zeros_like(h0)))
    settings = {"method": "dopri5", "options": {"max_num_steps": MAX_STEPS}, **settings}
    try:
        h, m = solve(field, y0, case.t, rtol=tol, atol=tol, **settings).unbind(1)
    except AssertionError as error:  # its way to say that a step underflowed or that they are too many
        raise NotSolvedError from error
    return Result(h, m, nfe=field.nfe)


def torchode_run(case: Case, tol: float, gradient: bool) -> Result:
    """Solve by torchode, every sample with steps of its own, or take a training step by backpropagation."""
    import torchode

    field = Flat(case.net, case.h0.shape[1:])
    term = torchode.ODETerm(field)
    adjoint = torchode.AutoDiffAdjoint(
        torchode.Dopri5(term),
        torchode.IntegralController(atol=tol, rtol=tol, term=term),
        max_steps=MAX_STEPS,
        backprop_through_step_size_control=False,
    )

    def solve(h0: Tensor) -> Result:
        batch = len(h0)
        y0 = torch.cat((h0.reshape(batch, -1), h0.new_zeros(batch, h0[0].numel())), -1)
        sol = adjoint.solve(torchode.InitialValueProblem(y0=y0, t_eval=case.t.expand(batch, -1)))
        if bool(sol.status.any()):
            raise NotSolvedError
        h, m = sol.ys.transpose(0, 1).chunk(2, -1)
        return Result(h.unflatten(-1, h0.shape[1:]), m.unflatten(-1, h0.shape[1:]), nfe=field.nfe)

    if gradient:
        return differentiated(case, solve, lambda: 0)
    with torch.no_grad():
        return solve(case.h0)


def forward_solvers(case: Case, torchode: bool) -> list[Solver]:
    """Return the ways to solve forward."""
    solvers = [
        Solver("hbode", lambda tol: hbode_forward(case, tol)),
        Solver("hbode compiled", lambda tol: hbode_forward(case, tol, compile=True)),
        Solver("torchdiffeq", lambda tol: torchdiffeq_forward(case, tol)),
    ]
    if torchode:
        solvers.append(Solver("torchode", lambda tol: torchode_run(case, tol, False)))
    return solvers


def training_solvers(case: Case, torchode: bool) -> list[Solver]:
    """Return the ways to take a training step."""
    modes = ("discrete_adjoint", "reversible", "continuous_adjoint", "backprop")
    solvers = [Solver("hbode compiled discrete_adjoint", lambda tol: hbode_step(case, tol, modes[0], compile=True))]
    for mode in modes:
        solvers.append(Solver(f"hbode {mode}", lambda tol, mode=mode: hbode_step(case, tol, mode)))
    theirs = torchdiffeq.odeint_adjoint
    seminorm = {"adjoint_options": {"norm": "seminorm", "max_num_steps": MAX_STEPS}}
    solvers += [
        Solver("torchdiffeq backprop", lambda tol: torchdiffeq_step(case, tol, torchdiffeq.odeint)),
        Solver("torchdiffeq adjoint", lambda tol: torchdiffeq_step(case, tol, theirs)),
        Solver("torchdiffeq adjoint, seminorm", lambda tol: torchdiffeq_step(case, tol, theirs, **seminorm)),
    ]
    if torchode:
        solvers.append(Solver("torchode backprop", lambda tol: torchode_run(case, tol, True)))
    return solvers


def errors(result: Result, exact: Result) -> list[float]:
    """Return the relative l2 errors of positions and momenta and, if taken, of all gradients."""
    pairs = [((result.h, exact.h), (result.m, exact.m)), tuple(zip(result.grads, exact.grads, strict=False))]
    return [_relative(pair) for pair in pairs if pair]


def _relative(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    squares = [((x.to(y) - y).square().sum(), y.square().sum()) for x, y in pairs]
    difference, size = (float(sum(itertools.chain(s))) for s in zip(*squares, strict=True))
    return (difference / size) ** 0.5
