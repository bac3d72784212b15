"""A training step of FFJORD: `ContinuousFlow` beside the same on torchdiffeq's `odeint_adjoint`, at equal error.

The network of FFJORD's toy densities, 3 × 64 hidden units, is first trained for 200 steps. torchdiffeq runs dopri5 at
rtol = atol = 1e-5 on (h, log-density), as the authors' code does; hbode by dopri5 and dopri8, each at the loosest
tolerance of a ladder with an equal or smaller error of the log-density, root mean square against float64 at 1e-11 with
the same probes. float32.

The last table: the same field in the plane, in float64, by every kind of solver at rtol = atol = 1e-5: evaluations of
the field or of its trace, forward and backward (discrete adjoint; torchdiffeq: `odeint_adjoint`), the error of the
log-density, the mean of the log-density of new points, and CPU time of both passes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
import torchdiffeq
from _common import alternate, header, ratio, table
from torch import Tensor, nn

from hbode.models import SolverSettings
from hbode.models.flows import ConcatSquashField, ContinuousFlow, toy_density
from hbode.solution import of_batch

TOL = 1e-5
METHODS = ("dopri5", "dopri8")
KINDS = ("dopri5", "rkc", "prox_bdf2", "prox_bdf3", "prox_bdf4", "kvaerno5", "imex_ark3", "imex_ark4", "auto")
LADDER = [10.0 ** (-k / 4) for k in range(12, 25)]


class Joint(nn.Module):
    """The field of (h, log-density) as FFJORD has it: products with the transposed Jacobian at every evaluation."""

    def __init__(self, field: nn.Module, probes: Tensor) -> None:
        super().__init__()
        self.field, self.probes, self.nfe = field, probes, 0

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        self.nfe += 1
        with torch.enable_grad():
            h = state[0].requires_grad_()
            value = self.field(t, h)
            products = [torch.autograd.grad(value, h, v, create_graph=True)[0] for v in self.probes]
        return value, sum((v * p).sum(-1) for v, p in zip(self.probes, products, strict=True))


def theirs(field: nn.Module, h: Tensor, probes: Tensor) -> tuple[Tensor, Joint]:
    """Return the log-density of points by torchdiffeq."""
    joint = Joint(field, probes)
    span = torch.tensor([0.0, 1.0])
    z, log_det = torchdiffeq.odeint_adjoint(joint, (h, torch.zeros(len(h))), span, rtol=TOL, atol=TOL, method="dopri5")
    return log_det[-1] - z[-1].square().sum(-1) / 2 - h.shape[-1] * math.log(2 * math.pi) / 2, joint


class Probed(ContinuousFlow):
    """A flow whose probes are given, so that estimates of the trace can be compared."""

    probes: Tensor

    def _probes(self, h: Tensor) -> Tensor:
        return self.probes.to(h)


def ours(field: nn.Module, size: int, probes: Tensor, tol: float, method: str) -> ContinuousFlow:
    """Return our flow, in the dtype of the field."""
    flow = Probed(field, size, solver=SolverSettings(method, tol, tol, "backprop"))
    flow.probes = probes
    return flow


def draw(n: int, size: int) -> Tensor:
    """Return n points of `size` channels, two by two of the eight Gaussians."""
    return torch.cat([toy_density("8gaussians", n) for _ in range(size // 2)], -1)


def trained(size: int) -> nn.Module:
    """Return a field that has learned for 200 steps."""
    torch.manual_seed(0)
    field = ConcatSquashField(size, 64, depth=4)
    flow = ContinuousFlow(field, size, trace="rademacher", solver=SolverSettings("rk4", gradient="backprop"), steps=8)
    optimizer = torch.optim.Adam(field.parameters(), 5e-3)
    for _ in range(200):
        optimizer.zero_grad()
        (-flow.log_prob(draw(256, size)).mean()).backward()
        optimizer.step()
    return field


def kinds() -> list[list[str]]:
    """Return the rows of the last table."""
    field, h = trained(2).double(), draw(200, 2).double()
    probes = torch.eye(2, dtype=torch.float64).unsqueeze(1).expand(2, *h.shape)
    with torch.no_grad():
        reference = ours(field, 2, probes, 1e-11, "dopri8").double().log_prob(h)
    rows = []
    for method in ("torchdiffeq dopri5", *KINDS):
        began = time.process_time()
        if method in KINDS:
            flow = Probed(field, 2, solver=SolverSettings(method, TOL, TOL)).double()
            flow.probes = probes
            found = flow.log_prob(h)
            found.mean().backward()
            nfe = of_batch(flow.stats.nfe), of_batch(flow.stats.nfe_backward)
        else:
            found, joint = theirs(field, h.clone(), probes)
            forward = joint.nfe
            found.mean().backward()
            nfe = forward, joint.nfe - forward
        spent = time.process_time() - began
        error = float((found - reference).square().mean().sqrt().detach())
        rows.append([method, *(f"{n:.0f}" for n in nfe), f"{error:.1e}", f"{found.mean().item():.4f}", f"{spent:.3f}"])
    return rows


def measure(name: str, size: int, batch: int, exact: bool) -> tuple[list[list[str]], list[str]]:
    """Return the rows of the table for one size, and its row of ratios."""
    field = trained(size)
    h = draw(batch, size)
    probes = torch.randint_like(h, 2).mul(2).sub(1).unsqueeze(0)
    if exact:
        probes = torch.eye(size).unsqueeze(1).expand(size, *h.shape)
    with torch.no_grad():
        reference = ours(field.double(), size, probes, 1e-11, "dopri8").double().log_prob(h.double())
        field.float()

        def error(found: Tensor) -> float:
            return float((found.double() - reference).square().mean().sqrt())

        target = error(theirs(field, h, probes)[0])
        chosen = {method: loosest(method, field, h, probes, lambda x: error(x) <= target) for method in METHODS}

    def step_of_theirs() -> Joint:
        log_prob, joint = theirs(field, h.clone(), probes)
        (-log_prob.mean()).backward()
        return joint

    def step(flow: ContinuousFlow) -> Callable[[], None]:
        return lambda: (-flow.log_prob(h).mean()).backward()

    spent = alternate({"torchdiffeq": step_of_theirs, **{m: step(flow) for m, flow in chosen.items()}}, 7, 1)
    rows = [[name, "torchdiffeq", f"{TOL:.1e}", f"{target:.1e}", str(step_of_theirs().nfe), str(spent["torchdiffeq"])]]
    for method, flow in chosen.items():
        reached, nfe = error(flow.log_prob(h).detach()), of_batch(flow.stats and flow.stats.nfe)
        rows.append([name, method, f"{flow.solver.rtol:.1e}", f"{reached:.1e}", str(nfe), str(spent[method])])
    return rows, [name, *(ratio(spent["torchdiffeq"], spent[method]) for method in METHODS)]


def loosest(method: str, field: nn.Module, h: Tensor, probes: Tensor, good: Callable[[Tensor], bool]) -> ContinuousFlow:
    """Return the flow of the loosest tolerance of the ladder that is good, or of its last one."""
    for tol in LADDER:
        flow = ours(field, h.shape[-1], probes, tol, method)
        if good(flow.log_prob(h)):
            break
    return flow


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    sizes = {
        "2-D, exact trace, batch 100": (2, 100, True),
        "2-D, exact trace, batch 512": (2, 512, True),
        "8-D, exact trace, batch 100": (8, 100, True),
        "8-D, Rademacher, batch 512": (8, 512, False),
        "32-D, Rademacher, batch 512": (32, 512, False),
    }
    measured = [measure(name, *size) for name, size in sizes.items()]
    print(header("Training step of FFJORD (ms: median, range)"))
    print(table(["size", "run", "tol", "error", "NFE", "time"], [row for rows, _ in measured for row in rows]))
    print()
    print(table(["size", *(f"torchdiffeq / hbode {method}" for method in METHODS)], [ratios for _, ratios in measured]))
    print()
    print(table(["solver", "NFE", "backward", "error", "log-density", "s"], kinds()))


if __name__ == "__main__":
    main()
