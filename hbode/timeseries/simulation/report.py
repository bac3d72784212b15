"""The report of a simulation: report.json, report.md and figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...reporting.provenance import computed_with
from ...reporting.style import Picture
from ...reporting.tables import markdown_table, plain, short
from ...solution import SolverError
from ..identification import SystemIdentifier
from ..records import Array
from .comparison import Compared
from .figures import comparison_figure, curves_figure, energy_figure, headline, residual_figure, simulation_figure
from .free_run import FreeRun, Identified

NUMBERS = "report.json"
BALANCED = 1000
"""Rows of the simulation whose energy is balanced, at most."""


def table(compared: Sequence[Compared], free_run: FreeRun) -> list[tuple[str, ...]]:
    """Return the cells of the comparison, its head first."""
    channels = free_run.records.outputs
    head = ("model", "parameters", *(f"RMSE {c}" for c in channels), "% of std", "fit in s")
    rows = [
        (
            one.name,
            one.parameters,
            *(["–"] * len(channels) if one.scores is None else [short(float(x)) for x in one.scores.rmse]),
            "–" if one.scores is None else short(100 * one.scores.joined_nrmse),
            short(one.seconds),
        )
        for one in compared
    ]
    return [head, *rows]


def write_report(
    folder: Path,
    made_by: str,
    title: str,
    identifier: Identified,
    free_run: FreeRun,
    compared: Sequence[Compared] = (),
    notes: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    stiffness: Mapping[str, Callable[[Array], Array]] | None = None,
    first: Mapping[str, Picture] | None = None,
) -> list[str]:
    """Write a report into a folder that exists; return the names of its files.

    Parameters
    ----------
    made_by
        The command, for report.json.
    title
        Of report.md.
    identifier, free_run
        The model and its simulation of records that were measured.
    compared
        Itself and others; empty for no comparison.
    notes
        Sentences on the data.
    settings
        For report.json.
    stiffness
        See `curves_figure`.
    first
        Further figures by file name, which come first.

    Examples
    --------
    >>> from pathlib import Path
    >>> from hbode.timeseries import SystemIdentifier, structure_records
    >>> from hbode.timeseries.simulation import FreeRun, write_report
    >>> records = structure_records(200, seed=0)
    >>> identifier = SystemIdentifier("hbnode", evaluations=1, initial=10, stretch=50, hidden=2, random_state=0)
    >>> identifier = identifier.fit(records)
    >>> free_run = FreeRun.of(identifier, structure_records(100, seed=1), 10)
    >>> Path("report").mkdir()
    >>> "report.md" in write_report(Path("report"), "an example", "A structure", identifier, free_run)
    True
    """
    found = identifier.describe()
    figures = {
        **(first or {}),
        "simulation.png": simulation_figure(free_run, compared),
        "residual.png": residual_figure(free_run),
    }
    if found.curves:
        figures["curves.png"] = curves_figure(found, stiffness)
    if found.energy is not None and isinstance(identifier, SystemIdentifier):
        longest = free_run.records[free_run.longest : free_run.longest + 1].rows(0, BALANCED)
        try:
            (balance,) = identifier.energy_balance(longest, free_run.initial)
            figures["energy.png"] = energy_figure(found, balance, free_run.records.time)
        except SolverError as error:
            notes = (*notes, f"No energy balance: {error}")
    if len(compared) > 1:
        figures["comparison.png"] = comparison_figure(compared, free_run.records.outputs)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=150)
    coverage = {
        str(c): f"{100 * x:.1f} %" for c, x in zip(free_run.records.outputs, free_run.bands.coverage, strict=True)
    }
    numbers = {
        "made_by": made_by,
        "test": free_run.as_json(),
        "models": {one.name: one.as_json() for one in compared},
        "learned": plain(found.as_json()),
        "notes": list(notes),
        "settings": dict(settings or {}),
        **computed_with(),
    }
    (folder / NUMBERS).write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shown = {name: f"![{name.removesuffix('.png')}]({name})" for name in figures}
    compared = compared or [Compared(identifier.law_.model.upper(), y=[], scores=free_run.scores)]
    remarks = [f"{one.name}: {one.note}." for one in compared if one.note]
    bullets = "\n".join(f"- {line}" for line in (*notes, *remarks))
    seen = "the inputs, and the outputs" if free_run.records.inputs else "the outputs"
    page = f"""# {title}

**{headline(free_run)}.** The model saw {seen} of the first {free_run.initial} samples of each run
to find its initial state; errors are root mean squares of the samples behind them.

{bullets}

{" ".join(shown[name] for name in first or {})}

{shown["simulation.png"]}

{markdown_table(table(compared, free_run))}

{shown.get("comparison.png", "")}

## What is left over

The bands should hold {100 * free_run.nominal:.0f} % of the measurements and hold
{", ".join(f"{x} of {name}" for name, x in coverage.items())}.

{shown["residual.png"]}

## What was learned

```
{found}
```

{shown.get("curves.png", "")}

{shown.get("energy.png", "")}
"""
    (folder / "report.md").write_text(page, encoding="utf-8")
    return [NUMBERS, "report.md", *figures]
