"""What a GPU makes of the solvers: synchronisations, a training step beside torchdiffeq's, idle time, CUDA graphs.

The heavy ball h'' + γ h' = f(h) of the other benchmarks, with a two-layer tanh network, float32, t = 0 … 8 with 65
outputs. hbode runs dprkn6 at 1e-5, torchdiffeq dopri5 at 1e-6, where both have about the same error (training_step.py
has the search). On a machine without a GPU it runs on the CPU, to see that it does.

Synchronisations are waits of the host for the device, as torch's synchronisation debug mode counts them, in one forward
solve. Busy is the time in kernels over the time of the step, from torch's profiler. A part that fails says so in its
place, and the others go on.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable, Sequence

import torch
from _common import SIZES, Joined, alternate, network, ratio, table
from torch import Tensor, nn

from hbode import METHODS, HeavyBall, Status, hbodeint
from hbode.setup.options import plan as make_plan
from hbode.solvers import TRIES, Clock, Damping, Field, solve_in_blocks
from hbode.solvers.loops.blocks import run_tries

try:
    import torchdiffeq
except ImportError:  # a machine without network may lack it
    torchdiffeq = None

GAMMA, TOL, THEIRS = 0.05, 1e-5, 1e-6


class Case:
    """A network, its start and its times on a device."""

    def __init__(self, batch: int, dim: int, hidden: int, device: torch.device) -> None:
        self.net = network(dim, hidden).to(device)
        self.h0 = torch.randn(batch, dim, generator=torch.Generator().manual_seed(1)).to(device)
        self.t = torch.linspace(0, 8, 65, device=device)
        self.system = HeavyBall(Force(self.net), GAMMA, trainable=False).to(device)
        self.joined = Joined(self.net, GAMMA)

    def forward(self, compile: bool = False) -> Tensor:
        """Solve without gradients."""
        with torch.no_grad():
            return hbodeint(self.system, self.h0, self.t, rtol=TOL, atol=TOL, compile=compile).h

    def step(self, compile: bool = False) -> None:
        """Solve, and take the gradient of a loss."""
        sol = hbodeint(self.system, self.h0, self.t, rtol=TOL, atol=TOL, compile=compile)
        (sol.h.square() + sol.m.square()).mean().backward()
        self.net.zero_grad()

    def their_step(self) -> None:
        """The same by torchdiffeq, backpropagating through its operations."""
        y0 = torch.cat((self.h0, torch.zeros_like(self.h0)), -1)
        out = torchdiffeq.odeint(self.joined, y0, self.t, rtol=THEIRS, atol=THEIRS, method="dopri5")
        (2 * out.square().mean()).backward()
        self.net.zero_grad()


class Force(nn.Module):
    """f(t, h) of a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        return self.net(h)


def tried(make: Callable[[], str]) -> str:
    """Return what `make` returns, or why it failed."""
    try:
        return make()
    except Exception as error:  # the rest of the table is worth having
        return f"failed: {type(error).__name__}: {str(error).splitlines()[0][:90]}"


