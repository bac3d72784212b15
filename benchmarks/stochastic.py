"""Stochastic heavy balls: orders, stationary laws, gradients, and time at equal weak error beside torchsde.

- orders: a pendulum, additive and state-dependent noise, 20,000 paths; errors at t = 2 are against the same paths at
  steps of 2/512, so that weak errors, of E[h²] and E[m²], are known to far less than the error of a mean. Beside them
  their standard error.
- stationary: a harmonic well, V = h²/2, and a double well, V = (h² - 1)²/8, at γ = 10 and temperature 0.2, with γ dt
  from 0.01 to 2. Paths start from the exact law and run for 30 units of time; means over ten times, in percent of the
  exact value (of the standard deviation, for the mean of h), with the standard error over paths. torchsde's Euler
  method at the same step and a tenth of it, where that is stable. BAOAB's temperature of momenta is lower by
  (ω dt)²/4 of itself in a harmonic well, by its construction.
- gradients: pathwise gradients of all modes against central differences along the same path, float64.
- speed: a network of 32 units plus a trap, 2 channels, γ trainable, t = 5. For each method the longest step of 5/2^k
  whose means of h², m² and cos(h), over 30,000 paths, are within 3 % of those of BAOAB at 5/128; then CPU seconds of a
  forward and a backward pass of 256 paths, taking turns. torchsde's methods of Stratonovich form get the same equation
  in that form, which is the same here.
- samples: path steps per second of CPU without gradients, by batch size, at equal steps.

    python benchmarks/stochastic.py [orders stationary gradients speed samples]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torchsde
from _common import Timing, header, network, ratio, table
from torch import Tensor, nn

from hbode import HeavyBall, join, sdeint, split
from hbode.gradients import DiscreteAdjoint

F64 = torch.float64
METHODS = {  # torchsde's, with the form that they are for and the adjoint's method
    "euler": ("ito", "euler"),
    "srk": ("ito", "euler"),
    "midpoint": ("stratonovich", "midpoint"),
    "heun": ("stratonovich", "midpoint"),
    "reversible_heun": ("stratonovich", "adjoint_reversible_heun"),
}


def torchsde_rows(
    system: HeavyBall, noise: float, h0: Tensor, m0: Tensor, t: Tensor, dt: float, method: str, adjoint: bool = False
) -> Tensor:
    """Return the joined states by a method of torchsde."""
    form, backward = METHODS[method]
    sde = system.as_sde(noise)
    sde.sde_type = form  # type: ignore[misc]  # σ does not depend on m: both forms are the same equation
    y0 = join(h0, m0)
    area = "space-time" if method == "srk" else "none"
    path = torchsde.BrownianInterval(
        float(t[0]), float(t[-1]), y0.shape, y0.dtype, dt=dt, levy_area_approximation=area, entropy=0
    )
    given: dict[str, Any] = {"bm": path, "dt": dt, "method": method}
    if adjoint:
        return torchsde.sdeint_adjoint(sde, y0, t, adjoint_method=backward, **given)  # type: ignore[no-any-return]
    return torchsde.sdeint(sde, y0, t, **given)  # type: ignore[no-any-return]


def orders() -> None:
    def pendulum(t: Tensor, h: Tensor) -> Tensor:
        return -2 * torch.sin(h)

    h0 = torch.full((20_000,), 0.5, dtype=F64)
    noises: dict[str, Any] = {"0.8": 0.8, "0.8 cos(h)": lambda t, h: 0.8 * torch.cos(h)}
    rows = []
    for name, noise in noises.items():
        runs = []
        for k in (0, 1, 2, 3, 4, 7):
            h, m = sdeint(pendulum, noise, h0, [0.0, 2.0], gamma=0.7, step_size=0.5, halvings=k, seed=0)
            runs.append(torch.stack((h[-1], m[-1])))
        strong, weak, doubt = [], [], []
        for run in runs[:-1]:
            strong.append(float((run - runs[-1]).square().sum(0).mean().sqrt()))
            change = run.square() - runs[-1].square()
            which = int(change.mean(1).abs().argmax())
            weak.append(float(change[which].mean().abs()))
            doubt.append(float(change[which].std()) / math.sqrt(len(h0)))
        for k in range(5):
            slopes = ["", ""] if not k else [f"{math.log2(e[k - 1] / e[k]):.2f}" for e in (strong, weak)]
            rows.append(
                [name, f"2/{4 << k}", f"{strong[k]:.2e}", slopes[0], f"{weak[k]:.2e} ± {doubt[k]:.0e}", slopes[1]]
            )
    print(table(["noise", "step", "strong error", "order", "weak error", "order"], rows), "\n")


class Well:
    """A potential with its stationary law at a temperature."""

    def __init__(self, value: Callable[[Tensor], Tensor], temperature: float) -> None:
        grid = torch.linspace(-6, 6, 200_001, dtype=F64)
        weight = torch.exp(-value(grid) / temperature)
        self.value, self.temperature = value, temperature
        self.grid, self.cumulative = grid, weight.cumsum(0) / weight.sum()
        self.variance = float((grid**2 * weight).sum() / weight.sum())

    def force(self, t: Tensor, h: Tensor) -> Tensor:
        with torch.enable_grad():
            at = h.detach().requires_grad_()
            return -torch.autograd.grad(self.value(at).sum(), at)[0]

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return positions and momenta (count, 1)."""
        rng = torch.Generator().manual_seed(1)
        place = torch.searchsorted(self.cumulative, torch.rand(count, dtype=F64, generator=rng)).clamp(max=200_000)
        m = math.sqrt(self.temperature) * torch.randn(count, dtype=F64, generator=rng)
        return self.grid[place].unsqueeze(1), m.unsqueeze(1)


