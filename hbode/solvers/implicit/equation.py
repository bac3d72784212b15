"""The equation that a stage of an implicit step leaves, as inner solvers see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

CORRECTED = 0.1
"""What may be left of the residual of a guess."""


ROUNDINGS = 4.0
"""How many roundings of a state may add up in a residual."""


class Secants:
    """Differences of points and those of their residuals, rows (B, n, k), newest first, or none yet.

    One equation leaves them to the next one of nearly the same Jacobian: the stages of a diagonally implicit step have
    one factor of the slope, and Jacobians that differ by what the field's does over the step. On
    `benchmarks/stiff_parts.py` esdirk4 needs about half the evaluations with them. Where the Jacobian changes within a
    step, as on van der Pol's oscillator, they lead astray: a solver must leave them soon if they get it nowhere.
    """

    def __init__(self) -> None:
        self.pairs: tuple[Tensor, Tensor] | None = None


class Answer(NamedTuple):
    """What an inner solver found: z, rows (B, n), and which rows converged, (B,).

    Examples
    --------
    >>> import torch
    >>> from hbode.solvers.implicit.inner import Answer
    >>> Answer(torch.zeros(2, 3), torch.tensor([True, False])).converged
    tensor([ True, False])
    """

    z: Tensor
    converged: Tensor


class Inner(Protocol):
    """A solver of g(z) = 0, row by row.

    Examples
    --------
    >>> from hbode.solvers.implicit.inner import Anderson, Inner
    >>> solver: Inner = Anderson()
    """

    def __call__(self, equation: Equation, z: Tensor, scale: Tensor, limit: float) -> Answer:
        """Iterate from z, rows (B, n), until the root mean square of g / scale is at most `limit` in each row.

        And at most `enough`.
        """
        ...


class Equation:
    """The root of g(z) = z - r(z) for states z, with the products of its Jacobian.

    Samples that are independent of each other are rows (B, n), each with steps and a test of its own in the inner
    solver; a batch that is solved as one is a single row (1, n). Complex numbers are pairs of real ones.

    Parameters
    ----------
    r
        The map whose fixed point is wanted, from and to states.
    like
        A state, for shape and dtype.
    samples
        The axis of the samples, or None for a single row.
    count
        Called with the number of products whenever some are made; r counts its evaluations itself.
    rounding
        By how much z has to move for the last bit of a state to change, a state; what is not given is zero.
    secants
        Those of an equation with nearly the same Jacobian, which an inner solver may use and replace by its own.

    Examples
    --------
    >>> import torch
    >>> from hbode.solvers.implicit.inner import Equation
    >>> equation = Equation(lambda z: 1 - z, torch.zeros(2, 1), 0, lambda products: None)
    >>> equation.residual(torch.zeros(2, 1))  # z - r(z)
    tensor([[-1.],
            [-1.]])
    """

    def __init__(
        self,
        r: Callable[[Tensor], Tensor],
        like: Tensor,
        samples: int | None,
        count: Callable[[int], None],
        rounding: Tensor | None = None,
        secants: Secants | None = None,
    ) -> None:
        self.r, self.samples, self.count = r, samples, count
        self.secants = secants or Secants()
        self.complex = like.is_complex()
        self.shape = like.shape if samples is None else like.movedim(samples, 0).shape
        given = torch.zeros_like(like.real) if rounding is None else rounding.expand(like.shape)
        self.rounding = self.weights(given.to(like.real.dtype))

    def rows(self, x: Tensor) -> Tensor:
        """Return a state as rows (B, n)."""
        if self.complex:
            x = torch.view_as_real(x.resolve_conj())
        if self.samples is None:
            return x.reshape(1, -1)
        x = x.movedim(self.samples, 0)
        return x.reshape(len(x), -1)

    def state(self, rows: Tensor) -> Tensor:
        """Return rows as a state."""
        x = torch.view_as_complex(rows.reshape(*self.shape, 2)) if self.complex else rows.reshape(self.shape)
        return x if self.samples is None else x.movedim(0, self.samples)

    def weights(self, x: Tensor) -> Tensor:
        """Return as rows what real and imaginary parts of a state are measured by."""
        return self.rows(torch.complex(x, x) if self.complex else x)

    @torch.no_grad()
    def residual(self, z: Tensor) -> Tensor:
        """Return g(z), rows (B, n)."""
        return z - self.rows(self.r(self.state(z)))

    def linearised(self, z: Tensor) -> Linear:
        """Return g(z) and its linearisation there, for one evaluation of r."""
        with torch.enable_grad():
            point = z.detach().requires_grad_()
            image = self.rows(self.r(self.state(point)))
        return Linear(point, image, self.count)

    def rounded(self, z: Tensor, scale: Tensor, limit: Tensor) -> Tensor:
        """Return which residuals above the limit are what the rounding of a state leaves of it, (B,).

        Rounding each component comes back as the Jacobian makes it: of a stiff equation, many times as large as the
        error of z. It is measured, by two patterns of signs, as a bound by the length of the Jacobian would let pass
        anything where components are of different size.
        """
        at = self.linearised(z)
        signs = 1 - 2 * (torch.arange(z.shape[1], device=z.device) % 2).to(z.dtype)
        left = torch.maximum(at.product(self.rounding).abs(), at.product(signs * self.rounding).abs())
        return rms(at.value, limit.unsqueeze(1) * scale + ROUNDINGS * left) <= 1


class Linear:
    """The linearisation I - ∂r/∂z of an equation at a point, by its products with rows v (B, n).

    Parameters
    ----------
    point
        The point, as rows or as a state of which `rows` makes them.
    image
        Its image, as rows, with a graph back to the point.
    count
        Called with the number of products.
    """

    def __init__(
        self,
        point: Tensor,
        image: Tensor,
        count: Callable[[int], None],
        rows: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        self.point, self.image, self.count, self.rows = point, image, count, rows
        self.value = (rows(point) - image).detach()
        self._dual: tuple[Tensor, Tensor] | None = None

    def transposed(self, v: Tensor) -> Tensor:
        """Return (I - ∂r/∂z)ᵀ v."""
        self.count(1)
        if not self.image.requires_grad:
            return v
        (product,) = torch.autograd.grad(self.image, self.point, v, retain_graph=True, allow_unused=True)
        return v if product is None else v - self.rows(product)

    def product(self, v: Tensor) -> Tensor:
        """Return (I - ∂r/∂z) v, as the transpose of the transposed product, which is linear."""
        self.count(1)
        if not self.image.requires_grad:
            return v
        if self._dual is None:
            with torch.enable_grad():
                w = torch.zeros_like(self.image, requires_grad=True)
                (back,) = torch.autograd.grad(self.image, self.point, w, create_graph=True, allow_unused=True)
                self._dual = (w, w if back is None else self.rows(back))
        w, back = self._dual
        if back is w or not back.requires_grad:
            return v
        (product,) = torch.autograd.grad(back, w, v, retain_graph=True, allow_unused=True)
        return v if product is None else v - product


def rms(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """Return the root mean square of rows (B, n), in units of a scale, shape (B,)."""
    weighed = x if scale is None else x / scale
    norms: Tensor = torch.linalg.vector_norm(weighed, dim=1) / max(x.shape[1], 1) ** 0.5
    return norms


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Return the products of rows, shape (B, 1)."""
    return (x * y).sum(1, keepdim=True)


def exact_length(downhill: Tensor, direction: Tensor, image: Tensor) -> Tensor:
    """Return the step along a direction that is exact for a quadratic of the curvature seen, shape (B, 1).

    Where the curvature <d, A d> is not positive, the step that makes the residual least instead.
    """
    curvature, size = dot(direction, image), dot(image, image)
    exact = dot(downhill, direction) / curvature
    least = dot(downhill, image) / size
    return torch.where(curvature > 0, exact, torch.where(size > 0, least, 0.0)).nan_to_num(0.0, 0.0, 0.0)


def enough(z: Tensor, g: Tensor, scale: Tensor, limit: float) -> Tensor:
    """Return the limit (B,) of an iteration from z, where the residual is g: a tenth of that, if it is small already.

    So that at least one correction is made, and what it leaves shrinks with the steps as the error of a guess does. A
    residual is not asked to fall below the rounding of z.
    """
    rounding = rms(4 * torch.finfo(z.dtype).eps * z, scale)
    return torch.maximum(CORRECTED * rms(g, scale), rounding).clamp(max=limit)
