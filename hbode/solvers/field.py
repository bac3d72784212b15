"""What a step sees of the dynamics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Rhs = Callable[[Tensor, Tensor], Tensor]


class Damping(NamedTuple):
    """The linear part of h'' + γ h' + ξ h = f, with what the methods derive from it.

    Each has shape (), or as many axes as h and broadcasts to it. The first two are float64, in which the weights of
    a step are made; those with `_h` have the dtype of the state.

    Examples
    --------
    >>> import torch
    >>> from hbode.solvers import Damping
    >>> Damping.of(torch.tensor(0.1), None, torch.ones(3, 2)).xi_h is None
    True
    """

    gamma: Tensor
    kappa: Tensor
    """κ = γ² / 4 - ξ."""
    gamma_h: Tensor
    kappa_h: Tensor
    xi_h: Tensor | None

    @classmethod
    def of(cls, gamma: Tensor | None, xi: Tensor | None, like: Tensor) -> Damping:
        """Return the damping with coefficients γ and ξ (None: zero) for states such as `like`."""
        if gamma is None:
            gamma = torch.zeros((), dtype=torch.float64, device=like.device)
        gamma = gamma.double()
        kappa = 0.25 * gamma * gamma if xi is None else 0.25 * gamma * gamma - xi
        own = like.dtype
        return cls(gamma, kappa, gamma.to(own), kappa.to(own), None if xi is None else xi.to(own))


class VaryingDamping(NamedTuple):
    """The damping of h'' + γ(t) h' = f.

    γ is a function of a time in the dtype in which the field reads it, and has the form that `Damping` has; `like` has
    the dtype of the state.

    Examples
    --------
    >>> import torch
    >>> from hbode.solvers import VaryingDamping
    >>> damping = VaryingDamping(lambda t: 3 / t, torch.zeros(()))
    """

    gamma: Callable[[Tensor], Tensor]
    like: Tensor

    def at(self, t: Tensor) -> Damping:
        """Return the damping at a time."""
        return Damping.of(self.gamma(t), None, self.like)


class Split(NamedTuple):
    """The two parts of a right-hand side dy/dt; of a force in the damped form, the two forces."""

    stiff: Rhs
    nonstiff: Rhs


class Counts:
    """How often a field was evaluated, products with its Jacobian included, and how many of these were products."""

    __slots__ = ("calls", "products")

    def __init__(self) -> None:
        self.calls = self.products = 0


class Results:
    """Keeps what a field returned as it was, although the field may write to the same memory again.

    The first few results are copied, while the memory of the originals is held: none that comes again can be new.
    Where some memory comes again, be it a buffer, one of several in turn, the argument or a view of these, all further
    results are copied too; where none does, none is, and nothing is held any more.
    """

    __slots__ = ("held", "trusted", "wary")

    LOOKED_AT = 3
    """How many buffers a field may use in turn."""

    def __init__(self) -> None:
        self.held: dict[int, object] = {}
        self.trusted = self.wary = False

    def keep(self, out: Tensor, y: Tensor) -> Tensor:
        """Return what the field returned for the argument y, or a copy."""
        if not self.wary:
            try:
                memory = out.untyped_storage()
                place = memory.data_ptr()
                self.wary = place in self.held or place == y.untyped_storage().data_ptr()
            except RuntimeError:  # in a transform of torch.func, which follows what is written to a tensor
                return out
            self.trusted = not self.wary and len(self.held) == self.LOOKED_AT
            if self.wary or self.trusted:
                self.held.clear()
            else:
                self.held[place] = memory
        return out if self.trusted else out.clone()


class Field:
    """A vector field with its time arguments prepared and its evaluations counted.

    Parameters
    ----------
    fn
        ``fn(t, y)``. For first-order methods it is the right-hand side of ``y' = fn(t, y)``; for damped
        second-order methods it is the force of
        ``h' = σ(m)``, ``m' = -γ m + fn(t, h) - ξ h``.
    dtype
        Real dtype in which ``fn`` receives the time. Steps carry the time in float64.
    damping
        The linear part of the equation: what damped methods add to the force, and what others may know.
    sigma
        For damped methods: the function of the momentum that drives the position (None: the identity).
    diffusion
        For methods with noise: ``diffusion(t, h)``, its strength on the momentum, which broadcasts to h.
    damped_by_position
        For damped methods that can: ``fn(t, h)`` is the force and a damping Γ(t, h), stacked, of
        ``m' = fn(t, h)[0] - fn(t, h)[1] m``.
    split
        The parts that ``fn`` is the sum of, for methods that treat them apart; each evaluation of a part counts as one.
    counts
        How often it was evaluated and how many products were made, shared with the fields that `within` returns, as
        are its results.
    sides
        Times within which it may be evaluated, exclusively; None: at all times. A step that ends on a discontinuity
        sees the field from its own side only, whenever it is evaluated for that step.

    Examples
    --------
    >>> import torch
    >>> from hbode.solvers import Field
    >>> field = Field(lambda t, y: -y, torch.float32)
    >>> field(0.0, torch.ones(2)), field.counts.calls
    (tensor([-1., -1.]), 1)
    """

    __slots__ = (
        *("_damping", "counts", "damped_by_position", "diffusion", "dtype", "fn", "memory", "results", "sides"),
        *("sigma", "split"),
    )

    def __init__(
        self,
        fn: Rhs,
        dtype: torch.dtype,
        damping: Damping | VaryingDamping | None = None,
        sigma: Callable[[Tensor], Tensor] | None = None,
        counts: Counts | None = None,
        sides: tuple[float, float] | None = None,
        diffusion: Rhs | None = None,
        split: Split | None = None,
        damped_by_position: bool = False,
    ) -> None:
        self.fn = fn
        self.dtype = dtype
        self._damping = damping
        self.sigma = sigma
        self.diffusion = diffusion
        self.damped_by_position = damped_by_position
        self.counts = counts or Counts()
        self.sides = sides
        self.split = split
        self.memory: dict[object, Any] = {}
        self.results = Results()

    def __call__(self, t: Tensor | float, y: Tensor) -> Tensor:
        t = self._read(t, y.device)
        if torch.compiler.is_compiling():  # a compiled loop counts its evaluations, and writes to the field's memory
            return self.fn(t, y).clone()
        self.counts.calls += 1
        out, results = self.fn(t, y), self.results
        return out if results.trusted else results.keep(out, y)

    def noise_at(self, t: Tensor | float, h: Tensor) -> Tensor:
        """Return the strength of the noise on the momentum, which broadcasts to h."""
        if self.diffusion is None:
            raise TypeError("the field has no noise, which its method asks for")
        return self.diffusion(self._read(t, h.device), h)

    @property
    def varying(self) -> bool:
        """Whether the damping depends on the time."""
        return isinstance(self._damping, VaryingDamping)

    @property
    def damping(self) -> Damping:
        """The linear part of the equation, where that is constant."""
        if isinstance(self._damping, Damping):
            return self._damping
        if self._damping is not None:
            raise TypeError("the damping of this field depends on the time: a method asks for damping_at(t)")
        self._damping = Damping.of(None, None, torch.zeros((), dtype=self.dtype))
        return self._damping

    def damping_at(self, t: Tensor, dt: Tensor | None = None, c: float = 0.0) -> Damping:
        """Return the linear part of the equation at the time t + c dt, which has the shape of a step's."""
        if not isinstance(self._damping, VaryingDamping):
            return self.damping
        t = (t if dt is None else t + c * dt).to(self.dtype)
        return self._damping.at(t if self.sides is None else self._seen_from(self.sides, t))

    def gamma_at(self, t: Tensor) -> Tensor:
        """Return γ, float64, at a time in the dtype in which the field reads it."""
        if not isinstance(self._damping, VaryingDamping):
            return self.damping.gamma
        return self._damping.gamma(t if self.sides is None else self._seen_from(self.sides, t))

    def at(self, t: Tensor) -> Field:
        """Return the field with the damping that it has at a time, for what looks at that time alone."""
        if not isinstance(self._damping, VaryingDamping):
            return self
        return self._with(damping=self.damping_at(t))

    @property
    def calls(self) -> int:
        """How often the field was evaluated, products with its Jacobian included."""
        return self.counts.calls

    @property
    def products(self) -> int:
        """How many of the evaluations were products."""
        return self.counts.products

    def count_products(self, number: int) -> None:
        """Count products with the Jacobian, each as an evaluation too, which it costs about as much as."""
        self.counts.calls += number
        self.counts.products += number

    def prepared(self, method: object, make: Callable[[], T]) -> T:
        """Return what `method` makes once for this field, such as weights that depend on its damping."""
        if method not in self.memory:
            self.memory[method] = make()
        made: T = self.memory[method]
        return made

    def anew(self) -> Field:
        """Return the same field as nobody has used it yet."""
        return self._with(counts=None, sides=None)

    def parts(self) -> tuple[Field, Field | None]:
        """Return the stiff part, with the linear part of the equation, and the other one, where it is divided."""
        if self.split is None:
            return self, None
        stiff, nonstiff = (self._with(fn=fn, split=None) for fn in self.split)
        stiff.results, nonstiff.results = self.prepared("results of parts", lambda: (Results(), Results()))
        return stiff, nonstiff

    def guarded(self, guard: Callable[[Rhs], Rhs]) -> None:
        """Put a guard around the functions that it evaluates."""
        self.fn = guard(self.fn)
        self.split = self.split and Split(*map(guard, self.split))

    def within(self, sides: tuple[float, float] | None) -> Field:
        """Return the field as it is seen from within an open interval of time, given by its ends in either order."""
        if sides is None:
            return self
        seen = self._with(sides=(min(sides), max(sides)))
        seen.memory, seen.results = self.memory, self.results
        return seen

    def _with(self, **changes: Any) -> Field:
        """Return the field with other settings, which counts its evaluations here but remembers nothing yet."""
        own: dict[str, Any] = {
            "fn": self.fn,
            "dtype": self.dtype,
            "damping": self._damping,
            "sigma": self.sigma,
            "counts": self.counts,
            "sides": self.sides,
            "diffusion": self.diffusion,
            "split": self.split,
            "damped_by_position": self.damped_by_position,
        }
        return Field(**(own | changes))

    def _read(self, t: Tensor | float, device: torch.device) -> Tensor:
        """Return a time as the functions of the field get it."""
        if isinstance(t, float):
            t = torch.scalar_tensor(t, dtype=self.dtype, device=device)
        elif t.dtype != self.dtype:
            t = t.to(self.dtype)
        return t if self.sides is None else self._seen_from(self.sides, t)

    def _seen_from(self, sides: tuple[float, float], t: Tensor) -> Tensor:
        after, before = sides
        inside = t.detach().clamp(min=self._next(after, torch.inf), max=self._next(before, -torch.inf))
        if t.requires_grad:  # a time that was moved by more than its rounding stays where the interval ends
            near = (inside - t.detach()).abs() <= 4 * torch.finfo(self.dtype).eps * inside.abs()
            inside = torch.where(near, t + (inside - t.detach()), inside)
        return inside

    def _next(self, t: float, towards: float) -> float:
        at = torch.tensor(t, dtype=self.dtype)
        return torch.nextafter(at, torch.tensor(towards, dtype=self.dtype)).item()


