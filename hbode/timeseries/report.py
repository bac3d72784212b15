"""What a forecast found, as a table, a page of Markdown and a dictionary for metrics.json."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..reporting.provenance import computed_with
from ..reporting.tables import aligned, markdown_table, median, plain, short
from .evaluation import ForecastError
from .learners import Learned
from .stiffness import WINDOWS, HiddenStiffness, Momentum
from .windows import Dataset

MADE_BY = "hbode demo"
HEADER = ("model", "parameters", "test MSE", "relative", "NFE forward", "NFE backward", "s/epoch", "γ", "ξ")


def label(one: Learned) -> str:
    """Return the name of a model as it is written in the field."""
    return one.task.name.upper()


def rows(learned: Sequence[Learned], baseline: ForecastError) -> list[tuple[str, ...]]:
    """Return the cells of the table, one row a model and one for the persistence forecast."""
    made = []
    for one in learned:
        if one.error is None:
            made.append((label(one), str(one.parameters), "failed", *["–"] * 6))
            continue
        history = one.history
        made.append(
            (
                label(one),
                str(one.parameters),
                short(one.error.mse),
                short(one.error.relative),
                f"{history.nfe_forward[-1]:.0f}",
                f"{history.nfe_backward[-1]:.0f}",
                f"{sum(history.seconds) / len(history.seconds):.2f}",
                short(one.gamma),
                short(one.xi),
            )
        )
    return [*made, ("last value", "0", short(baseline.mse), short(baseline.relative), *["–"] * 5)]


def plain_table(learned: Sequence[Learned], baseline: ForecastError) -> str:
    """Return the table for a terminal, aligned."""
    lines = aligned([HEADER, *rows(learned, baseline)])
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def stiffness_rows(learned: Sequence[Learned]) -> list[tuple[str, ...]]:
    """Return the cells of the table of stiffness, its head first: medians over the forecasts."""
    head = ("model", "stiffness ratio", "max |λ| (1/τ)", "stiffness index", "NFE forward", "NFE backward")
    made: list[tuple[str, ...]] = [head]
    for one in learned:
        if one.stiffness is not None:
            found = (one.stiffness.ratio, one.stiffness.largest, one.stiffness.index)
            nfe = (f"{one.history.nfe_forward[-1]:.0f}", f"{one.history.nfe_backward[-1]:.0f}")
            made.append((label(one), *(short(median(x)) for x in found), *nfe))
    return made


def failures(learned: Sequence[Learned]) -> list[str]:
    """Return one line for each model that failed."""
    return [f"{label(one)} failed: {one.failure}" for one in learned if one.failure]


def time_unit(data: Dataset) -> str:
    """Return the unit of model time in words."""
    unit, name = data.scaling.time_unit, data.records.time.unit
    return f"{1e3 * unit:.3g} ms" if name == "s" and unit < 0.1 else f"{unit:.3g} {name}"


def markdown(
    data: Dataset,
    learned: Sequence[Learned],
    baseline: ForecastError,
    theory: Momentum,
    seconds: float,
    figures: Sequence[str],
) -> str:
    """Return summary.md."""
    protocol, task = data.protocol, learned[0].task
    text = f"""# Forecasting {data.records.source}

{len(data.records.outputs)} channels, {data.records.total_rows} rows, of which {100 * protocol.drop:.0f} % were dropped
at random. Each model sees {protocol.observed} samples and forecasts the next {protocol.forecast}. Windows:
{len(data.train)} for training, {len(data.validation)} for validation, {len(data.test)} for test, in time order.

{markdown_table([HEADER, *rows(learned, baseline)])}

- test MSE: mean square error of the forecast in standardised units (the mean and standard deviation of the training
  part); relative: its root over that of the truth, so that 1 is no better than forecasting the mean.
- NFE: evaluations of f per training batch, summed over the window, in the last epoch. Forward counts rejected steps;
  backward is what the gradient ({task.solver.gradient}) evaluates again.
