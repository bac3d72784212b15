"""`hbode demo`: a structure identified from a record of its motion and simulated for a new force, by four systems."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...models import SYSTEMS
from ...reporting.provenance import computed_with
from ...reporting.results_folder import results_in
from ...reporting.tables import aligned, markdown_table
from ..report import MADE_BY, valley
from ..stiffness import momentum
from ..structure import Structure

METRICS = "metrics.json"
SIMULATION = "simulation"


@dataclass(frozen=True)
class DemoSettings:
    """Everything that the demo can be told.

    Examples
    --------
    >>> from hbode.timeseries import DemoSettings
    >>> DemoSettings(seed=3).jobs
    1
    """

    models: tuple[str, ...] = tuple(SYSTEMS)
    out: Path = Path("hbode-demo")
    seed: int = 0
    jobs: int = 1
    evaluations: int = 25
    """Of the fit of each system."""


def run_demo(
    settings: DemoSettings, say: Callable[[str], None] = print, started: float | None = None
) -> dict[str, Any]:
    """Run the demo and write its results folder.

    Parameters
    ----------
    settings
        What to do.
    say
        Takes lines of text for the user.
    started
        When the program started, by `time.perf_counter`, for the total in the report.

    Returns
    -------
    dict
        What metrics.json holds.

    Raises
    ------
    MissingExtra
        Without the extra for time series.
    OutputError
        If the results folder cannot be written.

    Examples
    --------
    >>> from hbode.timeseries import DemoSettings, run_demo
    >>> found = run_demo(DemoSettings(models=("node",), evaluations=1), say=lambda line: None)
    """
    from .figure import systems_figure  # these need scikit-learn
    from .identify import simulate_structure
    from .systems import HEAD, INITIAL, TOLERANCE, fit_systems, row, verdict

    started = time.perf_counter() if started is None else started
    s = settings
    with results_in(s.out, MADE_BY, METRICS) as folder:
        identified = simulate_structure(folder / SIMULATION, s.seed, s.jobs, say)
        say("\n".join(identified.lines))
        train, test = identified.train, identified.test
        say(f"Side by side, {s.evaluations} evaluations of each fit: {', '.join(name.upper() for name in s.models)}.")
        runs = []
        for run in fit_systems(train, test, s.models, s.seed, s.jobs, s.evaluations):
            runs.append(run)
            say(f"{run.name.upper()}: off by {100 * min(run.validation):.3g} % on the rows held out.")
        others = [
            (
                "(identified above)" if one is identified.compared[0] else f"({one.name})",
                one.parameters,
                f"{100 * one.scores.joined_nrmse:.3g}",
                *["–"] * (len(HEAD) - 3),
            )
            for one in identified.compared
            if one.scores is not None and (one is identified.compared[0] or one.name.startswith("linear"))
        ]
        rows = [HEAD, *map(row, runs), *others]
        theory = momentum()
        figures = {
            "systems.png": systems_figure(runs, test, INITIAL, identified.compared),
            "comparison.png": theory.comparison.plot(),
            "scaling.png": theory.scaling.plot(),
        }
        for name, figure in figures.items():
            figure.savefig(folder / name, dpi=150)
        seconds = time.perf_counter() - started
        found: dict[str, Any] = {
            "made_by": MADE_BY,
            "simulation": identified.numbers,
            "systems": {run.name: run.as_json() for run in runs},
            "stiff_valley": {"comparison": theory.comparison.as_json(), "scaling": theory.scaling.as_json()},
            "settings": {**asdict(s), "out": str(s.out)},
            "seconds": seconds,
            **computed_with(),
        }
        (folder / METRICS).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        page = f"""{identified.page}
## Four systems side by side

{markdown_table(rows)}

**{verdict(runs)}.** A single run with one seed: another seed, or a longer fit, may turn small differences round.

![systems](systems.png)

- All have a position and a velocity for each output, a NODE too, the law that `DrivenField` says, and as many
  parameters, within a few per cent. They start from one linear heavy ball, and are fitted as the model above is, by
  {s.evaluations} evaluations of the same least-squares problem; the last rows of the record choose the weights.
- error: of the free run for the new force, root mean square over the standard deviation. The new record was looked at
  once, at the end. In brackets: the model above, and linear ones.
- evaluations of f: dopri5, rtol = atol = {TOLERANCE:g}, over the whole of the new record.
- γ and ξ: of the fitted weights; the field may share their work. The true γ is {Structure().damping:g} 1/s.
- stiffness ratio and max \\|λ\\|: medians along that simulation, of the Jacobian at the input of the time.

{valley(theory, *(f"![{name}]({name}.png)" for name in ("comparison", "scaling")))}"""
        (folder / "summary.md").write_text(page, encoding="utf-8")
    say("\n".join(["", *aligned(rows), "", f"{verdict(runs)}. A single run, one seed."]))
    files = ", ".join([METRICS, "summary.md", *figures, f"{SIMULATION}/report.md"])
    say(f"Results: {s.out}/ ({files}), after {seconds:.0f} s.")
    return found