def stationary() -> None:
    gamma, temperature, span = 10.0, 0.2, 30.0
    sigma = math.sqrt(2 * gamma * temperature)
    wells = {
        "harmonic": (Well(lambda h: h * h / 2, temperature), lambda t, h: -h),
        "double": (Well(lambda h: (h * h - 1) ** 2 / 8, temperature), lambda t, h: -h * (h * h - 1) / 2),
    }
    t = torch.linspace(0, span, 11, dtype=F64)
    rows = []
    for name, (well, force) in wells.items():
        system = HeavyBall(force, gamma, trainable=False)

        def off(h: Tensor, m: Tensor, well: Well = well) -> list[str]:
            cells = []
            for x, exact, unit in (
                (h, 0.0, math.sqrt(well.variance)),
                (h * h, well.variance, well.variance),
                (m * m, well.temperature, well.temperature),
            ):
                means = 100 * (x[1:].mean(0) - exact) / unit
                cells.append(f"{means.mean():+.2f} ± {means.std() / math.sqrt(len(means)):.2f}")
            return cells

        for share in (0.01, 0.1, 0.5, 2.0):
            dt = share / gamma
            count = max(500, min(20_000, round(1e7 * dt / span)))
            h0, m0 = well.draw(count)
            h, m = sdeint(system, sigma, h0, t, m0=m0, step_size=dt, seed=0)
            rows.append([name, "BAOAB", f"{share:g}", *off(h, m)])
            for smaller in (1, 10) if share >= 0.1 else (1,):
                size = dt / smaller
                if size * gamma >= 1.9:
                    rows.append([name, "torchsde, Euler", f"{share / smaller:g}", "unstable", "", ""])
                    continue
                n = max(500, min(10_000, round(3e6 * size / span)))
                h0, m0 = well.draw(n)
                h, m = split(torchsde_rows(system, sigma, h0, m0, t, size, "euler"))
                rows.append([name, "torchsde, Euler", f"{share / smaller:g}", *off(h, m)])
    print("Stationary law: errors in percent ± standard error\n")
    print(table(["well", "method", "γ dt", "mean of h", "mean of h²", "mean of m² (temperature)"], rows), "\n")


