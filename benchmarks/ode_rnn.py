"""Training steps of an ODE-RNN: one solve with updates, a solve for each of its 64 segments, and the peers.

The heavy ball on 20 units with a two-layer tanh network, 64 samples, 64 observations of 3 channels at the same times
for all or at times of their own; the residual cell of Xia et al. (2021); the mean square of all one-step predictions
and its gradients. The same weights and float32 everywhere, dopri5, at the same tolerances; one solve by dprkn8 too, a
method for such systems, which no peer has.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torchdiffeq
from _common import Joined, alternate, header, network, ratio, table
from _peers_jax import field, libraries
from torch import Tensor

from hbode import HeavyBall, hbodeint
from hbode.models import ODERNN, SolverSettings

SAMPLES, OBSERVATIONS, UNITS, CHANNELS, GAMMA = 64, 64, 20, 3, 0.05


def model(tol: float, compile: bool = False, method: str = "dopri5") -> ODERNN:
    """Return the model, the same weights each time."""
    torch.manual_seed(0)
    net = network(UNITS, UNITS)
    system = HeavyBall(lambda t, h: net(h), GAMMA, trainable=False)
    system.net = net
    return ODERNN(system, UNITS, CHANNELS, SolverSettings(method, tol, tol, compile=compile))


def records(shared: bool) -> tuple[Tensor, Tensor]:
    """Return times (B, K + 1), a unit apart on average, and observations (B, K, C)."""
    generator = torch.Generator().manual_seed(1)
    gaps = 0.5 + torch.rand(1 if shared else SAMPLES, OBSERVATIONS, generator=generator)
    t = torch.cat((torch.zeros(len(gaps), 1), gaps.cumsum(1)), 1).expand(SAMPLES, -1).contiguous()
    return t.double(), torch.randn(SAMPLES, OBSERVATIONS, CHANNELS, generator=generator)


def segments(net: ODERNN, t: Tensor, x: Tensor) -> tuple[Tensor, int]:
    """Return the one-step predictions from a solve for each segment, and the evaluations."""
    state, before, calls = x.new_zeros(SAMPLES, 2 * UNITS), [], 0
    for k in range(OBSERVATIONS):
        h, m = net.cell(x[:, k], state).chunk(2, -1)
        at = t[0, k : k + 2] if bool((t[:, k : k + 2] == t[:1, k : k + 2]).all()) else t[:, k : k + 2]
        solver = net.solver
        sol = hbodeint(
            net.system,
            h,
            at,
            m0=m,
            method=solver.method,
            rtol=solver.rtol,
            atol=solver.atol,
            compile=solver.compile,
            options={"first_step": math.inf},
        )
        calls += int(torch.as_tensor(sol.stats.nfe).max())
        state = torch.cat((sol.h[-1], sol.m[-1]), -1)
        before.append(sol.h[-1])
    return net.decode(torch.stack(before, 1)), calls


def adjoint_segments(net: ODERNN, t: Tensor, x: Tensor) -> tuple[Tensor, int]:
    """Return the same by torchdiffeq's odeint_adjoint, whose samples share their times."""
    joined, state, before = Joined(net.system.net, GAMMA), x.new_zeros(SAMPLES, 2 * UNITS), []
    for k in range(OBSERVATIONS):
        start = net.cell(x[:, k], state)
        solver = net.solver
        state = torchdiffeq.odeint_adjoint(joined, start, t[0, k : k + 2], rtol=solver.rtol, atol=solver.atol)[-1]
        before.append(state[:, :UNITS])
    return net.decode(torch.stack(before, 1)), joined.nfe


def one_solve(net: ODERNN, t: Tensor, x: Tensor) -> tuple[Tensor, int]:
    """Return the same by one solve."""
    said = net(t, x)
    return said.one_step, said.cost.nfe


def training_step(net: ODERNN, run: Callable[..., tuple[Tensor, int]], t: Tensor, x: Tensor) -> tuple[Tensor, int]:
    """Return the predictions and the evaluations of one training step."""
    net.zero_grad()
    predictions, calls = run(net, t, x)
    predictions.square().mean().backward()
    return predictions.detach(), calls


