"""A system's diagnosis: how stiff it is, what it costs, and whether momentum would help or did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from ..integrate import hbodeint
from ..provenance import provenance
from ..systems import SecondOrder, System
from .comparison import compare, same_field
from .comparison_result import Comparison
from .cost import profile
from .cost_result import Profile, Run
from .inputs import Inputs, as_inputs
from .propagator import Loss
from .stiffness import stiffness
from .stiffness_result import Stiffness
from .tables import short

MADE_BY = "hbode diagnose"
NUMBERS = "report.json"
HELD_BACK = 0.5
"""From which share of steps that stability holds back on a solve is called stiff."""


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis:
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
    unit
        Of time, in labels.
    """

    method: str
    tolerance: float
    stiffness: Stiffness
    profile: Profile
    comparison: Comparison
    unit: str

    def findings(self) -> list[str]:
        """Return what was found, in sentences: how stiff, what holds steps back, which method, what momentum does."""
        return [self._rates(), *self._stability(), *self._cheapest(), *self._momentum(), *self._gradients()]

    def summary(self) -> str:
        """Return the findings and the tables for a terminal."""
        parts = [*(f"- {line}" for line in self.findings()), "", self.stiffness.summary(), "", self.profile.summary()]
        return "\n".join([*parts, "", self.comparison.summary()])

    __repr__ = summary

    def as_json(self) -> dict[str, Any]:
        """Return everything in types of JSON; None for what is unknown."""
        return {
            "made_by": MADE_BY,
            "findings": self.findings(),
            "solve": {"method": self.method, "tolerance": self.tolerance, "unit": self.unit},
            "stiffness": self.stiffness.as_json(),
            "profile": self.profile.as_json(),
            "comparison": self.comparison.as_json(),
            **provenance(),
        }

    def figures(self) -> dict[str, Figure]:
        """Draw the figures, by name."""
        figures = {"stiffness": self.stiffness.plot(self.unit)}
        if self.stiffness.eigenvalues is not None:
            figures["spectrum"] = self.stiffness.plot_spectrum(method=self.method, unit=self.unit)
        return figures | {"cost": self.profile.plot(), "comparison": self.comparison.plot()}

    def markdown(self, figures: Sequence[str] = ()) -> str:
        """Return the report in Markdown.

        Parameters
        ----------
        figures
            Names of files to show.
        """
        shown = "".join(f"\n![{Path(name).stem}]({name})\n" for name in figures)
        found = "\n".join(f"- {line}" for line in self.findings())
        return f"""# Diagnosis of {self.stiffness.system}

{found}

Looked at along a solve by {self.method} at rtol = atol = {self.tolerance:g}. Rates are in 1 / {self.unit}.
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

## The same field in other systems

{self.comparison.markdown()}

Medians over times and samples. NFE: evaluations of f, forward and backward. Gradient decay: the norm of the gradient of
the sum of the squares of h(T) at the start of the solve over that at its end. Certificate: whether the bound that keeps
the gradients of a heavy ball from vanishing was found to hold.
"""

    def save(self, folder: Path, formats: Sequence[str] = ("png",)) -> list[str]:
        """Write report.json, report.md and the figures into a folder that exists; return the names.

        Parameters
        ----------
        folder
            Where to write.
        formats
            Of the figures, such as "png" and "svg". The report shows the first.
        """
        names, shown = [], []
        for name, figure in self.figures().items():
            files = [f"{name}.{kind}" for kind in formats]
            for file in files:
                figure.savefig(folder / file, dpi=150)
            names += files
            shown += files[:1]
        (folder / NUMBERS).write_text(
            json.dumps(self.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )
        (folder / "report.md").write_text(self.markdown(shown), encoding="utf-8")
        return [NUMBERS, "report.md", *names]

    def _rates(self) -> str:
        rates = self.stiffness
        n, sample = rates.stiffest()
        where = f"t = {rates.time(n, sample):.4g}" + ("" if sample is None else f", sample {sample}")
        size = float(rates.largest.nan_to_num(0.0).max())
        index = float(rates.index.nan_to_num(0.0).max())
        return f"The fastest mode has |λ| = {short(size)} / {self.unit}, at {where}; stiffness index {short(index)}."

    def _stability(self) -> list[str]:
        """Say where stability, not accuracy, sets the steps."""
        held = [run for run in self.profile.runs if run.stiffness >= HELD_BACK]
        if held:
            worst = max(held, key=_share)
            at = ", ".join(dict.fromkeys(f"{run.method} at {run.tolerance:g}" for run in held))
            return [
                f"Stiff for {at}: stability holds back up to {100 * worst.stiffness:.0f} % of the steps. "
                'method="auto" or an implicit method takes longer ones.'
            ]
        looked = [run for run in self.profile.runs if run.stiffness == run.stiffness]
        return ["Not stiff for the methods tried: accuracy sets their steps, not stability."] if looked else []

    def _cheapest(self) -> list[str]:
        good = [run for run in self.profile.runs if run.failure is None and run.error <= 10 * run.tolerance]
        near = [run for run in good if run.tolerance == self.tolerance] or good
        if not near:
            return []
        best = min(near, key=_total)
        return [
            f"At tolerance {best.tolerance:g}, {best.method} needs the fewest evaluations: {best.nfe} forward and "
            f"{best.nfe_backward} backward, for an error of {best.error:.1e}."
        ]

    def _momentum(self) -> list[str]:
        rows = {row.name: row for row in self.comparison.rows if row.stiffness is not None}
        if not {"node", "hbnode"} <= rows.keys():
            return []
        node, ball = (rows[name].numbers() for name in ("node", "hbnode"))
        return [
            f"With this f, a NODE has max |λ| = {short(node['max |λ|'])} and takes {short(node['nfe'])} evaluations "
            f"({rows['node'].run.method}); a heavy ball {short(ball['max |λ|'])} and {short(ball['nfe'])} "
            f"({rows['hbnode'].run.method})."
        ]

    def _gradients(self) -> list[str]:
        found = [(row.name.upper(), row.numbers()["gradient decay"]) for row in self.comparison.rows]
        known = [f"{short(decay)} in {name}" for name, decay in found if decay == decay]
        return [f"A gradient that arrives with size one at T leaves t_0 with {', '.join(known)}."] if known else []


def diagnose(
    system: System,
    inputs: Inputs | tuple[Any, ...],
    *,
    methods: Sequence[str] | None = None,
    tolerances: Sequence[float] = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7),
    tolerance: float = 1e-6,
    loss: Loss | None = None,
    batch: bool | None = None,
    repeats: int = 3,
    unit: str = "time units",
) -> Diagnosis:
    """Look at a system along a solve: its stiffness, its cost, and the same field in other systems.

    Parameters
    ----------
    system
        A `System`.
    inputs
        `Inputs`, or a tuple ``(h0, t)`` or ``(h0, t, m0)``; t of shape (T,), where the system is looked at.
    methods, tolerances, repeats
        Of the cost, as in `profile`.
    tolerance
        rtol = atol of the solve whose states are looked at, and of the comparison.
    loss, batch
        As in `compare`.
    unit
        Of time, for the labels.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.
    SolverError
        If the system cannot be solved at `tolerance`.
    """
    if not isinstance(system, System):
        raise TypeError(f"system must be a System such as HeavyBall or FirstOrder, got {type(system).__name__}")
    h0, t, m0, args = inputs = as_inputs(inputs)
    method = "dprkn6" if system.damped and system.activation is None else "dopri5"
    with torch.no_grad():
        sol = hbodeint(system, h0, t, m0=m0, args=args, method=method, rtol=tolerance, atol=tolerance)
    rates = stiffness(system, sol, args=args, batch=batch)
    cost = profile(system, inputs, methods=methods, tolerances=tolerances, repeats=repeats)
    comparison = compare(
        _in_other_systems(system), inputs, tolerance=tolerance, loss=loss, batch=batch, repeats=repeats, unit=unit
    )
    return Diagnosis(method, tolerance, rates, cost, comparison, unit)


def _in_other_systems(system: System) -> dict[str, System]:
    """Return the four systems of the same f(t, h), with the coefficients of this one; itself in its place."""
    if system.second_order and not system.damped:
        return {"sonode" if isinstance(system, SecondOrder) else type(system).__name__.lower(): system}
    gamma, xi = (None if c is None else c.detach() for c in system.coefficients())
    others = same_field(system.f, gamma, xi)
    own = "node" if not system.second_order else "hbnode" if xi is None and system.activation is None else "ghbnode"
    return {**others, own: system}


def _share(run: Run) -> float:
    return run.stiffness


def _total(run: Run) -> int:
    return (run.nfe or 0) + (run.nfe_backward or 0)
