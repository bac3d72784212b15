"""NODE, SONODE, HBNODE and GHBNODE as driven models of one record, fitted alike, beside each other in free run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...analysis import stiffness_at
from ...integrate import hbodeint
from ...lazy import optional
from ...models import equal_sizes, parameter_count
from ...models.continuous import DrivenField, LinearReadout, NeuralStateSpace
from ...reporting.tables import median, plain, short
from ...solution import of_batch
from ...systems import FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, System
from ..baselines.simulator import split_runs
from ..identification.fitting.least_squares import fit_least_squares
from ..identification.runs.derivatives import derivatives, unit_of_time
from ..identification.runs.initial_states import estimate
from ..identification.runs.simulation import free_run_error, simulate
from ..identification.runs.stretches import stretches
from ..records import Array, Records, Scaling
from ..scores import SimulationScores, simulation_scores

HIDDEN = 16
"""Units of the layers of the HBNODE's network, which sets the number of parameters of all."""
STRETCH, INITIAL, HELD_OUT, BETWEEN = 150, 20, 0.2, "cubic"
"""Samples of a stretch, and those that the start of a free run is estimated from; share that chooses the weights."""
SLOW = 4.0
"""How many times slower than one a unit of time the states move, so that the GHBNODE's h' = tanh(m) can follow."""
GAMMA = 0.05 / SLOW
"""γ at the start."""
PENALTY = 1e-4
"""Mean square error, of the standardised outputs, that a weight of size one of a network costs."""
TOLERANCE = 1e-3
"""rtol and atol of the adaptive simulation whose evaluations are counted."""
CLEAR = 1.5
"""How many times larger than the least error the next one is where one run names a winner."""


@dataclass(frozen=True, eq=False)
class SystemRun:
    """A fitted system, and what it made of the new record.

    Attributes
    ----------
    validation
        Root mean square errors of free runs over the rows held out, standardised, one an evaluation of the fit.
    seconds
        Of an evaluation: simulation, derivatives by all parameters, validation.
    gamma, xi
        In 1/time and 1/time²; None where the system has none.
    simulated, scores
        Free run over the new record, (T, Cy), and its errors.
    nfe
        Evaluations of f of an adaptive simulation of it; None if that failed.
    largest, ratio
        max |λ| in 1/time and the stiffness ratio along that, (T,).
    """

    name: str
    parameters: int
    validation: list[float]
    seconds: float
    gamma: float | None
    xi: float | None
    simulated: Array
    scores: SimulationScores
    nfe: int | None
    largest: Array
    ratio: Array

    @property
    def error(self) -> float:
        """The error of the free run in per cent of the standard deviation."""
        return 100 * self.scores.joined_nrmse

    def as_json(self) -> dict[str, Any]:
        """Return JSON types."""
        numbers: dict[str, Any] = plain(
            {
                "parameters": self.parameters,
                "error_percent": self.error,
                "rmse": self.scores.rmse.tolist(),
                "nfe": self.nfe,
                "seconds_per_evaluation": self.seconds,
                "gamma": self.gamma,
                "xi": self.xi,
                "stiffness_ratio": median(self.ratio),
                "largest_rate": median(self.largest),
                "validation": self.validation,
            }
        )
        return numbers


HEAD = (
    "system", "parameters", "error, % of std", "evaluations of f", "s a fitting step", "γ (1/s)", "ξ (1/s²)",
    "stiffness ratio", "max |λ| (1/s)",
)  # fmt: skip


def row(run: SystemRun) -> tuple[str, ...]:
    """Return the cells of a system under `HEAD`."""
    return (
        run.name.upper(),
        str(run.parameters),
        short(run.error),
        "–" if run.nfe is None else str(run.nfe),
        short(run.seconds),
        short(run.gamma),
        short(run.xi),
        short(median(run.ratio)),
        short(median(run.largest)),
    )


def verdict(runs: Sequence[SystemRun]) -> str:
    """Return who simulates best, in words that one run carries."""
    order = sorted(runs, key=lambda run: run.error)
    best = f"{order[0].name.upper()} misses {short(order[0].error)} %"
    if len(order) == 1:
        return best
    if order[1].error > CLEAR * order[0].error:
        return f"{best} of the standard deviation, the next {short(order[1].error)} %"
    return f"{best} of the standard deviation, {order[-1].name.upper()} {short(order[-1].error)} %: one run, no ranking"


def fit_systems(
    train: Records, test: Records, names: Sequence[str], seed: int, jobs: int, evaluations: int
) -> Iterator[SystemRun]:
    """Fit systems of equal parameter count to a record and simulate another; yield them one after the other."""
    channels = len(train.outputs), len(train.inputs)
    # The states are as many for all: only the networks are to be sized.
    sizes = equal_sizes(lambda name, _, units: build(name, units, *channels), list(names), "hbnode", HIDDEN)
    joblib = optional("joblib")
    runs: Iterator[SystemRun] = joblib.Parallel(n_jobs=min(jobs, len(names)), return_as="generator")(
        joblib.delayed(fit_system)(name, sizes[name][1], train, test, seed, evaluations) for name in names
    )
    return runs


