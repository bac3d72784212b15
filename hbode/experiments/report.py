"""What an experiment found: a table beside the published one, a page of Markdown, numbers for results.json."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median, stdev
from typing import Any

from ..reporting.provenance import computed_with
from ..reporting.tables import markdown_table, plain, short, with_spread
from ..training import History
from .experiment import Experiment, Settings, Splits, Trial

MADE_BY = "hbode reproduce"
NUMBERS = "results.json"


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation over seeds; of one seed, or where all are equal, the value alone."""
    if not values or math.isnan(mean(values)):
        return "–"
    return with_spread(mean(values), stdev(values)) if min(values) < max(values) else short(values[0])


def verdict(found: dict[str, list[float]], higher: bool) -> str:
    """Return which model is best, and from which it does not differ by more than the spread over seeds.

    Two means differ clearly if they are further apart than the root of the sum of the variances over the seeds.
    """
    if len(found) < 2:
        return "One model alone: no ranking."
    if min(map(len, found.values())) < 2:
        return "A single seed has no spread: no ranking."
    best = (max if higher else min)(found, key=lambda name: mean(found[name]))

    def alike(name: str) -> bool:
        far = abs(mean(found[name]) - mean(found[best]))
        return far <= math.hypot(stdev(found[name]), stdev(found[best]))

    near = [name.upper() for name in found if name != best and alike(name)]
    if len(near) == len(found) - 1 > 0:
        return "No clear difference between the models: all lie within the spread over seeds."
    clear = f"; no clear difference from {', '.join(near)}" if near else ", by more than the spread over seeds"
    return f"{'Highest' if higher else 'Lowest'} mean: {best.upper()}{clear}."


def ratios(times: Mapping[int, float], others: Mapping[int, float]) -> str:
    """Return median (range) of the ratios of times, by run; – where there are none."""
    found = [times[run] / others[run] for run in times if run in others]
    if not found:
        return "–"
    return short(median(found)) + (f" ({short(min(found))}–{short(max(found))})" if len(found) > 1 else "")


def cheapest(found: Sequence[Trial]) -> str:
    """Return which models need the least, of runs that only differ in time."""
    if len({one.model for one in found}) < 2:
        return "One model alone: no ranking."

    def least(cost: Callable[[Trial], float]) -> str:
        known = [one for one in found if not math.isnan(cost(one))]
        if not known:
            return "none"
        best = min(known, key=cost)
        return f"{best.model} ({short(cost(best))})"

    return (
        f"Fewest evaluations forward: {least(lambda one: one.nfe)}, backward: {least(lambda one: one.nfe_backward)}, "
        f"in all: {least(lambda one: one.nfe + one.nfe_backward)}."
    )