class Trap(nn.Module):
    """A network's force, and a spring."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = network(2, 32, dtype)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        return 2 * self.net(h) - h


def gradients() -> None:
    system = HeavyBall(Trap(F64), torch.tensor([0.5, 0.7], dtype=F64))
    noise = torch.tensor([0.4, 0.6], dtype=F64, requires_grad=True)
    torch.manual_seed(1)
    h0 = torch.randn(16, 2, dtype=F64, requires_grad=True)
    leaves = {"h0": h0, "σ": noise, "γ": system.omega, "f": system.f.net[0].weight}
    rows = []
    modes: dict[str, Any] = {
        "discrete_adjoint": "discrete_adjoint",
        "10 checkpoints": DiscreteAdjoint(checkpoints=10),
        "reversible": "reversible",
        "backprop": "backprop",
    }
    for name, mode in modes.items():

        def value(mode: Any = mode) -> Tensor:
            h, m = sdeint(system, noise, h0, [0.0, 2.5, 5.0], step_size=0.1, seed=3, gradient=mode)
            return h.square().mean() + m.sin().mean()

        bars = torch.autograd.grad(value(), tuple(leaves.values()))
        cells = []
        for x, bar in zip(leaves.values(), bars, strict=True):
            way, ends = torch.randn_like(x), []
            with torch.no_grad():
                for sign in (1, -1):
                    x.add_(way, alpha=sign * 1e-5)
                    ends.append(float(value()))
                    x.sub_(way, alpha=sign * 1e-5)
            exact = float((bar * way).sum())
            cells.append(f"{abs((ends[0] - ends[1]) / 2e-5 - exact) / abs(exact):.1e}")
        rows.append([name, *cells])
    print("Relative difference from central differences along the same path\n")
    print(table(["mode", *leaves], rows), "\n")


def speed() -> None:
    system, noise, span = HeavyBall(Trap(torch.float32), 0.5), 0.6, 5.0
    t = torch.tensor([0.0, span])
    many = torch.ones(30_000, 2)

    def run(name: str, h0: Tensor, steps: int, gradient: str) -> Tensor:
        dt = span / steps
        if name == "BAOAB":
            h, m = sdeint(system, noise, h0, t, step_size=dt, seed=0, gradient=gradient)
            return torch.stack((h[-1], m[-1]))
        rows = torchsde_rows(system, noise, h0, torch.zeros_like(h0), t, dt, name, gradient == "adjoint")
        return torch.stack(split(rows[-1]))

    @torch.no_grad()
    def means(name: str, steps: int) -> tuple[Tensor, Tensor]:
        h, m = run(name, many, steps, "backprop").double()
        x = torch.stack((h.square(), m.square(), h.cos())).flatten(1)
        return x.mean(1), x.std(1) / math.sqrt(x.shape[1])

    exact, doubt = means("BAOAB", 128)
    chosen, rows = {}, []
    for name in ("BAOAB", *METHODS):
        for k in range(2, 10):
            found, own = means(name, 2**k)
            error, noise_of_mean = (found - exact).abs() / exact.abs(), (doubt**2 + own**2).sqrt() / exact.abs()
            if bool((error < 0.03).all()):
                break
        chosen[name] = 2**k
        rows.append([name, str(2**k), f"{100 * float(error.max()):.2f} ± {100 * float(noise_of_mean.max()):.2f} %"])
    print("Steps for weak errors below 3 %\n")
    print(table(["method", "steps", "largest weak error"], rows), "\n")

    few = many[:256]

    def train(name: str, gradient: str) -> float:
        start = time.process_time()
        run(name, few, chosen[name], gradient).square().mean().backward()
        return time.process_time() - start

    cases = [("BAOAB", "discrete_adjoint"), ("BAOAB", "backprop")]
    cases += [(name, "backprop") for name in METHODS]
    cases += [(name, "adjoint") for name in ("euler", "midpoint", "reversible_heun")]
    for case in cases:
        train(*case)
    seconds: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for _ in range(7):
        for case in cases:
            seconds[case].append(train(*case))
    timings = {case: Timing(tuple(values)) for case, values in seconds.items()}
    rows = []
    for (name, gradient), timing in timings.items():
        ratios = [ratio(timing, timings[ours]) for ours in cases[:2]]
        rows.append(
            [name if name == "BAOAB" else f"torchsde {name}", gradient, str(chosen[name]), str(timing), *ratios]
        )
    print("Forward and backward at these steps, 256 paths, CPU milliseconds: median (range) of 7\n")
    columns = ["method", "gradient", "steps", "ms", "over discrete_adjoint", "over backprop of BAOAB"]
    print(table(columns, rows), "\n")


@torch.no_grad()
def samples() -> None:
    system, rows = HeavyBall(Trap(torch.float32), 0.5), []
    t, steps = torch.tensor([0.0, 5.0]), 100
    for batch in (1, 16, 256, 4096, 65_536):
        h0 = torch.ones(batch, 2)
        runs: dict[str, Callable[[], object]] = {
            "BAOAB": lambda h0=h0: sdeint(system, 0.6, h0, t, step_size=0.05, seed=0),
            "euler": lambda h0=h0: torchsde_rows(system, 0.6, h0, h0, t, 0.05, "euler"),
            "heun": lambda h0=h0: torchsde_rows(system, 0.6, h0, h0, t, 0.05, "heun"),
            "srk": lambda h0=h0: torchsde_rows(system, 0.6, h0, h0, t, 0.05, "srk"),
        }
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(5):
            for name, one in runs.items():
                start = time.process_time()
                one()
                rates[name].append(batch * steps / (time.process_time() - start))
        rows.append([str(batch), *(f"{statistics.median(r):.3g}" for r in rates.values())])
    print("Path steps per second of CPU, forward, median of 5\n")
    print(table(["batch", "BAOAB", "torchsde euler", "torchsde heun", "torchsde srk"], rows), "\n")


def main() -> None:
    parts = {f.__name__: f for f in (orders, stationary, gradients, speed, samples)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *parts], help="default: all")
    given = parser.parse_args()
    print(header(f"Stochastic heavy balls, beside torchsde {torchsde.__version__}"))
    for name, part in parts.items():
        if not given.parts or name in given.parts:
            part()


if __name__ == "__main__":
    main()
