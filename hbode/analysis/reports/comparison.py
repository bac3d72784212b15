"""Systems side by side: how stiff they are, what they cost, whether their gradients survive."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...setup.arguments import default_method
from ...systems import FirstOrder, GeneralizedHeavyBall, HeavyBall, SecondOrder, System, VectorField
from ..cost.measuring import untouched
from ..cost.profiling import profile
from ..gradients.decay import gradient_decay
from ..gradients.flow import gradient_flow
from ..inputs import Inputs, Loss, as_inputs, solve, sum_of_squares
from ..stiffness.measure import stiffness
from .comparison_result import Compared, Comparison


class _WithoutMomentum(nn.Module):
    """f(t, h) as a field f(t, h, m) of a SONODE."""

    def __init__(self, f: VectorField) -> None:
        super().__init__()
        self.f = f

    def forward(self, t: Tensor, h: Tensor, m: Tensor, *args: Any) -> Tensor:
        out: Tensor = self.f(t, h, *args)
        return out


def same_field(
    f: VectorField, gamma: float | Tensor | None = None, xi: float | Tensor | None = None
) -> dict[str, System]:
    """Return the four systems that are compared, all with the same f(t, h).

    Parameters
    ----------
    f
        ``f(t, h, *args)``, shape of h.
    gamma, xi
        Damping γ and restoring coefficient ξ, with the defaults of `HeavyBall` and `GeneralizedHeavyBall`; fixed.

    Returns
    -------
    dict
        "node": h' = f. "sonode": h'' = f, without damping. "hbnode": h'' + γ h' = f. "ghbnode": h' = tanh(m),
        m' = -γ m + f - ξ h.

    Examples
    --------
    >>> from hbode.analysis import same_field
    >>> list(same_field(lambda t, h: -h))
    ['node', 'sonode', 'hbnode', 'ghbnode']
    """
    return {
        "node": FirstOrder(f),
        "sonode": SecondOrder(_WithoutMomentum(f)),
        "hbnode": HeavyBall(f, gamma, trainable=False),
        "ghbnode": GeneralizedHeavyBall(f, gamma, xi, trainable=False),
    }


@torch.inference_mode(False)
def compare(
    systems: Mapping[str, System] | VectorField,
    inputs: Inputs | tuple[Any, ...],
    *,
    method: str | None = None,
    tolerance: float = 1e-6,
    loss: Loss | None = None,
    gradient: str = "discrete_adjoint",
    batch: bool | None = None,
    dense_limit: int = 128,
    repeats: int = 1,
    unit: str = "time units",
) -> Comparison:
    """Solve systems from the same start, and compare stiffness, evaluations, gradients and errors.

    Parameters
    ----------
    systems
        Systems by name; or a field f(t, h), for the four of `same_field`.
    inputs
        `Inputs`, or a tuple ``(h0, t)`` or ``(h0, t, m0)``; t of shape (T,), where stiffness is measured. First-order
        systems start without m0.
    method
        One for all; default: that of `hbodeint` for each.
    tolerance
        rtol = atol.
    loss
        ``loss(h_T, m_T)`` returns one number, summed over a batch; default: the sum of the squares of h_T. m_T is zero
        for a first-order system.
    gradient
        The mode of the backward pass, as for `hbodeint`.
    batch
        Whether the first axis of h0 holds samples that do not interact. Default: whether h0 has two axes or more.
    dense_limit
        For heavy balls with 2N up to this, N being the entries of a sample, the certificate of `gradient_flow` is
        asked for.
    repeats
        Of the timing.
    unit
        Of time, for the labels.

    Returns
    -------
    Comparison
        One row a system, its table and its figure. A system that could not be solved is a row with a failure.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit.

    Examples
    --------
    >>> import torch
    >>> from hbode.analysis import compare
    >>> found = compare(lambda t, h: -h, (torch.ones(2, 1, dtype=torch.float64), [0.0, 1.0]), tolerance=1e-4)
    >>> [row.name for row in found.rows]
    ['node', 'sonode', 'hbnode', 'ghbnode']
    """
    if isinstance(systems, System):
        raise TypeError(f"systems must be a mapping of names to systems or a field, got a {type(systems).__name__}")
    named = dict(systems) if isinstance(systems, Mapping) else same_field(systems)
    if not named or not all(isinstance(s, System) for s in named.values()):
        raise TypeError("systems must map names to systems, at least one")
    inputs = as_inputs(inputs)
    loss = loss or sum_of_squares
    batch = inputs.h0.ndim >= 2 if batch is None else batch
    sample = math.prod(inputs.h0.shape[int(batch) :])
    given: dict[str, Any] = {"gradient": gradient, "loss": loss, "repeats": repeats, "memory": False, "unit": unit}
    rows = []
    for name, system in named.items():
        own = inputs if system.second_order else inputs._replace(m0=None)
        picked = method or default_method(system)
        rates = decay = certificate = None
        with untouched(system, inputs.h0.device):
            cost = profile(system, own, methods=[picked], tolerances=[tolerance], **given)
            run, notes = cost.runs[0], list(cost.notes)
            if run.failure is None:
                with torch.no_grad():
                    sol = solve(system, own, picked, tolerance, dense=True)
                rates = stiffness(system, sol, args=inputs.args, batch=batch, unit=unit)
                try:
                    decay = gradient_decay(sol, loss, batch, unit)
                    if system.damped and 2 * sample <= dense_limit:
                        limits: dict[str, Any] = {"node": False, "dense_limit": dense_limit}
                        certificate = gradient_flow(system, sol, batch=batch, unit=unit, **limits)
                except ValueError as error:  # of the method or the field: the arguments have been checked by now
                    notes.append(f"gradients: {error}")
        rows.append(Compared(name, system, run, rates, decay, certificate, tuple(notes)))
    return Comparison(tuple(rows), tolerance, unit)
