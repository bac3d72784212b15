"""The figures of a `Stiffness`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from ...reporting.style import BAND_LABEL, LINES, Picture, draw_band, finish
from ...solvers import METHODS
from .stability import amplification

GROWTH = 1.01
"""Growth a step on what is drawn as the boundary: undamped Nyström methods go over 1 little by little, and where exact
modes neither grow nor decay, what is seen of the level 1 is a matter of rounding."""
POINTS = 200
"""Along either axis of the plane in which a region of stability is drawn."""


def time_figure(title: str, t: Tensor, rates: tuple[Tensor, Tensor, Tensor], ratio: Tensor, unit: str) -> Figure:
    """Draw max |λ|, max |Re λ| and min |Re λ| over time, (T, ...) each, and the stiffness ratio."""
    figure = Picture(11, 4.8)
    left, right = figure.subplots(1, 2)
    labels = (r"max $|\lambda|$", r"max $|$Re $\lambda|$", r"min $|$Re $\lambda|$")
    # max |λ| may be the same line as max |Re λ|, which then shows on top of it.
    for label, values, look, width in zip(labels, rates, (LINES[3], LINES[0], LINES[2]), (4.5, 1.9, 1.9), strict=True):
        draw_band(left, t, values, {**look, "label": label, "linewidth": width})
    draw_band(right, t, ratio, LINES[3])
    ratio_label = r"stiffness ratio max $|$Re $\lambda|$ / min $|$Re $\lambda|$"
    for panel, label in ((left, f"rate (1 / {unit})"), (right, ratio_label)):
        finish(panel, f"t ({unit})", label, log="y", empty="not known")
    handles, names = left.get_legend_handles_labels()
    if ratio.ndim == 2 and ratio.shape[1] > 1:
        handles.append(Patch(color="#888888", alpha=0.3))
        names.append(BAND_LABEL)
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(title, fontsize=13)
    return figure


def spectrum_figure(
    title: str, eigenvalues: Tensor, gamma: float | None, method: str | None, dt: float | None, unit: str
) -> Figure:
    """Draw the eigenvalues of samples, (B, P) or (P,), and the region of stability of a method with steps dt."""
    figure = Picture(9, 6)
    panel = figure.subplots()
    values = eigenvalues.cpu().numpy().reshape(-1)
    values = values[np.isfinite(values)]
    window = _window(values)
    handles: list[Any] = []
    if method is not None and dt is not None:
        x, y = np.linspace(*window[:2], POINTS), np.linspace(*window[2:], POINTS)
        plane = torch.from_numpy(x + 1j * y[:, None])
        growth = amplification(method, plane, dt, gamma).clamp(max=2.0).numpy()
        panel.contourf(x, y, growth, levels=[0.0, GROWTH], colors=["#D9DEE3"])
        panel.contour(x, y, growth, levels=[GROWTH], colors=["#555555"], linewidths=1.2)
        handles.append(Patch(facecolor="#D9DEE3", edgecolor="#555555", label=f"stable: {method}, dt = {dt:.3g} {unit}"))
        title += _stability_title(values, method, dt, gamma)
    panel.axvline(0.0, color="#555555", linewidth=0.9)
    panel.axhline(0.0, color="#555555", linewidth=0.5)
    (dots,) = panel.plot(
        values.real, values.imag, linestyle="none", marker="o", color="#0072B2", markersize=4, alpha=0.55, mew=0.0
    )
    count = eigenvalues.shape[0] if eigenvalues.ndim == 2 else 1
    dots.set_label(f"eigenvalues λ of {f'{count} samples' if count > 1 else 'the state'}")
    handles.insert(0, dots)
    if gamma is not None:
        look: dict[str, Any] = {"color": "#009E73", "linewidth": 1.2, "linestyle": (0, (5, 2))}
        panel.axvline(-gamma / 2, **look)
        handles.append(Line2D([], [], label=r"Re $\lambda = -\gamma / 2$", **look))
    panel.set(xlim=window[:2], ylim=window[2:])
    finish(panel, rf"Re $\lambda$ (1 / {unit})", rf"Im $\lambda$ (1 / {unit})", title=title)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _window(values: Any) -> tuple[float, float, float, float]:
    """Return the limits of the plane: all eigenvalues and the axes with a margin, sides of like length."""
    if not len(values):
        return -1.0, 1.0, -1.0, 1.0
    left, right = min(values.real.min(), 0.0), max(values.real.max(), 0.0)
    top = np.abs(values.imag).max()
    size = max(right - left, 2 * top, 1e-12)
    left, right = left - 0.12 * size, right + 0.12 * size
    if right - left < 0.5 * size:
        middle = 0.5 * (left + right)
        left, right = middle - 0.25 * size, middle + 0.25 * size
    top = max(1.15 * top, 0.35 * (right - left))
    return float(left), float(right), float(-top), float(top)


def _stability_title(values: Any, method: str, dt: float, gamma: float | None) -> str:
    if not len(values):
        return "; no eigenvalue is known"
    grown = amplification(method, torch.from_numpy(values), dt, gamma).numpy()
    own = values.real if gamma is None or not METHODS[method].damped else np.maximum(values.real, -gamma - values.real)
    unstable = float((grown > GROWTH * np.exp(np.maximum(dt * own, 0.0))).mean())
    if unstable == 0:
        growing = " that decays" if bool((own > 0).any()) else ""
        return f"; {method} amplifies no mode{growing}"
    return f"; {method} amplifies {100 * unstable:.2g} % of the modes"