@dataclass(frozen=True)
class Report:
    """An experiment, what was set, and what it found; `baselines` are test errors by name."""

    experiment: Experiment
    settings: Settings
    data: Splits
    trials: Sequence[Trial]
    baselines: dict[str, float]
    code: bool
    seconds: float

    def of(self, model: str) -> list[Trial]:
        """Return the trials of a model that did not fail."""
        return [one for one in self.trials if one.model == model and not one.failure]

    @property
    def models(self) -> list[str]:
        """The names of the models, in their order."""
        return list(dict.fromkeys(one.model for one in self.trials))

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells of the table, its head first."""
        columns = [self.columns(name) for name in self.models]
        head = tuple(columns[0])
        first = next(i for i, name in enumerate(head) if name.endswith(self.experiment.label))
        guess = [
            (name, *["–"] * (first - 1), short(error), *["–"] * (len(head) - first - 1))
            for name, error in self.baselines.items()
        ]
        return [head, *(tuple(one.values()) for one in columns), *guess]

    def columns(self, name: str) -> dict[str, str]:
        """Return the cells of a model by the heads of their columns."""
        e, trained = self.experiment, self.settings.training is not None
        good, tried = self.of(name), [one for one in self.trials if one.model == name]
        histories = [one.history for one in good if one.history is not None]
        failed = f", {len(tried) - len(good)} failed" if len(good) < len(tried) else ""
        found = {"model": e.shown(name)}
        if e.peer is None:
            found["parameters"] = str(tried[0].parameters)
        found[e.repeats] = f"{len(tried)}{failed}"
        found[f"test {e.label}" if trained else e.label] = spread([one.chosen[e.metric] for one in good])
        if trained:
            found["last epoch"] = spread([one.last[e.metric] for one in good])
            found["train, last epoch"] = spread([h.train[e.metric][-1] for h in histories])
        if e.goal is not None:
            found[f"steps to {e.label} {e.goal:g}"] = self._solved_after(e.goal, histories)
        found |= {head: table.get(name, "–") for head, table in e.published.items()}
        if self.settings.solver is not None or e.peer is not None:
            found["NFE forward"] = spread([one.nfe for one in good])
            found["NFE backward"] = spread([one.nfe_backward for one in good])
        if trained:
            found["s/epoch"] = spread([mean(h.seconds) for h in histories])
        found["s"] = spread([one.seconds for one in good])
        if e.peer is not None:
            times, others = ({one.seed: one.seconds for one in self.of(which)} for which in (name, e.peer))
            found[f"s / {e.shown(e.peer)}"] = ratios(times, others)
        return found | {head: spread([one.chosen[key] for one in good]) for head, key in e.columns.items()}

    def _solved_after(self, goal: float, histories: Sequence[History]) -> str:
        """Return the steps until the validation error of an epoch was below the goal, and how many seeds reached it."""
        e, training = self.experiment, self.settings.training
        size = math.ceil(len(self.data.train[0]) / (training.batch if training is not None else 1))
        first = [
            next((i for i, error in enumerate(h.validation[e.metric], 1) if error < goal), None) for h in histories
        ]
        steps = [float(size * epoch) for epoch in first if epoch is not None]
        return (spread(steps) if steps else "never") + (
            "" if len(steps) in (0, len(first)) else f" ({len(steps)} seeds)"
        )

    def remarks(self) -> list[str]:
        """Return what a reader of the table must know, one sentence a line."""
        e, of_code = self.experiment, ", systems as in the published code" if self.code else ""
        found = {name: [one.chosen[e.metric] for one in self.of(name)] for name in self.models if self.of(name)}
        less = self.differences()
        own = f", except {'; '.join(less)}" if less else " and length" if self.settings.training is not None else ""
        settings = f"Hyperparameters: {e.chosen}{own}{of_code}."
        failed = [
            f"{e.shown(one.model)}, {e.repeats[:-1]} {one.seed} failed: {one.failure}"
            for one in self.trials
            if one.failure
        ]
        ranking = verdict(found, e.higher) if e.peer is None else cheapest([x for n in self.models for x in self.of(n)])
        return [ranking, settings, *e.notes, *self.data.notes, *failed]

    def differences(self) -> list[str]:
        """Return what is not as in the paper, in words."""

        e = self.experiment

        def told(s: Settings) -> dict[str, Any]:
            training = {} if s.training is None else vars(s.training)
            solver = {}
            if s.solver is not None:
                damped = f"method of the {', '.join(e.damped).upper()}"
                methods = {"method": s.solver.method, damped: s.nystrom or s.solver.method}
                solver = {**methods, "tolerance": max(s.solver.rtol, s.solver.atol)}
            return {**training, **solver, "width": s.width, "length": s.length, "span": s.span}

        own, full = told(self.settings), told(e.settings["full"])
        return [f"{name} {own[name]} ({full[name]})" for name in full if own[name] != full[name]]

    def markdown(self, figures: Sequence[str]) -> str:
        """Return summary.md."""
        e, solver, chosen = self.experiment, self.settings.solver, ""
        if self.settings.training is not None:
            monitor = self.settings.training.monitor
            chosen = f"""
- test {e.label}: of the weights of the epoch with the least validation error ({monitor}), on test data that were looked
  at once; last epoch: of the weights at the end, which published figures are mostly of. mean ± standard deviation over
  seeds (of weights and batches; the data are the same); one seed has no spread.
- s/epoch, s: seconds of training, of an epoch and of all, without the validation."""
        if solver is not None:
            own = f"; {', '.join(e.damped).upper()}: {self.settings.nystrom}" if self.settings.nystrom else ""
            chosen += f"""
- NFE: evaluations of the field in a batch, means over the last epoch. Backward: what the gradient ({solver.gradient})
  evaluates again. Solver: {solver.method or "as the system needs"}, tolerance {solver.rtol:g}{own}."""
        parts = " / ".join(str(len(part[0])) for part in self.data.parts)
        samples = (
            f"- {parts} samples for training, validation and test.\n" if self.settings.training is not None else ""
        )
        notes = "\n".join(f"- {line}" for line in self.remarks())
        return f"""# {e.title}

{markdown_table(self.rows())}
{chosen}
{notes}
{samples}- The whole took {self.seconds:.0f} s on {os.cpu_count()} cores.

{chr(10).join(f"![{name.removesuffix('.png')}]({name})" for name in figures)}
"""

    def numbers(self) -> dict[str, Any]:
        """Return what results.json holds, in types of JSON."""
        trials = [{key: value for key, value in asdict(one).items() if key != "shown"} for one in self.trials]
        training, solver = self.settings.training, self.settings.solver
        return {
            "made_by": MADE_BY,
            "experiment": self.experiment.name,
            "metric": self.experiment.metric,
            "trials": plain(trials),
            "baselines": plain(self.baselines),
            "published": {head: dict(table) for head, table in self.experiment.published.items()},
            "remarks": self.remarks(),
            "settings": {
                "training": None if training is None else training.as_text(),
                "solver": None if solver is None else asdict(solver),
                "seeds": self.settings.seeds,
                "width": self.settings.width,
                "length": self.settings.length,
                "span": self.settings.span,
                "nystrom": self.settings.nystrom,
                "published_code": self.code,
            },
            "seconds": self.seconds,
            **computed_with(),
        }
