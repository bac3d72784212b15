"""How a gradient of a loss grows or fades on its way back through a solve, for any system."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...reporting.report import Report, Rows
from ...reporting.style import LINES, Picture, draw_band, finish
from ...reporting.tables import Columns, per_sample, short
from ...solution import Solution
from ..inputs import Loss
from .propagator import Propagator
from .spectrum import scaled


@dataclass(frozen=True, eq=False, repr=False)
class GradientDecay(Report):
    """Sizes of a gradient along a solve.

    Attributes
    ----------
    t
        Nodes of the solve, (n + 1,), float64.
    norm
        ‖∂L/∂y(t)‖, y = (h, m) for a second-order system, (n + 1, B); without a batch axis (n + 1,). Float64, on the
        CPU.
    unit
        Of time, in labels.

    Examples
    --------
    >>> import torch
    >>> from hbode.analysis import GradientDecay
    >>> decay = GradientDecay(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0]))
    >>> decay.norm.shape
    torch.Size([2])
    """

    t: Tensor
    norm: Tensor
    unit: str = "time units"

    @property
    def decay(self) -> Tensor:
        """‖∂L/∂y(t_0)‖ / ‖∂L/∂y(T)‖, shape (B,) or (): below one, the gradient fades. NaN where it is zero at T."""
        return self.norm[0] / self.norm[-1]

    def headline(self) -> str:
        return f"Gradient on its way back from T = {float(self.t[-1]):.6g} {self.unit}, {len(self.t) - 1} steps"

    def table(self) -> Rows:
        rows: Rows = [("", "least", "largest")]
        sizes = {f"size at t = {float(self.t[n]):.6g}": self.norm[n] for n in (0, -1)}
        return rows + [
            (k, short(float(x.min())), short(float(x.max()))) for k, x in (sizes | {"decay": self.decay}).items()
        ]

    def columns(self) -> Columns:
        return per_sample(self.t, {"norm": self.norm})

    def plot(self) -> Figure:
        """Draw the size over t: medians over the samples, and bands from 5 to 95 %."""
        figure = Picture(7, 4)
        panel = figure.subplots()
        draw_band(panel, self.t, self.norm, LINES[3])
        size = r"$\|\partial L / \partial y(t)\|$"
        finish(panel, f"t ({self.unit})", size, log="y", title=self.headline())
        return figure


@torch.inference_mode(False)
@torch.no_grad()
def gradient_decay(sol: Solution, loss: Loss, batch: bool | None = None, unit: str = "time units") -> GradientDecay:
    """Follow the gradient of a loss back through the accepted steps of a solve, by one product a step.

    Parameters
    ----------
    sol
        ``hbodeint(..., dense=True)`` of a real state, with one time axis and a one-step method.
    loss
        ``loss(h_T, m_T)`` returns one number, summed over a batch. m_T is zero for a first-order system, and so is the
        gradient of what does not depend on h_T.
    batch
        Whether the first axis of h0 holds samples that do not interact. Default: whether h0 has two axes or more.
    unit
        Of time, for the labels.

    Raises
    ------
    TypeError
        If `sol` is no `Solution`, the state is complex, or the loss is not one real number.
    ValueError
        If the solve cannot be followed (see `Solution.trajectory`), samples interact, or the loss does not depend on
        the state.

    Examples
    --------
    >>> import torch
    >>> from hbode import FirstOrder, hbodeint
    >>> from hbode.analysis import gradient_decay
    >>> sol = hbodeint(FirstOrder(lambda t, h: -h), torch.ones(1, 2), [0.0, 1.0], dense=True)
    >>> round(float(gradient_decay(sol, lambda h, m: h.sum()).decay), 3)  # exp(-1)
    0.368
    """
    propagator = Propagator(sol, batch)
    rows, size = scaled(propagator.loss_gradient(loss))
    norm = size.expand(propagator.count + 1, -1).clone()
    for n in range(propagator.count - 1, -1, -1):
        rows, grown = scaled(propagator.step(n).pull(rows))
        norm[n] = norm[n + 1] + grown[0]
    return GradientDecay(propagator.t, propagator.layout.per_sample(norm.exp()), unit)
