"""What `gradient_flow` returns: its numbers, as a table and as a figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...reporting.report import Report, Rows
from ...reporting.style import Picture, draw_band, finish
from ...reporting.tables import Columns, per_sample

# Okabe-Ito colours, told apart in black and white by line.
_HEAVY_BALL, _NODE, _LOSS = "#009E73", "#0072B2", "#D55E00"
_DOTS = (0, (1, 1.2))


@dataclass(frozen=True, eq=False)
class NodeFlow:
    """The propagator Ψ(T, t) = ∂h(T)/∂h(t) of the NODE h' = f(t, h), which no bound keeps from vanishing.

    Attributes
    ----------
    t, measured, rms, log_det, gradient_norm
        As in `GradientFlow`, at the nodes of the NODE's own solve and with N in place of 2N.

    Examples
    --------
    >>> import torch
    >>> from hbode import HeavyBall, hbodeint
    >>> from hbode.analysis import gradient_flow
    >>> system = HeavyBall(lambda t, h: -h, 0.2, trainable=False)
    >>> sol = hbodeint(system, torch.ones(1, 2, dtype=torch.float64), torch.linspace(0, 2, 5), dense=True)
    >>> node = gradient_flow(system, sol).node
    >>> node.measured.shape == node.t.shape
    False
    """

    t: Tensor
    measured: Tensor
    rms: Tensor
    log_det: Tensor
    gradient_norm: Tensor | None


@dataclass(frozen=True, eq=False, repr=False)
class GradientFlow(Report):
    """How Φ(T, t) = ∂(h_T, m_T)/∂(h_t, m_t) of a heavy ball behaves, and whether that is as the theory says.

    All tensors are float64, on the CPU and without a graph. Without a batch axis the axis B is missing. Values that
    leave the range of floats are infinite or zero; the residuals are computed from logarithms.

    Attributes
    ----------
    t
        Nodes of the solve, shape (n + 1,); the last one is T.
    bound
        exp(-γ̄ (T - t) / 2) with γ̄ the mean of γ over the channels, (n + 1,).
    measured, sigma_min
        Largest and smallest singular values of Φ(T, t), (n + 1, B); NaN where a matrix-free analysis did not look.
    rms
        ‖Φ‖_F / √(2N), (n + 1, B): the root mean square of ‖∂L/∂(h_t, m_t)‖ over the unit vectors ∂L/∂(h_T, m_T).
    log_det
        log|det Φ(T, t)|, (n + 1, B).
    gradient_norm
        ‖∂L/∂(h_t, m_t)‖ for the given loss, (n + 1, B).
    pair_sums
        The largest |log s_i + log s_(2N+1-i) + γ (T - t)| over the pairs of singular values of a gradient field,
        (n + 1, B), as far as rounding lets them be known; of the outermost pair in a matrix-free analysis. Not held
        against the tolerance: a badly conditioned Φ magnifies the error of the solve in its small singular values.
    residuals
        By how much each claim is missed (see `gradient_flow`); None where it does not apply, NaN where it could not
        be checked.
    tolerance
        What the residuals are held against.
    gradient_field
        Whether f = -∇V.
    node
        The NODE of the same f; None where it was not asked for or failed.
    notes
        What could not be computed, and why.
    standard_errors
        In a matrix-free analysis: of "log_det", and of "rms" relative to it, (n + 1, B) each.
    unit
        Of time, in labels.

    Examples
    --------
    >>> import torch
    >>> from hbode import HeavyBall, hbodeint
    >>> from hbode.analysis import gradient_flow
    >>> system = HeavyBall(lambda t, h: -h, 0.2, trainable=False)
    >>> sol = hbodeint(system, torch.ones(1, 2, dtype=torch.float64), torch.linspace(0, 2, 5), dense=True)
    >>> gradient_flow(system, sol).gradient_field
    True
    """

    t: Tensor
    bound: Tensor
    measured: Tensor
    sigma_min: Tensor
    rms: Tensor
    log_det: Tensor
    gradient_norm: Tensor | None
    pair_sums: Tensor | None
    residuals: dict[str, float | None]
    tolerance: float
    gradient_field: bool
    node: NodeFlow | None
    notes: tuple[str, ...]
    standard_errors: dict[str, Tensor] | None
    unit: str = "time units"

    @property
    def holds(self) -> bool:
        """Whether every claim that applies is met to the tolerance; one that could not be checked counts as missed."""
        return all(value <= self.tolerance for value in self.residuals.values() if value is not None)

    def headline(self) -> str:
        start, end = float(self.t[0]), float(self.t[-1])
        verdict = "all claims hold" if self.holds else "NOT all claims hold"
        return f"GradientFlow from t = {start:.6g} to T = {end:.6g}, {len(self.t) - 1} steps: {verdict}"

    def table(self) -> Rows:
        found = {
            "lower bound": self.bound,
            "rms": self.rms,
            "sigma_max": self.measured,
            "sigma_min": self.sigma_min,
            "gradient of the loss": self.gradient_norm,
        }
        if self.node is not None:
            found |= {"NODE rms": self.node.rms, "NODE sigma_max": self.node.measured}
            found["NODE gradient of the loss"] = self.node.gradient_norm
        rows: Rows = [(f"at t = {float(self.t[0]):.6g}", "least", "largest")]
        known = {name: x[0] for name, x in found.items() if x is not None}
        return rows + [(name, *(f"{float(end):.4g}" for end in x.aminmax())) for name, x in known.items()]

    def remarks(self) -> list[str]:
        found = {name: value for name, value in self.residuals.items() if value is not None}
        claims = [f"{name}: missed by {value:.2g}, allowed {self.tolerance:.2g}" for name, value in found.items()]
        return [*claims, *super().remarks()]

    def columns(self) -> Columns:
        bound = self.bound.reshape(-1, *[1] * (self.rms.ndim - 1)).expand(self.rms.shape)
        names = {"sigma_max": self.measured, "sigma_min": self.sigma_min, "rms": self.rms, "log_det": self.log_det}
        return per_sample(self.t, {"bound": bound, **names})

    def plot(self, ax: Axes | None = None) -> Figure:
        """Draw singular values, their bound and the gradient of the loss over t, on `ax` or on new axes.

        Lines are medians over the samples, shades reach from 5 to 95 % of them.
        """
        panel = Picture(9, 5).subplots() if ax is None else ax
        _draw(panel, "heavy ball", self, _HEAVY_BALL, "solid")
        look: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1.4}
        panel.plot(self.t.numpy(), self.bound.numpy(), label=r"lower bound of $\sigma_{\max}$, rms", **look)
        sizes = f"{float(self.measured[0].median()):.3g} (heavy ball)"
        if self.node is not None:
            _draw(panel, "NODE", self.node, _NODE, _DOTS)
            sizes += f", {float(self.node.measured[0].median()):.3g} (NODE)"
        title = f"At t = {float(self.t[0]):.4g} {self.unit}: $\\sigma_{{\\max}}$ = {sizes}"
        label = r"size of $\partial(h_T, m_T)\,/\,\partial(h_t, m_t)$; NODE: $\partial h_T\,/\,\partial h_t$"
        finish(panel, f"t ({self.unit})", label, log="y", title=title)
        panel.legend(framealpha=0.9, edgecolor="none")
        return cast(Figure, panel.get_figure(root=True))


def _draw(panel: Axes, name: str, flow: GradientFlow | NodeFlow, color: str, of_loss: Any) -> None:
    """Draw the sizes of one propagator; with markers where only some nodes were measured."""
    curves = (("$\\sigma_{\\max}$", flow.measured, color, "solid"), ("rms", flow.rms, color, _DOTS))
    for label, values, shade, style in (*curves, ("gradient of the loss", flow.gradient_norm, _LOSS, of_loss)):
        if values is not None:
            marker = "o" if bool(values.isnan().any()) else None
            look = {"color": shade, "linestyle": style, "marker": marker, "markevery": 1}
            draw_band(panel, flow.t, values, {**look, "label": f"{name}, {label}"})