def damped_slope(field: Field, carry: tuple[Tensor, ...], damping: Damping | None = None) -> Tensor:
    """Return (σ(m), F - γ m - ξ h) stacked, from a carry ((h, m), F) of a damped method.

    With a damping that depends on the time, the one there is to be given.
    """
    h, m = carry[0].unbind()
    drift = m if field.sigma is None else field.sigma(m)
    if field.damped_by_position:
        force, gamma = carry[1].unbind()
        return torch.stack((drift, torch.addcmul(force, gamma, m, value=-1)))
    return torch.stack((drift, acceleration(field.damping if damping is None else damping, carry[1], h, m)))


def acceleration(damping: Damping, force: Tensor, h: Tensor, m: Tensor) -> Tensor:
    """Return F - γ m - ξ h."""
    out = torch.addcmul(force, damping.gamma_h, m, value=-1)
    return out if damping.xi_h is None else torch.addcmul(out, damping.xi_h, h, value=-1)


def checked(out: Any, h: Tensor, path: str = "", name: str = "func") -> Tensor:
    """Return what `name` returned, if it is a tensor of the shape and dtype of h, or of its part at a path.

    Under `torch.autocast` the dtype is what its rules made of the field's, and becomes that of h.
    """
    if not isinstance(out, Tensor):
        raise TypeError(f"{name} must return a tensor{path and ' for h'}{path}, got {type(out).__name__}")
    if out.shape != h.shape:
        raise ValueError(f"{name} must return the shape of h{path}, {tuple(h.shape)}, got {tuple(out.shape)}")
    if out.dtype != h.dtype:
        if torch.is_autocast_enabled(h.device.type) and out.is_floating_point() and h.is_floating_point():
            return out.to(h.dtype)
        raise TypeError(f"{name} must return the dtype of h{path}, {h.dtype}, got {out.dtype}")
    return out
