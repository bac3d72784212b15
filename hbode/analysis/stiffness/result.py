"""What `stiffness` returns: its numbers, as a table and as figures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...reporting.report import Report, Rows
from ...reporting.tables import Columns, median, per_sample, plain, short
from .figures import spectrum_figure, time_figure

QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, eq=False, kw_only=True)
class Rates:
    """What the eigenvalues λ of a Jacobian say, (T, B) each, in 1/time; without a batch axis B is missing.

    Attributes
    ----------
    fastest, slowest
        max |Re λ|, and min |Re λ| over the modes with a real part that is not zero to rounding. NaN: unknown, or none.
    largest
        max |λ|, the oscillatory stiffness.
    abscissa
        max Re λ: whether anything grows, and how fast in the long run.
    log_norm
        The largest eigenvalue of (A + Aᵀ) / 2: how fast anything can grow at once. (Of a heavy ball it depends on the
        units of h and m.)
    growing, neutral
        How many of the P modes grow, and how many neither grow nor decay; -1 where A is not finite. None if only the
        ends of the spectrum are known.
    """

    fastest: Tensor
    slowest: Tensor
    largest: Tensor
    abscissa: Tensor
    log_norm: Tensor
    growing: Tensor | None = None
    neutral: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the same with every rate changed."""
        known = {field.name: getattr(self, field.name) for field in fields(Rates)}
        return replace(self, **{name: change(x) for name, x in known.items() if x is not None})


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Stiffness(Rates, Report):
    """How stiff a system is at each time and for each sample: `Rates`; definitions in `stiffness`.

    Tensors are on the device and in the dtype of the state, without a graph; NaN where the Jacobian is not finite.

    Attributes
    ----------
    system
        The name of its class.
    t
        Times, float64, (T,), or (T, B) where every sample has its own.
    eigenvalues
        All of them, (T, B, P), complex; without a batch axis B is missing. None if only the ends of the spectrum are
        known.
    span
        |T - t_0|, () or (B,).
    gamma, xi
        Where the eigenvalues are pairs λ² + γ λ = μ: γ, and ξ if it is one number.
    how
        Where the eigenvalues come from.
    notes
        What is not known, and why.
    steps
        Lengths of the accepted steps of the solve, where there was one.
    unit
        Of time, in labels.

    Examples
    --------
    >>> import torch
    >>> from hbode import FirstOrder
    >>> from hbode.analysis import stiffness_at
    >>> found = stiffness_at(FirstOrder(lambda t, h: -h * torch.tensor([1.0, 50.0])), [0.0], torch.ones(1, 1, 2))
    >>> round(float(found.fastest.max()), 3)
    50.0
    """

    system: str
    t: Tensor
    eigenvalues: Tensor | None
    span: Tensor
    gamma: float | None
    xi: float | None
    how: str
    notes: tuple[str, ...]
    steps: Tensor | None = None
    unit: str = "time units"

    @property
    def ratio(self) -> Tensor:
        """The stiffness ratio max |Re λ| / min |Re λ|."""
        return self.fastest / self.slowest

    @property
    def index(self) -> Tensor:
        """The stiffness index max |λ| · |T - t_0|, without unit."""
        return self.largest * self.span

    def stiffest(self) -> tuple[int, int | None]:
        """Return the time and the sample of the largest |λ|, as indices; None for the sample without a batch."""
        values = self.largest.nan_to_num(-1.0)
        place = int(values.argmax())
        return (place, None) if values.ndim == 1 else (place // values.shape[1], place % values.shape[1])

    def time(self, n: int, sample: int | None) -> float:
        """Return time `n` of a sample."""
        return float(self.t[n] if self.t.ndim == 1 else self.t[n, sample or 0])

    def where(self) -> str:
        """Return where the stiffest state is, in words."""
        n, sample = self.stiffest()
        return f"t = {self.time(n, sample):.4g}" + ("" if sample is None else f", sample {sample}")

    def quantities(self) -> dict[str, Tensor]:
        """Return what is measured per time and sample, by name."""
        found = {
            "stiffness ratio": self.ratio,
            "max |Re λ|": self.fastest,
            "min |Re λ|": self.slowest,
            "max |λ|": self.largest,
            "max Re λ": self.abscissa,
            "logarithmic norm": self.log_norm,
            "stiffness index": self.index,
        }
        if self.growing is not None and self.neutral is not None:
            found |= {"modes that grow": self.growing, "neutral modes": self.neutral}
        return found

    def headline(self) -> str:
        samples = f", {self.largest.shape[1]} samples" if self.largest.ndim == 2 else ""
        return f"Stiffness of {self.system}: {len(self.t)} times{samples}; rates in 1 / {self.unit}, from {self.how}"

    def table(self) -> Rows:
        """Return quantiles over times and samples, and the largest."""
        rows: Rows = [("", *(f"{100 * q:.0f} %" for q in QUANTILES), "largest")]
        return rows + [(name, *map(short, _spread(values))) for name, values in self.quantities().items()]

    def remarks(self) -> list[str]:
        found = f"stiffest at {self.where()}: max |λ| = {short(float(self.largest.max()))}"
        return [found, *super().remarks()]

    def columns(self) -> Columns:
        """Return one row a time and sample."""
        return per_sample(self.t, self.quantities())

    def as_json(self) -> dict[str, Any]:
        """Return quantiles of the numbers and where the stiffest state is; JSON types, None for what is unknown."""
        numbers = {}
        for name, values in self.quantities().items():
            keys = (*(f"quantile {q:g}" for q in QUANTILES), "largest")
            spread = zip(keys, plain(_spread(values)), strict=True)
            numbers[name] = {"at first": plain(float(values[0].double().mean())), **dict(spread)}
        n, sample = self.stiffest()
        return {
            "system": self.system,
            "from": self.how,
            "times": len(self.t),
            "samples": self.largest.shape[1] if self.largest.ndim == 2 else None,
            "span": plain(float(self.span.max())),
            "gamma": self.gamma,
            "xi": self.xi,
            "numbers": numbers,
            "stiffest": {"t": self.time(n, sample), "sample": sample},
            "notes": list(self.notes),
        }

    def plot(self) -> Figure:
        """Draw the rates and the stiffness ratio over time: medians over the samples, and bands from 5 to 95 %."""
        middle = median(self.index)
        typical = "unknown" if math.isnan(middle) else short(middle)
        fastest = f"{short(float(self.largest.nan_to_num(0.0).max()))} / {self.unit} at {self.where()}"
        title = f"{self.system}: stiffness index {typical} (median), fastest mode {fastest}"
        return time_figure(title, self.t, (self.largest, self.fastest, self.slowest), self.ratio, self.unit)

    def plot_spectrum(self, n: int | None = None, *, method: str | None = None, dt: float | None = None) -> Figure:
        """Draw the eigenvalues of all samples in the complex plane, and where a method is stable.

        Parameters
        ----------
        n
            At which time. Default: that of the largest |λ|.
        method
            Whose region of stability to draw, one of `hbode.METHODS`; none by default.
        dt
            Its step, in units of time. Default: the median of the accepted steps of the solve.

        Raises
        ------
        ValueError
            If only the ends of the spectrum are known, `n` is out of range, the method has no region that is known, or
            there is no step to scale it by.
        """
        if self.eigenvalues is None:
            raise ValueError("the eigenvalues are not known, only the ends of the spectrum; raise dense_limit")
        n = self.stiffest()[0] if n is None else n
        if not -len(self.t) <= n < len(self.t):
            raise ValueError(f"n must be the index of one of {len(self.t)} times, got {n}")
        if dt is None and method is not None:
            seen = _seen(torch.zeros(0) if self.steps is None else self.steps.abs())
            if not len(seen):
                raise ValueError("dt must be given: these rates do not come from a solve with steps")
            dt = float(seen.median())
        fastest = short(float(self.largest[n].nan_to_num(0.0).max()))
        title = rf"{self.system} at t = {self.time(n, None):.4g}: max $|\lambda|$ = {fastest}"
        return spectrum_figure(title, self.eigenvalues[n], self.gamma, method, dt, self.unit)


def _seen(values: Tensor) -> Tensor:
    flat = values.detach().double().cpu().flatten()
    return flat[flat.isfinite()]


def _spread(values: Tensor) -> list[float]:
    """Return the quantiles and the largest of what is known; NaN if nothing is."""
    seen = _seen(values)
    if not len(seen):
        return [math.nan] * (len(QUANTILES) + 1)
    return [*torch.quantile(seen, torch.tensor(QUANTILES, dtype=seen.dtype)).tolist(), float(seen.max())]
