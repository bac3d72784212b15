"""What `diagnose` returns: its findings in sentences, its tables, and the report with figures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ...reporting.provenance import computed_with
from ...reporting.report import Report, Rows
from ...reporting.style import shown
from ...reporting.tables import Columns, short
from ..cost.result import Profile, in_words
from ..cost.run import Run
from ..stiffness.result import Stiffness
from .comparison_result import Comparison

MADE_BY = "hbode diagnose"
NUMBERS = "report.json"
FOR_STIFF = ("auto", "kvaerno5")
"""What is profiled as well where steps are held back: a method that switches, and an implicit one."""
HELD_BACK = 0.5
"""From which share of steps that stability holds back on a solve is called stiff."""


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis(Report):
    """What `diagnose` found.

    Attributes
    ----------
    method, tolerance
        Of the solve whose states were looked at.
    stiffness
        Of the system along it.
    profile
        What methods cost over tolerances.
    comparison
        The same field in the four systems; the system alone where its field depends on the momentum.

    Examples
    --------
    >>> import torch
    >>> from hbode import HeavyBall
    >>> from hbode.analysis import diagnose
    >>> system = HeavyBall(lambda t, h: -4 * h, 0.2, trainable=False)
    >>> inputs = torch.ones(2, 1, dtype=torch.float64), [0.0, 1.0]
    >>> report = diagnose(system, inputs, tolerances=(1e-3, 1e-5), repeats=1)
    >>> round(float(report.stiffness.largest.max()), 3)
    2.0
    """

    method: str
    tolerance: float
    stiffness: Stiffness
    profile: Profile
    comparison: Comparison

    @property
    def unit(self) -> str:
        """Of time, in labels."""
        return self.stiffness.unit

    def headline(self) -> str:
        return f"Diagnosis of {self.stiffness.system}, along a solve by {self.method} at {self.tolerance:.2g}"

    def table(self) -> Rows:
        """Return the same field in other systems."""
        return self.comparison.table()

    def remarks(self) -> list[str]:
        return [*self.findings(), *self.comparison.remarks()]

    def columns(self) -> Columns:
        """Return one row a system."""
        return self.comparison.columns()

    def plot(self) -> Figure:
        """Draw the same field in other systems; `figures` has all."""
        return self.comparison.plot()

    def findings(self) -> list[str]:
        """Return what was found, in sentences: how stiff, what holds steps back, which method, what momentum does."""
        found = [self._rates(), *self._stability(), *self._failures(), *self._cheapest()]
        return [*found, *self._momentum(), *self._gradients()]

    def summary(self) -> str:
        """Return the findings and the tables for a terminal."""
        parts = [*(f"- {line}" for line in self.findings()), "", self.stiffness.summary(), "", self.profile.summary()]
        return "\n".join([*parts, "", self.comparison.summary()])

    __repr__ = summary

    def as_json(self, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return everything in types of JSON; None for what is unknown.

        Parameters
        ----------
        asked
            What was asked for, in types of JSON, for the entry "asked".
        """
        return {
            "made_by": MADE_BY,
            "asked": dict(asked or {}),
            "findings": self.findings(),
            "solve": {"method": self.method, "tolerance": self.tolerance, "unit": self.unit},
            "stiffness": self.stiffness.as_json(),
            "profile": self.profile.as_json(),
            "comparison": self.comparison.as_json(),
            **computed_with(),
        }

    def figures(self) -> dict[str, Figure]:
        """Draw the figures, by name."""
        figures = {"stiffness": self.stiffness.plot()}
        if self.stiffness.eigenvalues is not None:
            figures["spectrum"] = self.stiffness.plot_spectrum(method=self.method)
        return figures | {"cost": self.profile.plot(), "comparison": self.comparison.plot()}

    def markdown(self, figures: Sequence[str] = (), asked: Mapping[str, Any] | None = None) -> str:
        """Return the report in Markdown.

        Parameters
        ----------
        figures
            Names of files to show.
        asked
            What was asked for, by name.
        """
        shown = "".join(f"\n![{Path(name).stem}]({name})\n" for name in figures)
        found = "\n".join(f"- {line}" for line in self.findings())
        wish = ", ".join(f"{name} `{value}`" for name, value in (asked or {}).items())
        return f"""# Diagnosis of {self.stiffness.system}

{found}

Looked at along a solve by {self.method} at rtol = atol = {self.tolerance:.2g}. Rates are in 1 / {self.unit}.
{f"Asked for: {wish}." if wish else ""}
{shown}
## Stiffness

```
{self.stiffness.summary()}
```

- stiffness ratio: max \\|Re λ\\| / min \\|Re λ\\| over the modes with a real part that is not zero to rounding.
- max \\|λ\\|: what bounds the steps of an explicit method, also where the fast modes oscillate.
- stiffness index: max \\|λ\\| times the length of the solve.

## Cost

```
{self.profile.summary()}
```

Error: root mean square over the times of the report, relative to that of the solution. nfe, backward: evaluations of f
in the solve and in its gradient. stiffness: the share of steps that stability held back rather than accuracy.

## The same field in other systems

{self.comparison.markdown()}

At rtol = atol = {self.comparison.tolerance:.2g}; medians over times and samples, rates in 1 / {self.unit}. NFE:
evaluations of f, forward and backward. Gradient decay: the norm of the gradient of the sum of the squares of h(T) at
the start of the solve over that at its end. Certificate: whether the bound that keeps the gradients of a heavy ball
from vanishing was found to hold.
"""

    def save(
        self, folder: Path, formats: Sequence[str] = ("png",), asked: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Write report.json, report.md and the figures into a folder that exists; return the names.

        Parameters
        ----------
        folder
            Where to write.
        formats
            Of the figures, such as "png" and "svg". The report shows the first.
        asked
            What was asked for, in types of JSON, to be told in the report.
        """
        names, shown = [], []
        for name, figure in self.figures().items():
            files = [f"{name}.{kind}" for kind in formats]
            for file in files:
                figure.savefig(folder / file, dpi=150)
            names += files
            shown += files[:1]
        numbers = json.dumps(self.as_json(asked), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / NUMBERS).write_text(numbers + "\n", encoding="utf-8")
        (folder / "report.md").write_text(self.markdown(shown, asked), encoding="utf-8")
        return [NUMBERS, "report.md", *names]

    def _rates(self) -> str:
        rates = self.stiffness
        if not bool(rates.largest.isfinite().any()):
            return "No mode is known: the Jacobian is not finite anywhere."
        size = float(rates.largest.nan_to_num(0.0).max())
        index = float(rates.index.nan_to_num(0.0).max())
        fastest = f"|λ| = {short(size)} / {self.unit}, at {rates.where()}"
        return f"The fastest mode has {fastest}; stiffness index {short(index)}."

    def _stability(self) -> list[str]:
        """Say where stability, not accuracy, sets the steps."""
        runs = [run for run in self.profile.runs if run.method not in FOR_STIFF and not math.isnan(run.stiffness)]
        if not runs:
            return []
        worst = max(run.stiffness for run in runs)
        share = f"{100 * worst:.0f} % of the steps"
        held = {name: [r for r in runs if r.method == name and r.stiffness >= HELD_BACK] for name in _methods(runs)}
        stiff = [_where(name, found, runs) for name, found in held.items() if found]
        if not stiff:
            return [f"Not stiff for {_and(list(held))}: stability holds back {'at most ' if worst else ''}{share}."]
        return [f"Stiff for {_and(stiff)}: stability, not accuracy, sets up to {share}.{self._advice()}"]

    def _advice(self) -> str:
        """Return what the work at equal error says of methods for stiff fields."""
        tried = [name for name in FOR_STIFF if name in self.profile.methods]
        found = self.profile.at_equal_error()
        if not tried:
            return ' method="auto" or an implicit method may take longer ones.'
        if found is None:
            return ""
        error, work = found
        explicit, other = ([name for name in work if (name in FOR_STIFF) == wanted] for wanted in (False, True))
        if not explicit or not other:
            return ""
        first, best = other[0], explicit[0]
        both = (self.profile.curve(name, backward=True).work_at(error) for name in (first, best))
        counts = f"{_whole(work[first])} evaluations against {_whole(work[best])} of {best} at an error of {error:.3g}"
        counts += f", with the gradient {' against '.join(map(_whole, both))}"
        if self.profile.is_clear(first, best, error):
            return f' Take method="{first}": {counts}.'
        if self.profile.is_clear(best, first, error):
            return f" Stay with {best} at such errors: {first} takes {counts}."
        return f" There is no clear difference to {first}: {counts}."

    def _failures(self) -> list[str]:
        failed = [run for run in self.profile.runs if run.failure is not None]
        return [
            f"{run.method} failed at {in_words(run.tolerance)}: {str(run.failure).split(':')[0]}." for run in failed
        ]

    def _cheapest(self) -> list[str]:
        """Compare methods at equal error."""
        found = self.profile.at_equal_error()
        if found is None:
            best = self.profile.most_accurate()
            if best is None:
                return []
            cost = f"{best.nfe} evaluations forward and {best.nfe_backward} backward, at {in_words(best.tolerance)}"
            return [f"The least error is {best.error:.1e}, of {best.method}, which takes {cost}."]
        error, work = found
        first, second, *_ = work
        counts = ", ".join(f"{name} {_whole(count)}" for name, count in work.items())
        if not self.profile.is_clear(first, second, error):
            return [f"At an error of {error:.3g} there is no clear difference between {first} and {second}: {counts}."]
        return [f"At an error of {error:.3g}, {first} needs the fewest evaluations: {counts}."]

    def _momentum(self) -> list[str]:
        rows = {row.name: row for row in self.comparison.rows if row.stiffness is not None}
        if not {"node", "hbnode"} <= rows.keys():
            return []
        node, ball = (rows[name].numbers() for name in ("node", "hbnode"))
        return [
            f"With this f, at tolerance {self.comparison.tolerance:.2g}, a NODE has max |λ| = {short(node['max |λ|'])} "
            f"(median) and takes {rows['node'].run.nfe} evaluations ({rows['node'].run.method}); a heavy ball "
            f"{short(ball['max |λ|'])} and {rows['hbnode'].run.nfe} ({rows['hbnode'].run.method})."
        ]

    def _gradients(self) -> list[str]:
        found = [(row.name, row.numbers()["gradient decay"]) for row in self.comparison.rows]
        known = [f"{short(x)} in {shown(name)}" for name, x in found if x == x]
        return [f"A gradient of size one at T is, back at the start, of size {', '.join(known)}."] if known else []


def _methods(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.method for run in runs))


def _where(name: str, found: Sequence[Run], runs: Sequence[Run]) -> str:
    """Return a method, with the tolerances of the runs that were found unless they are all of its runs."""
    if len(found) == sum(run.method == name for run in runs):
        return name
    return f"{name} at {', '.join(in_words(run.tolerance) for run in found)}"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _whole(count: float) -> str:
    """Return a count read off a curve, with the three digits that are meant."""
    return f"{float(f'{count:.3g}'):,.0f}"