- γ and ξ: in units of 1/τ and 1/τ², with τ = {time_unit(data)}, the mean gap between kept samples.
- last value: the forecast that nothing changes any more.

All models: ODE-RNN, {task.solver.method}, rtol = atol = {task.solver.rtol:g}, {task.training.epochs} epochs of Adam,
the same seed ({task.seed}), batches and learning rate. The weights of the epoch with the lowest validation error count.
The whole run took {seconds:.0f} s on {os.cpu_count()} cores.
"""
    text += "".join(f"\n**{line}**\n" for line in failures(learned))
    shown = {name.removesuffix(".png"): f"\n![{name.removesuffix('.png')}]({name})\n" for name in figures}
    text += "".join(shown[name] for name in ("forecast", "nfe", "loss"))
    return f"""{text}
## Stiffness and cost of what was learned

{markdown_table(stiffness_rows(learned))}

Medians along the forecasts of {WINDOWS} test windows, of the eigenvalues λ of the Jacobian of the hidden dynamics (h,
or h and m). stiffness ratio: max \\|Re λ\\| / min \\|Re λ\\|. max \\|λ\\|: the fastest rate, oscillations
included. stiffness index: the largest \\|λ\\| times the length of the forecast.
{shown["stiffness"]}
{valley(theory, shown["comparison"], shown["scaling"])}"""


def valley(theory: Momentum, comparison: str, scaling: str) -> str:
    """Return the part of a page on momentum and stiffness, with its two figures."""
    slopes = ", ".join(
        f"{name.upper()} L^{theory.scaling.slope(name):.2f} (evaluations L^{theory.scaling.slope(name, 'nfe'):.2f})"
        for name in theory.scaling.rate
    )
    return f"""## The same stiff field with and without momentum

A steep valley, f = -∇V with eigenvalues of -∂f/∂h from 1 to L = {theory.scaling.sizes[0]:.0f}, in 16 dimensions:

{theory.comparison.markdown()}
{comparison}
Over a decade of L the fastest rate grows as the theory has it, L for a NODE and √L with momentum: {slopes}.
{scaling}"""


def metrics(
    data: Dataset,
    learned: Sequence[Learned],
    baseline: ForecastError,
    theory: Momentum,
    settings: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Return metrics.json: everything measured, the settings, versions and machine; JSON types only."""
    models = {}
    for one in learned:
        history, error = one.history, one.error
        models[one.task.name] = {
            "parameters": one.parameters,
            "state_channels": one.task.size,
            "field_units": one.task.hidden,
            "test": None if error is None else asdict(error),
            "nfe_forward_per_batch": history.nfe_forward[-1] if history.nfe_forward else None,
            "nfe_backward_per_batch": history.nfe_backward[-1] if history.nfe_backward else None,
            "seconds_per_epoch": sum(history.seconds) / len(history.seconds) if history.seconds else None,
            "seconds": one.seconds,
            "gamma": one.gamma,
            "xi": one.xi,
            "stiffness": None if one.stiffness is None else _stiffness_numbers(one.stiffness),
            "failure": one.failure,
            "history": asdict(history),
        }
    return {
        "made_by": MADE_BY,
        "models": models,
        "persistence": asdict(baseline),
        "stiff_valley": {"comparison": theory.comparison.as_json(), "scaling": theory.scaling.as_json()},
        "data": {
            "source": data.records.source,
            "rows": data.records.total_rows,
            "channels": [str(channel) for channel in data.records.outputs],
            "windows": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
            "train_mean": data.scaling.outputs.mean.tolist(),
            "train_std": data.scaling.outputs.std.tolist(),
            "time_unit": data.scaling.time_unit,
            "time_unit_of_record": data.records.time.unit,
            "protocol": asdict(data.protocol),
        },
        "settings": settings,
        "seconds": seconds,
        **computed_with(),
    }


def _stiffness_numbers(found: HiddenStiffness) -> dict[str, float | None]:
    return {
        "ratio": plain(median(found.ratio)),
        "largest": plain(median(found.largest)),
        "index": plain(median(found.index)),
    }
