"""What `stiffness` returns: its numbers, as a table and as figures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...reporting.tables import aligned, data_frame, median, plain, short
from .figures import spectrum_figure, time_figure

QUANTILES = (0.05, 0.5, 0.95)


class Rates(NamedTuple):
    """What the eigenvalues λ of a Jacobian say, (T, B) each, in 1/time; without a batch axis B is missing.

    Attributes
    ----------
    fastest, slowest
        max |Re λ|, and min |Re λ| over the modes with a real part that is not zero to rounding. NaN: unknown, or none.
    largest
        max |λ|.
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
    growing: Tensor | None
    neutral: Tensor | None

    def each(self, change: Callable[[Tensor], Tensor]) -> Rates:
        """Return the same with every tensor changed."""
        changed: list[Any] = [None if x is None else change(x) for x in self]
        return Rates(*changed)


@dataclass(frozen=True, eq=False, repr=False)
class Stiffness:
    """How stiff a system is at each time and for each sample; definitions in `stiffness`.

    Tensors are on the device and in the dtype of the state, without a graph; NaN where the Jacobian is not finite.

    Attributes
    ----------
    system
        The name of its class.
    t
        Times, float64, (T,), or (T, B) where every sample has its own.
    rates
        `Rates`; its entries are attributes here too.
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
    """

    system: str
    t: Tensor
    rates: Rates
    eigenvalues: Tensor | None
    span: Tensor
    gamma: float | None
    xi: float | None
    how: str
    notes: tuple[str, ...]
    steps: Tensor | None = None

    @property
    def fastest(self) -> Tensor:
        """max |Re λ|."""
        return self.rates.fastest

    @property
    def slowest(self) -> Tensor:
        """min |Re λ|, over the modes that decay or grow."""
        return self.rates.slowest

    @property
    def largest(self) -> Tensor:
        """max |λ|, the oscillatory stiffness."""
        return self.rates.largest

    @property
    def abscissa(self) -> Tensor:
        """max Re λ."""
        return self.rates.abscissa

    @property
    def log_norm(self) -> Tensor:
        """The logarithmic norm."""
        return self.rates.log_norm

    @property
    def growing(self) -> Tensor | None:
        """How many modes grow."""
        return self.rates.growing

    @property
    def neutral(self) -> Tensor | None:
        """How many modes neither grow nor decay."""
        return self.rates.neutral

    @property
    def ratio(self) -> Tensor:
        """The stiffness ratio max |Re λ| / min |Re λ|."""
        return self.rates.fastest / self.rates.slowest

    @property
    def index(self) -> Tensor:
        """The stiffness index max |λ| · |T - t_0|, without unit."""
        return self.rates.largest * self.span

    def stiffest(self) -> tuple[int, int | None]:
        """Return the time and the sample of the largest |λ|, as indices; None for the sample without a batch."""
        values = self.largest.nan_to_num(-1.0)
        place = int(values.argmax())
        return (place, None) if values.ndim == 1 else (place // values.shape[1], place % values.shape[1])

    def time(self, n: int, sample: int | None) -> float:
        """Return time `n` of a sample."""
        return float(self.t[n] if self.t.ndim == 1 else self.t[n, sample or 0])

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

    def summary(self) -> str:
        """Return the numbers as a table of quantiles over times and samples, and where the stiffest state is."""
        samples = f", {self.largest.shape[1]} samples" if self.largest.ndim == 2 else ""
        lines = [f"Stiffness of {self.system}: {len(self.t)} times{samples}; from {self.how}"]
        rows = [("", *(f"{100 * q:.0f} %" for q in QUANTILES), "largest")]
        for name, values in self.quantities().items():
            rows.append((name, *map(short, _spread(values))))
        lines += aligned(rows)
        n, sample = self.stiffest()
        where = "" if sample is None else f", sample {sample}"
        lines.append(f"stiffest at t = {self.time(n, sample):.6g}{where}: max |λ| = {short(float(self.largest.max()))}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    __repr__ = summary

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

    def to_dataframe(self) -> Any:
        """Return one row a time and sample as a pandas table.

        Raises
        ------
        ImportError
            Without pandas.
        """
        shape = self.largest.shape
        t = self.t if self.t.shape == shape else self.t.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
        columns = {"t": t.reshape(-1)}
        if len(shape) == 2:
            columns["sample"] = torch.arange(shape[1]).repeat(shape[0])
        columns |= {name: values.reshape(-1) for name, values in self.quantities().items()}
        return data_frame(columns)

    def plot(self, unit: str = "time units") -> Figure:
        """Draw the rates and the stiffness ratio over time: medians over the samples, and bands from 5 to 95 %.

        Parameters
        ----------
        unit
            Of time, for the labels.
        """
        n, sample = self.stiffest()
        place = f"t = {self.time(n, sample):.4g}"
        if sample is not None and self.largest.shape[1] > 1:
            place += f", sample {sample}"
        middle = median(self.index)
        typical = "unknown" if math.isnan(middle) else short(middle)
        fastest = short(float(self.largest.nan_to_num(0.0).max()))
        title = f"{self.system}: stiffness index {typical} (median), fastest mode {fastest} / {unit} at {place}"
        return time_figure(title, self.t, (self.largest, self.fastest, self.slowest), self.ratio, unit)

    def plot_spectrum(
        self,
        n: int | None = None,
        *,
        method: str | None = None,
        dt: float | None = None,
        unit: str = "time units",
    ) -> Figure:
        """Draw the eigenvalues of all samples in the complex plane, and where a method is stable.

        Parameters
        ----------
        n
            At which time. Default: that of the largest |λ|.
        method
            Whose region of stability to draw, one of `hbode.METHODS`; none by default.
        dt
            Its step, in units of time. Default: the median of the accepted steps of the solve.
        unit
            Of time, for the labels.

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
        return spectrum_figure(title, self.eigenvalues[n], self.gamma, method, dt, unit)


def _seen(values: Tensor) -> Tensor:
    flat = values.detach().double().cpu().flatten()
    return flat[flat.isfinite()]


def _spread(values: Tensor) -> list[float]:
    """Return the quantiles and the largest of what is known; NaN if nothing is."""
    seen = _seen(values)
    if not len(seen):
        return [math.nan] * (len(QUANTILES) + 1)
    return [*torch.quantile(seen, torch.tensor(QUANTILES, dtype=seen.dtype)).tolist(), float(seen.max())]
