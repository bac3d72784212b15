"""How stiffness and cost grow with the size L of the stiffest eigenvalue of a field."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ...reporting.report import Report, Rows
from ...reporting.style import SYSTEM_LINES, Picture, finish
from ...reporting.tables import Columns, median, plain, short
from ...solution import of_batch
from ...systems import FAMILY, FirstOrder, VectorField
from ..cost.profiling import forward_and_backward
from ..inputs import Inputs, as_inputs, sum_of_squares
from ..stiffness.measure import stiffness
from .comparison import same_field

EXPECTED = {name: 1.0 if kind is FirstOrder else 0.5 for name, kind in FAMILY.items()}
"""Powers of L by which max |λ| grows: λ = μ, or λ² + γ λ = μ, for an eigenvalue μ = -L of ∂f/∂h. Of a GHBNODE
only while its momenta are small: for large ones tanh is flat, and μ that of f times its slope."""


QUANTITIES = {"rate": "max |λ|", "nfe": "nfe", "nfe_backward": "nfe backward"}
"""What grows, and its name in reports."""


class Valley(nn.Module):
    """f(t, h) = -∇V(h): a steep valley with a moving floor, whose walls have curvature `steepness`.

    V = ½ Σ_i r_i (h_i - cos(t + i))² + ½ Σ_i log cosh(h_i - cos(t + i)), with rates r_i from 1 to `steepness` in equal
    ratios, in coordinates turned by a random rotation: so that no entry of h is fast or slow by itself. The Jacobian
    -(r + ½ sech²) is symmetric and its spectrum lies within -(r_N + ½) and -r_1.

    Parameters
    ----------
    steepness
        The largest rate L, in 1/time for a NODE, 1/time² for a heavy ball; at least 1.
    size
        Entries of h.
    seed
        Of the rotation.

    Examples
    --------
    >>> import torch
    >>> from hbode.analysis import Valley
    >>> valley = Valley(100.0, size=4)
    >>> valley(torch.tensor(0.0), torch.ones(2, 4, dtype=torch.float64)).shape
    torch.Size([2, 4])
    """

    def __init__(self, steepness: float, size: int = 16, seed: int = 0) -> None:
        super().__init__()
        if not (steepness >= 1 and math.isfinite(steepness)):
            raise ValueError(f"steepness must be at least 1 and finite, got {steepness}")
        if size < 2:
            raise ValueError(f"size must be at least 2, got {size}")
        normal = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.register_buffer("turn", torch.linalg.qr(normal).Q)
        self.register_buffer("rates", torch.logspace(0, math.log10(steepness), size, dtype=torch.float64))
        self.register_buffer("phase", torch.arange(size, dtype=torch.float64))

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        """Return f, shape (..., size) of h, for t of shape () or one that broadcasts to it."""
        turn, rates, phase = (torch.as_tensor(x).to(h) for x in (self.turn, self.rates, self.phase))
        away = h @ turn - torch.cos(t + phase)
        return -(rates * away + 0.5 * torch.tanh(away)) @ turn.mT


@dataclass(frozen=True, eq=False, repr=False)
class Scaling(Report):
    """Stiffness and cost of systems over L.

    Attributes
    ----------
    sizes
        The values of L.
    rate, nfe, nfe_backward
        By system: the median of max |λ| over times and samples, in 1/time, and evaluations forward and backward, one
        entry a size.
    tolerance
        rtol = atol.
    unit
        Of time, in labels.

    Examples
    --------
    >>> import torch
    >>> from hbode.analysis import scaling
    >>> inputs = torch.ones(1, 2, dtype=torch.float64), [0.0, 0.1]
    >>> scaling(lambda size: lambda t, h: -size * h, (10.0, 100.0), inputs, tolerance=1e-3).sizes
    (10.0, 100.0)
    """

    sizes: tuple[float, ...]
    rate: dict[str, tuple[float, ...]]
    nfe: dict[str, tuple[float, ...]]
    nfe_backward: dict[str, tuple[float, ...]]
    tolerance: float
    unit: str

    def slope(self, name: str, quantity: str = "rate") -> float:
        """Return the power of L by which a quantity ("rate", "nfe", "nfe_backward") grows: a fit of logarithms.

        NaN where a value is not known, or is zero, like the evaluations of a backward pass that needs none.
        """
        values: tuple[float, ...] = getattr(self, quantity)[name]
        if not all(0 < value < math.inf for value in values):
            return math.nan
        return float(np.polyfit(np.log(self.sizes), np.log(values), 1)[0])

    def headline(self) -> str:
        return f"Scaling at rtol = atol = {self.tolerance:g}"

    def table(self) -> Rows:
        rows: Rows = [("system", "L", "max |λ|", "NFE forward", "NFE backward")]
        for name in self.rate:
            columns = zip(self.sizes, *self._of(name), strict=True)
            rows += [(name, short(size), short(rate), f"{a:.0f}", f"{b:.0f}") for size, rate, a, b in columns]
            rows.append((name, "power of L", *(self._power(name, quantity) for quantity in QUANTITIES)))
        return rows

    def columns(self) -> Columns:
        """Return one row a system and size."""
        found: dict[str, Sequence[Any]] = {
            "system": [name for name in self.rate for _ in self.sizes],
            "L": [*self.sizes] * len(self.rate),
        }
        values = zip(*(self._of(name) for name in self.rate), strict=True)
        return found | {key: list(chain(*of)) for key, of in zip(QUANTITIES.values(), values, strict=True)}

    def as_json(self) -> dict[str, Any]:
        """Return the numbers in JSON types, None for what is unknown."""
        return {
            "tolerance": self.tolerance,
            "unit": self.unit,
            "L": list(self.sizes),
            "systems": {
                name: {
                    **dict(zip(QUANTITIES.values(), plain(self._of(name)), strict=True)),
                    "powers of L": {quantity: plain(self.slope(name, quantity)) for quantity in QUANTITIES},
                    "expected power of the rate": EXPECTED.get(name),
                }
                for name in self.rate
            },
        }

    def plot(self) -> Figure:
        """Draw the fastest rate and the evaluations over L, with the powers that were found."""
        figure = Picture(11, 4.8)
        rate, nfe = figure.subplots(1, 2)
        for name in self.rate:
            for panel, quantity in ((rate, "rate"), (nfe, "nfe")):
                label = f"{name.upper()}: $L^{{{self._power(name, quantity)}}}$"
                panel.plot(self.sizes, getattr(self, quantity)[name], label=label, markersize=6, **SYSTEM_LINES[name])
        for panel, text in ((rate, rf"max $|\lambda|$ (1 / {self.unit})"), (nfe, "evaluations of the field, forward")):
            panel.set_yscale("log")
            low, high = panel.get_ylim()
            panel.set_ylim(low, high * max((high / low) ** 0.4, 1.5))  # room for the legend
            finish(panel, r"stiffest eigenvalue $L$ of $-\partial f / \partial h$", text, log="xy")
            panel.legend(loc="upper left", framealpha=0.9, edgecolor="none")
        finding = f"The fastest mode grows: {self._found('rate')}\nEvaluations: {self._found('nfe')}"
        figure.suptitle(finding, fontsize=13)
        return figure

    def _of(self, name: str) -> list[tuple[float, ...]]:
        return [getattr(self, quantity)[name] for quantity in QUANTITIES]

    def _power(self, name: str, quantity: str) -> str:
        power = self.slope(name, quantity)
        return "–" if math.isnan(power) else f"{power:.2f}"

    def _found(self, quantity: str) -> str:
        return ", ".join(f"{name.upper()} as $L^{{{self._power(name, quantity)}}}$" for name in self.rate)


@torch.inference_mode(False)
def scaling(
    field: Callable[[float], VectorField],
    sizes: Sequence[float],
    inputs: Inputs | tuple[Any, ...],
    *,
    systems: Sequence[str] = ("node", "hbnode"),
    gamma: float = 1.0,
    method: str | None = None,
    tolerance: float = 1e-6,
    gradient: str = "discrete_adjoint",
    batch: bool | None = None,
    unit: str = "time units",
) -> Scaling:
    """Measure how max |λ| and the evaluations grow with the stiffest eigenvalue of a field.

    For an eigenvalue μ = -L of ∂f/∂h, a NODE has λ = -L, and a heavy ball λ² + γ λ = -L, hence |λ| = √L: an explicit
    solver takes steps in proportion to max |λ| once that is what limits them.

    Parameters
    ----------
    field
        ``field(L)`` returns f(t, h) with the stiffest eigenvalue near -L, such as `Valley`.
    sizes
        Values of L, two or more.
    inputs
        As for `compare`: the same for every L.
    systems
        Which of `same_field`.
    gamma
        Damping γ.
    method
        One for all; default: that of `hbodeint` for each.
    tolerance
        rtol = atol.
    gradient, batch, unit
        As for `compare`.

    Raises
    ------
    ValueError, TypeError
        For arguments that do not fit.
    SolverError
        If a solve fails.

    Source: Xia et al., "Heavy Ball Neural Ordinary Differential Equations", NeurIPS 2021, for λ² + γ λ = μ.

    Examples
    --------
    >>> import torch
    >>> from hbode.analysis import scaling
    >>> inputs = torch.ones(1, 2, dtype=torch.float64), [0.0, 0.1]
    >>> found = scaling(lambda size: lambda t, h: -size * h, (10.0, 100.0), inputs, tolerance=1e-3)
    >>> [round(rate) for rate in found.rate["node"]]
    [10, 100]
    """
    inputs = as_inputs(inputs)
    values = tuple(map(float, sizes))
    if len(set(values)) < 2 or not all(0 < value < math.inf for value in values):
        raise ValueError(f"sizes must be two positive numbers or more, got {list(sizes)}")
    unknown = [name for name in systems if name not in EXPECTED]
    if unknown or not systems:
        raise ValueError(f"systems must be some of {', '.join(EXPECTED)}, got {list(systems)}")
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in systems}  # each system once
    for size in values:
        f = field(size)
        for name in found:
            system = same_field(f, gamma)[name]
            own = inputs if system.second_order else inputs._replace(m0=None)
            with torch.enable_grad():
                sol, _ = forward_and_backward(system, own, method, tolerance, sum_of_squares, gradient=gradient)
            rate = stiffness(system, sol, args=inputs.args, batch=batch).largest
            stats = sol.stats
            found[name].append((median(rate), of_batch(stats.nfe), stats.nfe_backward or 0))
    columns = ({name: tuple(row[k] for row in rows) for name, rows in found.items()} for k in range(len(QUANTITIES)))
    rates, nfe, nfe_backward = columns
    return Scaling(values, rates, nfe, nfe_backward, tolerance, unit)
