"""How near a step is to the boundary of stability, from stages that are there already.

A linear combination of stage values and the same combination of the slopes there differ by the Jacobian, if the
combination leaves nothing of a smooth solution: the difference of two stages at the same node (Hairer, Wanner, Solving
Ordinary Differential Equations II, 1996, IV.2), or the divided difference of several. The ratio of their norms is the
largest |λ| that shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...linear import norms
from .tableau import ButcherTableau, NystromTableau

Array = npt.NDArray[np.float64]
_AXIS = np.geomspace(0.1, 100.0, 1000)
"""Where the boundary is looked for."""
GROWTH = 1.01
"""By how much an error grows in a step on what is taken as the boundary: Nyström methods go over 1 little by little."""
BOUNDARY = 0.7
"""From which share of the boundary on a step counts as held back by stability."""
EVERY = 8
"""One in so many accepted steps is looked at where the host runs the loop."""


class Probe(NamedTuple):
    """Weights of the stages, the first left out, and the boundary of stability: the largest dt |λ|, or dt² |μ|."""

    weights: tuple[float, ...]
    boundary: float

    def ratio(self, stage: Callable[[int], Tensor], slope: Callable[[int], Tensor], dt: Tensor, axes: int) -> Tensor:
        """Return dt |λ| over the boundary, () or (B,), from stages and slopes by number.

        dt has shape (), or (B, 1, …) up to axes of length one; the last `axes` of a state begin with the samples, or
        there are none.
        """
        with torch.no_grad():
            used = [(i, w) for i, w in enumerate(self.weights, 1) if w]
            size, rate = (norms(_weighed(of, used), axes) for of in (stage, slope))
            scaled = dt.detach().abs().reshape(size.shape) * rate / self.boundary
            return torch.where(size > 0, scaled / size, 0.0)


def probe(tableau: ButcherTableau | NystromTableau) -> Probe:
    """Return the probe of a method; dt² |μ| is for a Nyström method with h'' = μ h."""
    along_axis = _growth_of_nystrom if isinstance(tableau, NystromTableau) else _growth_of_runge_kutta
    unstable = along_axis(tableau, _AXIS) > GROWTH  # type: ignore[arg-type]
    return Probe(_difference(tableau.c[1:]), float(_AXIS[np.argmax(unstable)]))


def _difference(c: Sequence[float]) -> tuple[float, ...]:
    """Return the weights of the last two stages, if they have one node, or of the divided difference over all nodes."""
    if c[-1] == c[-2]:
        return (*[0.0] * (len(c) - 2), -1.0, 1.0)
    place = {node: i for i, node in enumerate(c)}
    weights = [0.0] * len(c)
    for node, i in place.items():
        weights[i] = 1 / math.prod(node - other for other in place if other != node)
    largest = max(map(abs, weights))
    return tuple(w / largest for w in weights)


def _growth_of_runge_kutta(tableau: ButcherTableau, z: Array) -> Array:
    """Return |R(-z)|."""
    slopes: list[Array] = []
    for row in tableau.a:
        slopes.append(-z * _moved(np.ones_like(z), row, slopes))
    return np.abs(_moved(np.ones_like(z), tableau.a[-1], slopes))


def _growth_of_nystrom(tableau: NystromTableau, z: Array) -> Array:
    """Return the spectral radius of a step of length one on u'' = -z u."""
    position, velocity = np.eye(2)[:, None] * np.ones_like(z)[:, None]
    forces: list[Array] = []
    for c, row in zip(tableau.c, tableau.a, strict=True):
        forces.append(-z[:, None] * _moved(position + c * velocity, row, forces))
    ends = _moved(position + velocity, tableau.a[-1], forces), _moved(velocity, tableau.bp, forces)
    radii: Array = np.abs(np.linalg.eigvals(np.stack(ends, 1))).max(1)
    return radii


def _moved(start: Array, weights: Sequence[float], slopes: list[Array]) -> Array:
    return start + sum((w * k for w, k in zip(weights, slopes, strict=False)), np.zeros_like(start))


def _weighed(of: Callable[[int], Tensor], used: list[tuple[int, float]]) -> Tensor:
    total = used[0][1] * of(used[0][0])
    for i, weight in used[1:]:
        total = torch.add(total, of(i), alpha=weight)
    return total
