"""A map of states around one point: its Jacobian, applied to vectors from either side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Apply = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class StateAxes:
    """Where the samples of a state are: `shape` of the state, and its batch axis (None: it is one sample)."""

    shape: torch.Size
    axis: int | None

    @property
    def samples(self) -> int:
        return 1 if self.axis is None else self.shape[self.axis]

    @property
    def size(self) -> int:
        """Entries P of a sample."""
        return self.shape.numel() // max(self.samples, 1)

    def per_sample(self, x: Tensor) -> Tensor:
        """Return values (n, B) with the axis B only where there is a batch axis."""
        return x[:, 0] if self.axis is None else x

    def rows(self, y: Tensor) -> Tensor:
        """Return states (k, *shape) as vectors (k, B, P)."""
        if self.axis is not None:
            y = y.movedim(1 + self.axis, 1)
        return y.reshape(len(y), self.samples, -1)

    def states(self, rows: Tensor, like: Tensor) -> Tensor:
        """Return vectors (k, B, P) as states (k, *shape), in the dtype and on the device of `like`."""
        shape = list(self.shape)
        if self.axis is not None:
            del shape[self.axis]
            shape.insert(0, self.samples)
        y = rows.to(like).reshape(len(rows), *shape)
        return y if self.axis is None else y.movedim(1, 1 + self.axis)


class Linearised:
    """A map y ↦ fn(y) of states around one point: its value there, and its Jacobian J applied from either side.

    Vectors have shape (k, B, P): k for each of B samples that do not interact, so that one pass serves them all. The
    graph lives as long as the object, and each further product costs a backward pass.
    """

    def __init__(self, fn: Apply, y: Tensor, layout: StateAxes) -> None:
        self.layout = layout
        with torch.enable_grad():
            self.y = y.detach().clone().requires_grad_()
            self.value = fn(self.y)
        self._transposed: tuple[Tensor, Tensor] | None = None

    def pull(self, rows: Tensor) -> Tensor:
        """Return Jᵀ applied to cotangents."""
        return self._product(self.value, self.y, rows)

    def push(self, columns: Tensor) -> Tensor:
        """Return J applied to tangents: the derivative of the linear map u ↦ Jᵀ u, pulled back once more."""
        if self._transposed is None:
            with torch.enable_grad():
                u = torch.zeros_like(self.value, requires_grad=True)
                self._transposed = u, _grad(self.value, self.y, u, create_graph=True)
        u, back = self._transposed
        return self._product(back, u, columns)

    def matrix(self) -> Tensor:
        """Return J of every sample, shape (B, P, P)."""
        samples = self.layout.samples
        eye = torch.eye(self.layout.size, dtype=self.y.dtype, device=self.y.device)
        return self.pull(eye.unsqueeze(1).expand(-1, samples, -1)).transpose(0, 1)

    def _product(self, out: Tensor, of: Tensor, rows: Tensor) -> Tensor:
        return self.layout.rows(_vjp(out, of, self.layout.states(rows, out)))


def _vjp(out: Tensor, of: Tensor, bars: Tensor) -> Tensor:
    """Return the cotangents of `of`, (k, *of), for cotangents (k, *out) of `out`."""
    if not out.requires_grad:  # a constant map, or one that is linear in nothing
        return of.new_zeros(len(bars), *of.shape)
    if len(bars) > 1:
        try:
            return _grad(out, of, bars, is_grads_batched=True).detach()
        except RuntimeError:
            pass  # Not every operation can be batched, such as a custom backward in numpy. An error comes again below.
    return torch.stack([_grad(out, of, bar) for bar in bars]).detach()


def _grad(out: Tensor, of: Tensor, bar: Tensor, **more: bool) -> Tensor:
    if not out.requires_grad:
        return torch.zeros_like(of)
    return torch.autograd.grad(out, of, bar, retain_graph=True, materialize_grads=True, **more)[0]


def of_channels(name: str, c: Tensor | None, h: Tensor, samples: int) -> Tensor:
    """Return a coefficient of states h as it acts on the entries of a sample: shape () if it is one number, else (N,).

    Raises
    ------
    ValueError
        If it differs between samples.
    """
    rows = (h.new_zeros(()) if c is None else c.detach()).expand(h.shape).reshape(samples, -1)
    if bool((rows != rows[0]).any()):
        raise ValueError(f"{name} must be the same for all samples; pass batch=False where it is not")
    return rows[0] if bool((rows[0] != rows[0, 0]).any()) else rows[0, 0]


def asymmetry(right: Tensor, left: Tensor) -> float:
    """Return the largest ‖K v - Kᵀ v‖ / ‖K v‖ of products K v and Kᵀ v (..., P); zero where K v is, NaN if any is."""
    size = torch.linalg.vector_norm(right, dim=-1)
    apart = torch.linalg.vector_norm(right - left, dim=-1) / size.where(size != 0, 1.0)
    return float(apart.max()) if apart.numel() else 0.0


def check_independent(linear: Linearised, name: str) -> None:
    """Raise a ValueError if the first sample of the value depends on another sample of the point, called `name`."""
    layout = linear.layout
    if layout.samples < 2:
        return
    bar = torch.zeros(1, layout.samples, layout.size, dtype=linear.y.dtype)
    bar[0, 0] = torch.randn(layout.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(bar)
    others = linear.pull(bar)[0, 1:].nan_to_num(0.0, 0.0, 0.0)  # NaN says nothing
    if bool((others != 0).any()):
        raise ValueError(f"the samples of {name} must not interact, but the first depends on others; pass batch=False")
