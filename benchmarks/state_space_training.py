"""A training epoch of a neural state space: compiled, eager, as a loop over samples, and by other libraries.

h'' = f(h, m, u), or h' = f(h, u) with two states, f of two layers of 64 units; stretches of 300 samples, batches of 32,
one input on lines between its samples and one output, float32, one thread. An epoch is 20 batches: simulation from
known states, mean square error, its gradient, a step of Adam. The loop writes the steps out in torch and
differentiates them by autograd; f, steps and evaluations are the same. torchdiffeq runs `odeint` with as many
evaluations on the same grid. tsfast's `NeuralStateSpace` (its C++ kernels, built at first use) has one evaluation of a
network of that size a sample, and stands beside steps of Euler's method.

    python benchmarks/state_space_training.py [--batches 20] [--repeats 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec

import torch
from _common import alternate, header, ratio, table
from torch import Tensor

from hbode import FirstOrder, SecondOrder
from hbode.models.continuous import LinearReadout, NeuralStateSpace, PositionReadout, fixed_step_states
from hbode.timeseries.identification import Force

BATCH, SAMPLES, STEP = 32, 300, 0.1
LAYERS = (64, 64)
Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From states (2, B, 1) or (B, 2), u and its slope (B, 1), to the states a sample later."""


def model_of(form: str, method: str) -> NeuralStateSpace:
    """Return the model, from the same seed every time."""
    torch.manual_seed(0)
    if form == "second order":
        return NeuralStateSpace(SecondOrder(Force(1, 1, 1, LAYERS)), PositionReadout(1), 1, method=method)
    force = Force(2, 1, 1, LAYERS, momentum=False)
    return NeuralStateSpace(FirstOrder(force), LinearReadout(1, 2, 1), 2, method=method)


def data(form: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return times, inputs as lines (T, B, 1, 2), initial states and outputs (T, B, 1)."""
    generator = torch.Generator().manual_seed(1)
    u = torch.randn(SAMPLES + 1, BATCH, 1, generator=generator).cumsum(0) * 0.1
    pieces = torch.stack((u[:-1], u.diff(dim=0) / STEP), -1)
    start = torch.randn(*((2, BATCH, 1) if form == "second order" else (BATCH, 2)), generator=generator)
    y = torch.randn(SAMPLES, BATCH, 1, generator=generator)
    return torch.arange(SAMPLES, dtype=torch.float64) * STEP, pieces, start, y


def field(model: NeuralStateSpace) -> Callable[[Tensor, Tensor], Tensor]:
    """Return dx/dt of the states and u."""
    f, t = model.system.f, torch.zeros(())
    if not model.system.second_order:
        return lambda x, u: f(t, x, u)
    return lambda x, u: torch.stack((x[1], f(t, x[0], x[1], u)))


def written_out(model: NeuralStateSpace) -> Step:
    """Return one step of the method, written out."""
    rhs, dt = field(model), STEP
    if model.method == "euler":
        return lambda x, u, slope: x + dt * rhs(x, u)

    def rk4(x: Tensor, u: Tensor, slope: Tensor) -> Tensor:
        middle, end = u + dt / 2 * slope, u + dt * slope
        k1 = rhs(x, u)
        k2 = rhs(x + dt / 2 * k1, middle)
        k3 = rhs(x + dt / 2 * k2, middle)
        k4 = rhs(x + dt * k3, end)
        return x + dt / 6 * (k1 + 2 * (k2 + k3) + k4)

    return rk4


def simulations(form: str, method: str) -> tuple[dict[str, tuple[torch.nn.Module, Callable[[], Tensor]]], Tensor]:
    """Return models with their outputs (T, B, 1), and what was measured."""
    t, pieces, start, y = data(form)
    made: dict[str, tuple[torch.nn.Module, Callable[[], Tensor]]] = {}

    def own(compile: bool) -> None:
        model = model_of(form, method)
        made["compiled" if compile else "eager"] = (
            model,
            lambda: model.read(fixed_step_states(model, t, pieces, start, compile), pieces[..., 0]),
        )

    def loop() -> None:
        model = model_of(form, method)

        def run() -> Tensor:
            step, x, states = written_out(model), start, [start]
            for piece in pieces[:-1]:
                x = step(x, piece[..., 0], piece[..., 1])
                states.append(x)
            return model.read(torch.stack(states), pieces[..., 0])

        made["loop"] = (model, run)

    def diffeq() -> None:
        from torchdiffeq import odeint

        model = model_of(form, method)

        def run() -> Tensor:
            rhs = field(model)

            def at(now: Tensor, x: Tensor) -> Tensor:
                k = min(int(float(now) / STEP + 1e-6), SAMPLES - 2)
                return rhs(x, pieces[k, ..., 0] + (now - k * STEP) * pieces[k, ..., 1])

            grid = t.float()
            # rk4 is the 3/8 rule in torchdiffeq: as many evaluations
            return model.read(odeint(at, start, grid, method=method), pieces[..., 0])

        made["torchdiffeq"] = (model, run)

    def tsfast() -> None:
        from tsfast.models import NeuralStateSpace as Peer

        torch.manual_seed(0)
        peer = Peer(1, 1, n_state=2, hidden_size=list(LAYERS), backend="c")
        u, x0 = pieces[..., 0].transpose(0, 1).contiguous(), torch.zeros(BATCH, 2)
        made["tsfast"] = (peer, lambda: peer(u, x0).transpose(0, 1))

    own(True)
    own(False)
    loop()
    diffeq()
    if method == "euler" and find_spec("tsfast"):
        tsfast()
    return made, y


def epoch(model: torch.nn.Module, run: Callable[[], Tensor], y: Tensor, batches: int) -> Callable[[], None]:
    """Return a function that trains for an epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)

    def train() -> None:
        for _ in range(batches):
            loss = (run() - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return train


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Training epochs of a neural state space")
    parser.add_argument("--batches", type=int, default=20, help="an epoch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each (default: %(default)s)")
    a = parser.parse_args()
    torch.set_num_threads(1)
    rows, ratios = [], []
    for form in ("second order", "first order"):
        for method in ("rk4", "euler"):
            made, y = simulations(form, method)
            with torch.no_grad():
                apart = float((made["compiled"][1]() - made["loop"][1]()).abs().max())
            assert apart < 1e-3, f"{form}, {method}: compiled and loop are {apart} apart"
            runs = {name: epoch(*one, y, a.batches) for name, one in made.items()}
            timing = alternate(runs, repeats=a.repeats, warmup=1)
            rows += [[form, method, name, str(one)] for name, one in timing.items()]
            ours = timing["compiled"]
            against = ["loop", "eager", "torchdiffeq"]
            peer = ratio(ours, timing["tsfast"]) if "tsfast" in timing else "-"
            ratios.append([form, method, *(ratio(timing[name], ours) for name in against), peer])
    print(header(f"An epoch of {a.batches} batches of 32 × 300 samples (ms: median, range)"))
    print(table(["form", "method", "run", "time"], rows))
    print()
    print(table(["form", "method", "loop / ours", "eager / ours", "torchdiffeq / ours", "ours / tsfast"], ratios))
    if not find_spec("tsfast"):
        print("\ntsfast is not installed.")


if __name__ == "__main__":
    main()