def fit_system(name: str, hidden: int, train: Records, test: Records, seed: int, evaluations: int) -> SystemRun:
    """Fit one system by least squares to free runs over stretches; the end of the record chooses the weights."""
    scaling, fitted, held = scaled(train)
    given, others = stretches(fitted, STRETCH, BETWEEN), stretches(held, INITIAL + len(held[0]), BETWEEN)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(name, hidden, len(train.outputs), len(train.inputs)).double()
    start_linear(model.system, *linear_law(fitted))
    started = time.perf_counter()
    penalty = {key: PENALTY for key, _ in model.named_parameters() if "network" in key}
    found = fit_least_squares(
        model,
        given,
        penalty,
        validation=lambda _: free_run_error(model, others, INITIAL),
        evaluations=evaluations,
        patience=evaluations,
    )
    seconds = (time.perf_counter() - started) / len(found.train)
    new = scaling.to_standard(test)
    y = scaling.outputs.from_standard(simulate(model, new, BETWEEN, INITIAL, np.inf)[0])
    nfe, largest, ratio = cost(model, new)
    unit = scaling.time_unit
    gamma, xi = (None if c is None else float(c.detach()) for c in model.system.coefficients())
    return SystemRun(
        name,
        parameter_count(model),
        [float(error) ** 0.5 for error in found.validation],
        seconds,
        None if gamma is None else gamma / unit,
        None if xi is None else xi / unit**2,
        y,
        simulation_scores([test[0].y], [y], INITIAL),
        nfe,
        largest / unit,
        ratio,
    )


def scaled(train: Records) -> tuple[Scaling, Records, Records]:
    """Return the scaling of the rows that are fitted, and these and the others, scaled."""
    parts = split_runs(train, 1 - HELD_OUT)
    scaling = replace(Scaling.fit(parts[0]), time_unit=unit_of_time(parts[0]) / SLOW)
    fitted, held = (scaling.to_standard(part) for part in parts)
    return scaling, fitted, held


def build(name: str, hidden: int, outputs: int, inputs: int) -> NeuralStateSpace:
    """Return a driven system with a position and a velocity for each output, 2 Cy numbers in a NODE too."""
    size = outputs if name != "node" else 2 * outputs
    field = DrivenField(size, inputs, hidden, momentum=name == "sonode")
    with torch.no_grad():  # rates are so much smaller in units of time that are so much shorter
        for x in field.network[-1].parameters():
            x.div_(SLOW**2)
    systems: dict[str, Callable[[], System]] = {
        "node": lambda: FirstOrder(field),
        "sonode": lambda: SecondOrder(field),
        "hbnode": lambda: HeavyBall(field, GAMMA),
        "ghbnode": lambda: GeneralizedHeavyBall(field, GAMMA),
    }
    return NeuralStateSpace(systems[name](), LinearReadout(outputs, 2 * outputs, inputs), size)


def linear_law(records: Records) -> tuple[Tensor, Tensor, Tensor]:
    """Return K, B and c of y'' + γ y' = K y + B u + c, fitted to smoothed derivatives with γ = `GAMMA`."""
    y, slope, curvature, u = derivatives(records[0], 5)
    z = np.concatenate((y, u, np.ones_like(y[:, :1])), 1)
    found = torch.from_numpy(np.linalg.lstsq(z, curvature + GAMMA * slope, rcond=None)[0].T)
    return found[:, : y.shape[1]], found[:, y.shape[1] : -1], found[:, -1]


@torch.no_grad()
def start_linear(system: System, k: Tensor, b: Tensor, c: Tensor) -> None:
    """Set the linear part of a system so that all four start from the same law, but for their networks."""
    eye, zero = torch.eye(len(k), dtype=k.dtype), torch.zeros_like(k)
    _, xi = system.coefficients()
    law = [k if xi is None else k + xi * eye]
    if not system.damped:
        law.append(-GAMMA * eye)
    weight, bias = torch.cat((*law, b), 1), c
    if not system.second_order:
        weight = torch.cat((torch.cat((zero, eye, torch.zeros_like(b)), 1), weight))
        bias = torch.cat((torch.zeros_like(c), c))
    field: Any = system.f
    field.linear.weight.copy_(weight)
    field.linear.bias.copy_(bias)


@torch.no_grad()
def cost(model: NeuralStateSpace, records: Records) -> tuple[int | None, Array, Array]:
    """Return the evaluations of an adaptive simulation, and max |λ| and the stiffness ratio along it, (T,) each."""
    given = stretches(records, None, BETWEEN)
    start = estimate(model, given.first(INITIAL))
    h0, m0 = start.unbind() if model.system.second_order else (start, None)
    sol = hbodeint(
        model.system, h0, given.t, m0=m0, inputs=given.inputs, method="dopri5", rtol=TOLERANCE, atol=TOLERANCE,
        throw=False,
    )  # fmt: skip
    if not sol.stats.success:
        unknown = np.full(len(given.t), np.nan)
        return None, unknown, unknown
    # The times as samples of a batch: each then has its own input.
    h, m = sol.h.transpose(0, 1), None if sol.m is None else sol.m.transpose(0, 1)
    found = stiffness_at(model.system, [0.0], h, m, args=(given.values[:, 0],), batch=True)
    return of_batch(sol.stats.nfe), found.largest[0].numpy(), found.ratio[0].numpy()
