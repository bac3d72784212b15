"""What `gradient_flow` returns: its numbers, as a table and as a figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...reporting.style import Picture

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
    """

    t: Tensor
    measured: Tensor
    rms: Tensor
    log_det: Tensor
    gradient_norm: Tensor | None


@dataclass(frozen=True, eq=False, repr=False)
class GradientFlow:
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

    @property
    def holds(self) -> bool:
        """Whether every claim that applies is met to the tolerance; one that could not be checked counts as missed."""
        return all(value <= self.tolerance for value in self.residuals.values() if value is not None)

    def __repr__(self) -> str:
        start, end = float(self.t[0]), float(self.t[-1])
        lines = [f"GradientFlow from t = {start:.6g} to T = {end:.6g}, {len(self.t) - 1} steps"]
        rows: list[tuple[str, Tensor | None]] = [
            ("lower bound", self.bound),
            ("rms", self.rms),
            ("sigma_max", self.measured),
            ("sigma_min", self.sigma_min),
            ("gradient of the loss", self.gradient_norm),
        ]
        if self.node is not None:
            rows += [
                ("NODE rms", self.node.rms),
                ("NODE sigma_max", self.node.measured),
                ("NODE gradient of the loss", self.node.gradient_norm),
            ]
        lines.append(f"  {f'at t = {start:.6g}':<28}{'least':>12}{'largest':>12}")
        for name, values in rows:
            if values is not None:
                lines.append(f"  {name:<28}{float(values[0].min()):>12.4g}{float(values[0].max()):>12.4g}")
        lines.append(f"  {'residual':<28}{'found':>12}{'allowed':>12}")
        for name, value in self.residuals.items():
            shown = "none" if value is None else f"{value:.2g}"
            lines.append(f"  {name:<28}{shown:>12}{'' if value is None else f'{self.tolerance:.2g}':>12}".rstrip())
        lines.append(f"  {'all hold' if self.holds else 'NOT all hold'}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def plot(self, ax: Axes | None = None) -> Figure:
        """Draw singular values, their bound and the gradient of the loss over t, for heavy ball and NODE.

        Lines are medians over the samples, shades reach from the least sample to the largest.

        Parameters
        ----------
        ax
            Where to draw. Default: a figure of its own.

        Returns
        -------
        Figure
            The one drawn on.
        """
        figure = Picture(9, 5) if ax is None else ax.figure
        panel = figure.subplots() if ax is None else ax
        _curve(panel, self.t, self.measured, r"heavy ball, $\sigma_{\max}$", _HEAVY_BALL)
        _curve(panel, self.t, self.rms, "heavy ball, rms", _HEAVY_BALL, linestyle=_DOTS)
        panel.plot(
            self.t.numpy(), self.bound.numpy(), "k--", linewidth=1.4, label=r"lower bound of $\sigma_{\max}$, rms"
        )
        if self.gradient_norm is not None:
            _curve(panel, self.t, self.gradient_norm, "heavy ball, gradient of the loss", _LOSS)
        title = (
            f"At t = {float(self.t[0]):.4g}: $\\sigma_{{\\max}}$ = {float(self.measured[0].median()):.3g} (heavy ball"
        )
        if self.node is not None:
            _curve(panel, self.node.t, self.node.measured, r"NODE, $\sigma_{\max}$", _NODE)
            _curve(panel, self.node.t, self.node.rms, "NODE, rms", _NODE, linestyle=_DOTS)
            if self.node.gradient_norm is not None:
                _curve(
                    panel, self.node.t, self.node.gradient_norm, "NODE, gradient of the loss", _LOSS, linestyle=_DOTS
                )
            title += f"), {float(self.node.measured[0].median()):.3g} (NODE"
        panel.set_title(f"{title})", loc="left", fontsize=11)
        panel.set_yscale("log")
        panel.set_xlabel("t")
        panel.set_ylabel(r"size of $\partial(h_T, m_T)\,/\,\partial(h_t, m_t)$; NODE: $\partial h_T\,/\,\partial h_t$")
        panel.grid(alpha=0.25)
        panel.legend(framealpha=0.9, edgecolor="none")
        return figure if isinstance(figure, Figure) else figure.figure


def _curve(panel: Axes, t: Tensor, values: Tensor, label: str, color: str, linestyle: Any = "solid") -> None:
    """Draw the median over samples and the range around it; with markers where only some nodes were measured."""
    rows = values.reshape(len(t), -1)
    seen = ~rows.isnan().any(1)
    x, y = t[seen].numpy(), rows[seen].numpy()
    y = np.where((y > 0) & np.isfinite(y), y, math.nan)
    marker = None if bool(seen.all()) else "o"
    panel.plot(
        x, np.median(y, 1), label=label, color=color, linestyle=linestyle, linewidth=1.9, marker=marker, markersize=4.5
    )
    if y.shape[1] > 1:
        panel.fill_between(x, y.min(1), y.max(1), color=color, alpha=0.12, linewidth=0)