def scanned(tol: float, t: Tensor, x: Tensor) -> Callable[[], Any] | None:
    """Return the same training step as a scan of diffrax's solves, compiled; None where it is not installed."""
    found = libraries("cpu")
    if found is None:
        return None
    jax, diffrax, net = found.jax, found.diffrax, model(tol)
    f = field(net.system.net, jax)
    parts = [*net.system.net.parameters(), *net.cell.parameters(), *net.decode.parameters()]
    weights = [jax.numpy.asarray(p.detach().numpy()) for p in parts]
    gaps, data = jax.numpy.asarray(t.diff(dim=1).float().numpy().T), jax.numpy.asarray(x.transpose(0, 1).numpy())
    shared = bool((t == t[:1]).all())

    def loss(weights: Any) -> Any:
        own, (w, b, out_w, out_b) = weights[:4], weights[4:]

        def rate(s: Any, y: Any, span: Any) -> Any:
            h, m = y
            return span * m, span * (f(h, own) - GAMMA * m)

        def observe(state: Any, given: Any) -> Any:
            gap, seen = given
            state = state + jax.numpy.concatenate((state, seen), -1) @ w.T + b
            span = gap[0] if shared else gap[:, None]
            sol = diffrax.diffeqsolve(
                diffrax.ODETerm(rate),
                diffrax.Dopri5(),
                0.0,
                1.0,
                1.0,
                (state[:, :UNITS], state[:, UNITS:]),
                span,
                stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol),
                max_steps=64,
            )
            h, m = sol.ys[0][-1], sol.ys[1][-1]
            return jax.numpy.concatenate((h, m), -1), h

        _, before = jax.lax.scan(observe, jax.numpy.zeros((SAMPLES, 2 * UNITS)), (gaps, data))
        predictions = (before @ out_w.T + out_b).swapaxes(0, 1)
        return jax.numpy.square(predictions).mean(), predictions

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    return lambda: jax.block_until_ready(gradient(weights))


def main() -> None:
    print(header("Training step of an ODE-RNN, 64 observations, 20 units, batch 64 (ms: median, range)"))
    rows, ratios = [], []
    for tol in (1e-3, 1e-7):
        for shared in (True, False):
            t, x = records(shared)
            nets = {compile: model(tol, compile) for compile in (False, True)}
            steps: dict[str, Callable[[], Any]] = {}
            for compile, name in ((False, ""), (True, " compiled")):
                for kind, run in (("one solve", one_solve), ("64 solves", segments)):
                    steps[kind + name] = partial(training_step, nets[compile], run, t, x)
                own = model(tol, compile, "dprkn8")
                steps[f"one solve dprkn8{name}"] = partial(training_step, own, one_solve, t, x)
            if shared:
                steps["torchdiffeq adjoint"] = partial(training_step, nets[False], adjoint_segments, t, x)
            known = {name: step() for name, step in steps.items()}
            scan = scanned(tol, t, x)
            if scan is not None:
                steps["diffrax scan, jit"] = scan
                known["diffrax scan, jit"] = torch.from_numpy(np.array(scan()[1])), 0
            timing = alternate(steps, repeats=5, warmup=2)
            exact = known["64 solves"][0]
            times = "shared" if shared else "own"
            for name, seconds in timing.items():
                far = (known[name][0] - exact).abs().max() / exact.abs().max()
                rows.append([f"{tol:g}", times, name, str(known[name][1] or ""), f"{float(far):.1e}", str(seconds)])
            for name in [other for other in steps if not other.startswith("one")]:
                for method in ("", " dprkn8"):
                    eager = [] if "compiled" in name or "jit" in name else [f"one solve{method}"]
                    both = name == "torchdiffeq adjoint" or not eager
                    for kind in [*eager, *([f"one solve{method} compiled"] if both else [])]:
                        ratios.append([f"{tol:g}", times, f"{name} / {kind}", ratio(timing[name], timing[kind])])
            print(".", end="", file=sys.stderr, flush=True)
    print(table(["tol", "times", "run", "NFE", "from 64 solves", "time"], rows))
    print()
    print(table(["tol", "times", "ratio", "median (range)"], ratios))


if __name__ == "__main__":
    main()
