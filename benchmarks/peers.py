"""Forward solves and training steps of hbode, torchdiffeq, torchode and diffrax at equal error.

The heavy ball h'' + γ h' = f(h), γ = 0.05, float32: f a two-layer tanh network, t = 0 … 8 with 2 and with 65 outputs;
f of two 3 × 3 convolutions, t = 0 … 1 with 2 outputs; and 10,000 equal steps of the smallest network, t = 0 … 20. A
training step is the mean square of all positions and momenta at all outputs with the gradients of h0 and all weights.

Every solver runs at the loosest rtol = atol of a ladder of half powers of ten at which the relative l2 error of
positions and momenta, and in a training step that of the gradients too, is at most the level; reference: dprkn8 of
hbode in float64 at 1e-12 (convolutions: 1e-8). "not reached": at no tolerance down to 1e-8 within 1000 steps. Methods
are dprkn6 of hbode, dopri5 of torchdiffeq and torchode; diffrax solves forward by Tsit5 and by Dopri5, and trains by
the faster of the two. torchode gives every sample its own steps; its continuous adjoints, the slowest of all here, are
left out. diffrax is compiled whole, hbode where it says so; no time counts compilation. Evaluations are calls of f on
the batch, forward and in the backward pass (diffrax: 6 a step and 1); "–" where the library does not tell.

The solvers of a block of rows run in turn; ratios are taken run by run. "solve / f" is over as many evaluations of f
alone: eager in torch, for diffrax compiled in JAX.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch
from _common import SIZES, Timing, alternate, header, ratio, table
from _peers_figure import draw
from _peers_jax import METHODS, Diffrax, Libraries, libraries
from _peers_long import long_solve
from _peers_search import Found, Ladder
from _peers_torch import Case, Solver, convolutional_case, dense_case, forward_solvers, training_solvers

LEVELS = (1e-3, 1e-5)
DRAWN = 65, 1e-5
FIGURE = Path(__file__).resolve().parents[1] / "docs" / "figures" / "speed.png"
ALONE = 16
FORWARD = ["problem", "outputs", "level", "solver", "tol", "error", "NFE", "time", "solve / f", "torchdiffeq / this"]
TRAINING = [
    *("problem", "outputs", "level", "solver", "tol", "error", "gradient error", "NFE f / b", "time"),
    *("torchdiffeq adjoint / this", "torchdiffeq backprop / this", "this / diffrax checkpointed"),
]


def timed(solver: Solver, tol: float) -> Callable[[], object]:
    """Return the run of a solver up to the end of its work on a GPU."""

    def run() -> None:
        solver.run(tol)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run


def over(a: Timing | None, b: Timing | None) -> str:
    """Return the ratio a / b where both are measured."""
    return "–" if a is None or b is None else ratio(a, b)


def kind(name: str) -> str:
    """Return the name of a solver, of diffrax without the method."""
    return " ".join(word for word in name.split() if word not in METHODS)


class Bench:
    """The tables as they grow."""

    def __init__(self, ladder: Ladder, diffrax: Libraries | None, torchode: bool) -> None:
        self.ladder, self.libraries, self.torchode = ladder, diffrax, torchode
        self.forward_rows: list[list[str]] = []
        self.training_rows: list[list[str]] = []
        self.panels: dict[str, Mapping[str, Timing | None]] = {}

    def measure(self, case: Case, levels: Sequence[float], repeats: int) -> None:
        """Add the rows of a problem."""
        exact = case.reference()
        jax = Diffrax(case, self.libraries) if self.libraries else None
        forward, training = forward_solvers(case, self.torchode), training_solvers(case, self.torchode)
        forward += [jax.forward(method) for method in METHODS] if jax else []
        trained = {method: jax.training(method) for method in METHODS} if jax else {}
        for level in levels:
            found = [self.ladder.loosest(solver, exact, level, case.guess) for solver in forward]
            timing = self._forward(case, jax, level, found, repeats)
            medians = {m: timing[f"diffrax {m}"].median for m in METHODS if f"diffrax {m}" in timing}
            extra = trained[min(medians, key=medians.__getitem__)] if medians else []
            found = [self.ladder.loosest(solver, exact, level, case.guess) for solver in training + extra]
            self._training(case, level, found, repeats)

    def _forward(
        self, case: Case, jax: Diffrax | None, level: float, found: list[Found], repeats: int
    ) -> dict[str, Timing]:
        def alone(_: float) -> None:
            with torch.no_grad():
                for _ in range(ALONE):
                    case.net(case.h0)

        runs = {"f": timed(Solver("f", alone), 0.0)}
        if jax is not None:
            runs["f in JAX"] = jax.alone(ALONE)
        runs |= {f.solver.name: timed(f.solver, f.tol) for f in found if f.tol is not None}
        timing = alternate(runs, repeats, warmup=1)
        for f in found:
            mine = timing.get(f.solver.name)
            quotient = "–"
            if mine is not None and f.result is not None and f.result.nfe is not None:
                block = timing["f in JAX" if f.solver.name.startswith("diffrax") else "f"]
                quotient = ratio(mine, Timing(tuple(s * f.result.nfe / ALONE for s in block.seconds)))
            ratios = [quotient, over(timing.get("torchdiffeq"), mine)]
            self.forward_rows.append([*self._start(case, level, f, 1), f.nfe[0], str(mine or "–"), *ratios])
        return timing

    def _training(self, case: Case, level: float, found: list[Found], repeats: int) -> None:
        runs = {kind(f.solver.name): timed(f.solver, f.tol) for f in found if f.tol is not None}
        timing = alternate(runs, repeats, warmup=0)
        for f in found:
            mine = timing.get(kind(f.solver.name))
            ratios = [over(timing.get(f"torchdiffeq {mode}"), mine) for mode in ("adjoint", "backprop")]
            ratios.append(over(mine, timing.get("diffrax checkpointed")))
            counts = " / ".join(f.nfe)
            self.training_rows.append([*self._start(case, level, f, 2), counts, str(mine or "–"), *ratios])
        if (len(case.t), level) == DRAWN:
            names = [kind(f.solver.name) for f in found]
            self.panels[case.label] = {name: timing.get(name) for name in names}

    @staticmethod
    def _start(case: Case, level: float, f: Found, count: int) -> list[str]:
        cells = [case.label, str(len(case.t)), f"{level:.0e}", f.solver.name]
        if f.tol is None:
            return [*cells, f.why, *["–"] * count]
        return [*cells, f"{f.tol:.1e}", *(f"{x:.1e}" for x in f.errors)]


def machine(device: str) -> str:
    """Return device, versions of the peers, and date."""
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    parts = [name]
    for package in ("torchode", "torchsde", "diffrax", "jax"):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            parts.append(f"{package} missing")
    return ", ".join([*parts, datetime.date.today().isoformat()])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="the smallest size, few repeats and steps, to try it out")
    parser.add_argument("--figure", type=Path, metavar="PATH", help="where to draw the training steps")
    args = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False
    bench = Bench(Ladder(), libraries(args.device), find_spec("torchode") is not None)
    sizes = dict(list(SIZES.items())[:1]) if args.quick else SIZES
    for label, size in sizes.items():
        repeats = 3 if args.quick else 15 if size[1] < 64 else 9 if size[1] < 256 else 5
        for outputs in (2, 65):
            bench.measure(dense_case(label, size, outputs, args.device), LEVELS, repeats)
    bench.measure(convolutional_case(2 if args.quick else 128, args.device), LEVELS[:1], 3)
    print(header("Forward solve and training step at equal error (time in ms: median, range)"), machine(args.device))
    print("\nForward solve")
    print(table(FORWARD, bench.forward_rows))
    print("\nTraining step")
    print(table(TRAINING, bench.training_rows))
    steps = 1000 if args.quick else 10_000
    label, size = next(iter(SIZES.items()))
    print(f"\nTraining step with {steps} equal steps, {label}, 2 outputs, t = 0 … 20")
    case = dense_case(label, size, 2, args.device, end=20.0)
    print(long_solve(case, steps, bench.libraries, 3, timed))
    if args.figure or not args.quick:
        outputs, level = DRAWN
        title = f"Training step, {outputs} outputs, relative error of states and gradients ≤ {level:.0e}"
        draw(bench.panels, title, f"{header('').strip()}\n{machine(args.device)}", args.figure or FIGURE)


if __name__ == "__main__":
    main()