def synchronisations(run: Callable[[], object]) -> int:
    """Return how often the host waits for the device in a call."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in caught)


def busy(run: Callable[[], object]) -> str:
    """Return the share of the time of a call in which the device computes."""
    torch.cuda.synchronize()
    begun = time.perf_counter()
    run()
    torch.cuda.synchronize()
    whole = time.perf_counter() - begun
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    kernels = sum(event.self_device_time_total for event in profile.key_averages()) * 1e-6
    return f"{kernels / whole:.2f}"


def captured(device: torch.device) -> str:
    """Solve by blocks that are captured once as a CUDA graph, and compare with blocks that are not."""
    field = Field(lambda t, h: torch.sin(t) - h, torch.float64, Damping.of(None, None, torch.ones(1, device=device)))
    y0 = torch.ones(2, 64, 8, dtype=torch.float64, device=device)
    clock = Clock.of(torch.linspace(0, 8, 2, dtype=torch.float64, device=device))
    method = METHODS["dprkn6"]
    plan = make_plan(method, {}, clock.times, 1e-7, 1e-9, (None, None, clock.times))
    graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, tuple, tuple]] = {}

    def run(method, field, plan, inputs, buffers, state, carry):
        given = (inputs.numbers, state, *carry)
        key = tuple(x.numel() for x in given)
        if key not in graphs:
            own = tuple(x.clone() for x in given)
            block = method, field, plan, inputs._replace(numbers=own[0]), buffers
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                run_tries(*block, own[1], own[2:])
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = run_tries(*block, own[1], own[2:])
            graphs[key] = graph, (own, block[4]), out
        graph, (own, book), out = graphs[key]
        for x, value in zip(own, given, strict=True):
            x.copy_(value)
        graph.replay()
        buffers.start.copy_(book.start)
        for mine, theirs in zip((*buffers.carry, *buffers.record), (*book.carry, *book.record), strict=True):
            mine.copy_(theirs)
        return out[0].clone(), tuple(x.clone() for x in out[1])

    with torch.no_grad():
        plain = solve_in_blocks(method, field, y0, clock, plan)
        graphed = solve_in_blocks(method, field, y0, clock, plan, run=run)
        apart = float((plain.carry[0] - graphed.carry[0]).abs().max())
        runs = {
            "plain": lambda: solve_in_blocks(method, field, y0, clock, plan),
            "graph": lambda: solve_in_blocks(method, field, y0, clock, plan, run=run),
        }
        timing = alternate(runs, repeats=7)
    ended = graphed.outcomes[0].status is Status.SUCCESS
    return (
        f"blocks of {TRIES} captured; {'same end' if ended and apart < 1e-12 else f'differs by {apart:.1e}'}; "
        f"time over blocks that are not: {ratio(timing['graph'], timing['plain'])}"
    )


def training(case: Case, compile: bool) -> list[str]:
    """Return the row of a size: milliseconds a step, ratios, synchronisations and busy time."""
    cuda = case.h0.is_cuda
    runs: dict[str, Callable[[], object]] = {"hbode": case.step}
    if compile:
        runs["compiled"] = lambda: case.step(compile=True)
    if torchdiffeq is not None:
        runs["torchdiffeq"] = case.their_step
    working: dict[str, Callable[[], object]] = {}
    notes = []
    for name, run in runs.items():
        failure = tried(lambda run=run: str(run() or ""))
        if failure:
            notes.append(f"{name} {failure}")
        else:
            working[name] = run
    timing = alternate({name: synchronised(run, cuda) for name, run in working.items()}, repeats=5)
    row = [str(timing.get(name, "–")) for name in ("hbode", "compiled", "torchdiffeq")]
    for name in ("hbode", "compiled"):
        both = name in timing and "torchdiffeq" in timing
        row.append(ratio(timing[name], timing["torchdiffeq"]) if both else "–")
    row.append(tried(lambda: str(synchronisations(case.forward))) if cuda else "no GPU")
    row.append(tried(lambda: busy(case.step)) if cuda else "no GPU")
    return [*row, "; ".join(notes)]


def synchronised(run: Callable[[], object], cuda: bool) -> Callable[[], object]:
    """Return a call that ends when the device has done its work."""

    def both() -> None:
        run()
        if cuda:
            torch.cuda.synchronize()

    return both


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled steps, minutes of compiling")
    parser.add_argument("--only", default="", help="sizes whose names contain this")
    given = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU: a dry run on the CPU"
    other = torchdiffeq.__version__ if torchdiffeq else "not here"
    print(
        f"hbode on a GPU\n{name}, Python {platform.python_version()}, torch {torch.__version__}, torchdiffeq {other}\n"
    )
    rows = []
    for size, (batch, dim, hidden) in SIZES.items():
        if given.only in size:
            rows.append([size, *training(Case(batch, dim, hidden, device), not given.no_compile)])
    print("Training step with 65 outputs (ms: median, range), and ratios over torchdiffeq")
    columns = [
        "size",
        "hbode",
        "compiled",
        "torchdiffeq",
        "hbode / td",
        "compiled / td",
        "waits forward",
        "busy",
        "notes",
    ]
    print(table(columns, rows), end="\n\n")
    print("CUDA graph of a block:", tried(lambda: captured(device)) if device.type == "cuda" else "no GPU")


if __name__ == "__main__":
    main()
