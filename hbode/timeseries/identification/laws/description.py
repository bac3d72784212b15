"""What a model learned, in physical units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....models.continuous import Limited, NeuralStateSpace, PositionReadout
from ...records import Array, Channel, Scaling
from .port import EnergyLaw, energy_law, has_energy


@dataclass(frozen=True)
class Mode:
    """A mode of the linearised model: frequency in 1/time units of the record, damping ratio, time constant.

    A mode that does not oscillate has the frequency 0 and the ratio NaN.

    Examples
    --------
    >>> from hbode.timeseries.identification import Mode
    >>> Mode(2.0, 0.05, float("inf")).frequency
    2.0
    """

    frequency: float
    damping_ratio: float
    time_constant: float


@dataclass(frozen=True, eq=False)
class Curve:
    """The static restoring force along one output, as an acceleration (or a rate, of a first-order model).

    ``force[i]`` is f at rest at ``position[i]``, in units of the output over time² (time), with the inputs at their
    mean; `stiffness` is its negative slope. `inside` says where training data were.

    Examples
    --------
    >>> import numpy as np
    >>> from hbode.timeseries import Channel
    >>> from hbode.timeseries.identification import Curve
    >>> x = np.linspace(-1, 1, 5)
    >>> Curve(Channel("x"), x, x**3, 3 * x**2, np.ones(5, dtype=bool)).force.shape
    (5,)
    """

    output: Channel
    position: Array
    force: Array
    stiffness: Array
    inside: Array


@dataclass(frozen=True, eq=False)
class Description:
    """What was learned; `print` shows it.

    Attributes
    ----------
    outputs
        Of the model.
    equilibrium
        The outputs where the model rests, with the inputs at their mean; None where it found no rest.
    modes
        Of the model linearised there, by frequency.
    curves
        One an output, where these are positions of the model; else none.
    time
        The unit of time.
    energy
        Of a port-Hamiltonian model whose positions are the outputs: masses, damping, potentials; else None.

    Examples
    --------
    >>> from hbode.timeseries import SystemIdentifier, structure_records
    >>> identifier = SystemIdentifier("hbnode", evaluations=1, initial=10, stretch=50, hidden=2, random_state=0)
    >>> identifier.fit(structure_records(200, seed=0)).describe().driven
    True
    """

    outputs: tuple[Channel, ...]
    equilibrium: Array | None
    modes: tuple[Mode, ...]
    curves: tuple[Curve, ...]
    time: Channel
    driven: bool
    momentum: bool
    """Whether there are inputs, and whether the law is of second order."""
    energy: EnergyLaw | None = None

    def __str__(self) -> str:
        lines = []
        if self.equilibrium is not None:
            rest = ", ".join(
                f"{c.name} = {x:.4g} {c.unit}".rstrip() for c, x in zip(self.outputs, self.equilibrium, strict=True)
            )
            lines.append(f"rests at {rest}" + (", inputs at their mean" if self.driven else ""))
        unit = self.time.unit or "unit of time"
        per = "Hz" if unit == "s" else f"1/{unit}"
        for mode in self.modes:
            if mode.frequency:
                lines.append(f"natural frequency {mode.frequency:.4g} {per}, damping ratio {mode.damping_ratio:.3g}")
            else:
                lines.append(f"time constant {mode.time_constant:.4g} {unit}")
        for curve in self.curves:
            low, high = curve.stiffness[curve.inside].min(), curve.stiffness[curve.inside].max()
            a, b = curve.position[curve.inside][[0, -1]]
            span = f"{a:.4g} to {b:.4g} {curve.output.unit}".rstrip()
            what, power = ("stiffness", "^2") if self.momentum else ("rate of return", "")
            lines.append(f"{what} along {curve.output.name}: {low:.4g} to {high:.4g} 1/{unit}{power} for {span}")
        if self.energy is not None:
            lines += self.energy.lines([curve.output.name for curve in self.curves], unit)
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "equilibrium": None if self.equilibrium is None else self.equilibrium.tolist(),
            "modes": [vars(mode) for mode in self.modes],
            "curves": [
                {
                    "output": str(curve.output),
                    **{k: getattr(curve, k).tolist() for k in ("position", "force", "stiffness", "inside")},
                }
                for curve in self.curves
            ],
            "time_unit": self.time.unit,
            "energy": None if self.energy is None else self.energy.as_json(),
        }


def describe(
    model: NeuralStateSpace, scaling: Scaling, outputs: tuple[Channel, ...], inputs: int, time: Channel, seen: Array
) -> Description:
    """Describe a fitted model.

    Parameters
    ----------
    model
        Fitted.
    scaling, outputs, time
        Of the records.
    inputs
        Channels of u.
    seen
        The least and the greatest training value of each output, standardised, (2, Cy).

    Examples
    --------
    >>> from hbode.timeseries import SystemIdentifier, structure_records
    >>> identifier = SystemIdentifier("hbnode", evaluations=1, initial=10, stretch=50, hidden=2, random_state=0)
    >>> description = identifier.fit(structure_records(200, seed=0)).describe()
    >>> len(description.modes) > 0
    True
    """
    system: Any = model.system
    momentum, d, tau = system.second_order, model.size, scaling.time_unit
    u, now = torch.zeros(inputs, dtype=torch.float64), torch.zeros((), dtype=torch.float64)

    def force(h: Tensor) -> Tensor:
        gamma, xi = system.coefficients()
        y = torch.stack((h, torch.zeros_like(h))) if momentum else h
        out: Tensor = system.rhs(now, y, gamma, xi, u)
        return out[1] if momentum else out

    def slope(z: Tensor) -> Tensor:
        gamma, xi = system.coefficients()
        out: Tensor = system.rhs(now, z.view(2, d) if momentum else z, gamma, xi, u)
        return out.reshape(-1)

    rest = _rest(force, d)
    modes: list[Mode] = []
    if rest is not None:
        z = torch.cat((rest, torch.zeros_like(rest))) if momentum else rest
        jacobian = torch.func.jacrev(slope)(z).detach().numpy() / tau
        for value in np.linalg.eigvals(jacobian):
            if value.imag < 0:
                continue
            size = abs(value)
            oscillates = value.imag > 1e-9 * size
            modes.append(
                Mode(
                    size / (2 * math.pi) if oscillates else 0.0,
                    -value.real / size if oscillates else math.nan,
                    math.inf if value.real == 0 else -1.0 / value.real,
                )
            )
    curves, along = [], []
    readout = model.readout.readout if isinstance(model.readout, Limited) else model.readout
    for i, channel in enumerate(outputs if isinstance(readout, PositionReadout) else ()):
        reach = 0.25 * (seen[1, i] - seen[0, i])
        grid = np.linspace(seen[0, i] - reach, seen[1, i] + reach, 201)
        at = torch.zeros(len(grid), d, dtype=torch.float64) if rest is None else rest.repeat(len(grid), 1)
        at[:, i] = torch.from_numpy(grid)
        along.append(at)
        with torch.no_grad():
            values = torch.stack([force(h) for h in at])[:, i].numpy()
        position = grid * scaling.outputs.std[i] + scaling.outputs.mean[i]
        values = values * scaling.outputs.std[i] / tau ** (2 if momentum else 1)
        inside = (grid >= seen[0, i]) & (grid <= seen[1, i])
        curves.append(Curve(channel, position, values, -np.gradient(values, position), inside))
    physical = None
    if rest is not None:
        with torch.no_grad():
            y: Tensor = model.readout(rest, torch.zeros_like(rest) if momentum else rest[:0], u)
        physical = scaling.outputs.from_standard(y.numpy())
    energy = None
    if has_energy(model):
        energy = energy_law(model, scaling, torch.zeros(d, dtype=torch.float64) if rest is None else rest, along)
    by_frequency = tuple(sorted(modes, key=lambda mode: mode.frequency))
    return Description(outputs, physical, by_frequency, tuple(curves), time, inputs > 0, momentum, energy)


def _rest(force: Any, size: int) -> Tensor | None:
    """Return where the force vanishes, by Newton's method from the mean of the data; None: not found."""
    h: Tensor = torch.zeros(size, dtype=torch.float64)
    for _ in range(50):
        with torch.no_grad():
            now = force(h)
        move = torch.linalg.lstsq(torch.func.jacrev(force)(h).detach(), now.unsqueeze(1)).solution[:, 0]
        h = h - move.clamp(-1, 1)
        if float(move.abs().max()) < 1e-12:
            break
    with torch.no_grad():
        return h if float(force(h).abs().max()) < 1e-8 else None
