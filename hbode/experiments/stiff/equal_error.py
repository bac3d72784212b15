"""The stiff scalar problem and the discrete Laplacian of Baker et al. (2022), at an equal error."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ...reporting.style import LINES, Picture, log_scale
from ...training import Diverged, Number
from ..experiment import Experiment, Measured, Part, Settings, Splits, Trial, first_of_each
from .problems import Problem, error_of, heat, stiff_scalar
from .solves import ERROR, TOLERANCES, GivenUp, Point, Run, gradient_error, ladder, loosest, mean_output, ours, theirs

PEER = "torchdiffeq-dopri5"
FINEST = 1e-5
"""The error down to which work-precision curves are drawn."""
SPLIT = "-split"
"""Ends the name of a method that is given the field in two parts."""
METHODS = ("dopri5", "rkc", "prox_bdf2", "prox_bdf3", "prox_bdf4", "esdirk4", "kvaerno5", "imex_ark3", "imex_ark4")
MODELS = (PEER, *METHODS, "auto")
LOOKS = {
    name: {**LINES[i % len(LINES)], "fillstyle": "full" if i < len(LINES) else "none"} for i, name in enumerate(MODELS)
}
IN_PARTS = {f"{name}{SPLIT}": {**LOOKS[name], "linewidth": 0.8} for name in ("imex_ark3", "imex_ark4")}


def run_of(problem: Problem, name: str) -> Run:
    """Return the solves of a model."""
    method = name.removesuffix(SPLIT)
    return theirs(problem) if name == PEER else ours(problem, method, split=method != name)


@cache
def points_of(make: Callable[[], Problem], name: str) -> list[Point]:
    """Return the ladder of a model, which is the same each time that it is asked for."""
    problem = make()
    return ladder(run_of(problem, name), error_of(problem), FINEST)


class Solve(nn.Module):
    """A problem and a method, at a tolerance that is yet to be settled."""

    def __init__(self, problem: Problem, name: str) -> None:
        super().__init__()
        self.problem, self.run, self.name, self.tol = problem, run_of(problem, name), name, math.nan
        self.error = error_of(problem)

    @torch.enable_grad()
    def forward(self) -> dict[str, Number]:
        """Return what a solve at the tolerance and the gradient of its mean output cost and reached."""
        parameter = cast(Tensor, self.problem.parameter)
        begun = time.process_time()
        states, cost = self.run(self.tol)
        solved = time.process_time()
        try:
            (gradient,) = torch.autograd.grad(mean_output(states), parameter)
            done, back = time.process_time() - solved, cost.nfe_backward
        except (AssertionError, GivenUp):  # of torchdiffeq: not finite, or without end
            gradient, done, back = parameter.detach() * math.nan, math.nan, None
        return {
            "error": self.error(states.detach()),
            "gradient_error": gradient_error(self.problem, gradient),
            "log_tolerance": math.log10(self.tol),
            "nfe": float(torch.as_tensor(cost.nfe)),
            "nfe_backward": math.nan if back is None else float(back),
            "seconds": solved - begun,
            "seconds_backward": done,
        }


class EqualError(Experiment):
    """One problem by every method, each at the loosest tolerance whose error is small enough; nothing is drawn."""

    problem: ClassVar[staticmethod[[], Problem]]
    metric, label, repeats = "error", "error", "timings"
    peer = PEER
    looks: ClassVar[Mapping[str, dict[str, Any]]] = LOOKS
    columns: ClassVar[Mapping[str, str]] = {
        "s backward": "seconds_backward",
        "error of the gradient": "gradient_error",
        "log10 tolerance": "log_tolerance",
    }
    chosen = f"of the methods as they are; the loosest tolerance of 10^-2, 10^-2.25 … whose error is at most {ERROR:g}"
    settings: ClassVar[Mapping[str, Settings]] = {
        "full": Settings(training=None, solver=None, seeds=3),
        "short": Settings(training=None, solver=None, seeds=1),
    }
    notes: ClassVar[Sequence[str]] = (
        "Error: the largest over the outputs of the root-mean-square error relative to the largest values of each "
        "component. NFE count products with the Jacobian, and each part of a divided field by itself. CPU times.",
        "Gradient: of the mean output, by the discrete adjoint, and by odeint_adjoint of torchdiffeq; its error is "
        "relative to that of the exact solution. – stands for a backward pass that was not finite, or was given up "
        "after 30,000 evaluations: it takes the states back in time, in which a stiff problem explodes.",
    )

    def load(self, data: Path | None, settings: Settings) -> Splits:
        problem = self.problem()
        part = problem.times, problem.solution()
        return Splits(part, part, part)

    def model(self, name: str, data: Splits, settings: Settings, code: bool) -> nn.Module:
        return Solve(self.problem(), name)

    def shown(self, name: str) -> str:
        return name

    def settle(self, model: nn.Module, data: Splits) -> None:
        solve = cast(Solve, model)
        found = loosest(points_of(self.problem, solve.name))
        if found is None:
            raise Diverged(f"no tolerance down to {TOLERANCES[-1]:g} has an error of {ERROR:g}")
        solve.tol = found.tol

    def loss(self, model: nn.Module, batch: Part) -> Measured:
        """Return what is measured; there is nothing to be trained."""
        found = cast(dict[str, Number], model())
        return torch.tensor(found["error"]), found

    def baselines(self, data: Splits) -> dict[str, float]:
        """Return none: the solution is exact."""
        return {}

    def show(self, model: nn.Module, data: Splits) -> Tensor:
        """Return the ladder, shape (K, 3): tolerances, evaluations forward, errors."""
        return torch.tensor(points_of(self.problem, cast(Solve, model).name))

    def figure(self, data: Splits, trials: Sequence[Trial]) -> Picture:
        """Draw error over evaluations, forward, and time of both passes at the equal error."""
        figure = Picture(10, 5)
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for name, one in first_of_each(trials).items():
            _, nfe, error = cast(Tensor, one.shown).T
            left.plot(nfe, error, **self.looks[name], markersize=4, label=name)
        left.axhline(ERROR, color="black", linewidth=0.6)
        left.set(xscale="log", yscale="log", xlabel="evaluations forward", ylabel="error")
        names = list(first_of_each(trials))[::-1]
        least = {
            key: [min(one.chosen[key] for one in trials if one.model == name) for name in names]
            for key in ("seconds", "seconds_backward")
        }
        places = range(len(names))
        for key, label, look in (("seconds", "forward", LINES[0]), ("seconds_backward", "backward", LINES[1])):
            right.plot(least[key], places, **{**look, "linestyle": "none"}, label=label)
        right.set(xlabel=f"least CPU seconds at an error of {ERROR:g}")
        right.set_yticks(places, names)
        log_scale(right, "x")
        for panel in (left, right):
            panel.grid(alpha=0.25)
        figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=7)
        right.legend(fontsize=8)
        return figure


class StiffScalar(EqualError):
    """y' = k y + (1 - k) cos t - (1 + k) sin t."""

    name, title = "stiff-scalar", "Stiff scalar problem, k = -1000"
    problem = staticmethod(stiff_scalar)
    looks: ClassVar[Mapping[str, dict[str, Any]]] = LOOKS | IN_PARTS
    notes = (
        *EqualError.notes,
        "y' = k y + a ((1 - k) cos t - (1 + k) sin t), y(0) = 1, to t = 10; gradient by a, at a = 1. The stiff part of "
        "a divided field is the decay to sin t + cos t, the other one its slope.",
    )


class DiscreteLaplacian(EqualError):
    """u' = κ L u."""

    name, title = "discrete-laplacian", "Heat on 128 points"
    problem = staticmethod(heat)
    notes = (*EqualError.notes, "The start is of the modes 1, 7 and 31, to t = 0.1; gradient by κ, at κ = 1.")
