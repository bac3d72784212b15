"""Random cases: everything about one follows from its number, and its description says what it is."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hbode import METHODS
from hbode.solvers import Adams, Auto, Implicit

IMPLICIT = tuple(name for name, method in METHODS.items() if isinstance(method, Implicit | Auto))
SYSTEMS = ("first", "second", "ball", "general", "tanh")


@dataclass(frozen=True)
class Case:
    """One case; `check` is what is looked at besides the values."""

    seed: int
    check: str
    system: str
    field: str
    rate: float
    shape: tuple[int, ...]
    dtype: str
    method: str
    steps: str
    number: int
    gradient: str
    checkpoints: int | None
    times: str
    per_sample: bool
    decreasing: bool
    span: float
    rtol: float
    controller: str
    step_ts: bool
    event: str
    direction: int
    dense: bool
    held: str

    @property
    def implicit(self) -> bool:
        return self.method in IMPLICIT

    @property
    def samples(self) -> bool:
        """Whether every sample has times of its own."""
        return self.per_sample or self.times == "tied"

    @property
    def order(self) -> int:
        return METHODS[self.method].order


def draw(seed: int) -> Case:
    """Return the case of a number."""
    rng = random.Random(seed)
    pick = rng.choice
    check = pick(("values", "first", "first", "second", "second", "reversal", "samples"))
    system = pick(SYSTEMS)
    fitting = [n for n, m in METHODS.items() if _fits(m, system)]
    slow = rng.random() < (0.15 if check == "samples" else 0.35)
    name = pick([n for n in fitting if (n in IMPLICIT) == slow])
    method = METHODS[name]
    dtype = pick(("float64", "float64", "float32", "complex128"))
    if system == "tanh" and dtype == "complex128":
        dtype = "float64"
    if check in ("second", "samples", "reversal") and dtype == "float32":
        dtype = "float64"
    shape = pick(((), (2,), (3, 2), (2, 1, 2)))
    if check == "samples":
        shape = pick(((3, 2), (2, 1, 2), (3, 1)))
    times = pick(("spaced", "spaced", "repeated", "single", "tied"))
    per_sample = check == "samples" or (len(shape) > 1 and check != "reversal" and rng.random() < 0.3)
    if per_sample and times == "tied":
        times = "ragged"
    elif times == "tied" and (len(shape) < 2 or check in ("second", "reversal")):
        times = "spaced"
    samples = per_sample or times == "tied"
    adaptive = method.error_order is not None and rng.random() < 0.7
    grids = ["step_size"] + ([] if samples else ["grid"])
    if method.error_order is None and not samples:
        grids.append("requested")
    steps = "adaptive" if adaptive else pick(grids)
    if times == "tied" and method.error_order is not None:
        steps = "adaptive"
    kinds = ["smooth", "polynomial"]
    if dtype != "complex128":
        kinds.append("kinked")
    if not samples:
        kinds.append("discontinuous")
    fast = (steps == "adaptive" and method.order > 2) or isinstance(method, Implicit)
    if fast and check not in ("reversal", "samples") and dtype != "float32":
        kinds.append("stiff")
    field = pick(kinds)
    gradients = ["discrete_adjoint", "discrete_adjoint", "backprop"]
    if method.explicit_one_step:
        gradients.append("reversible")
    if check == "first" and not samples and steps == "adaptive" and method.order >= 4 and dtype != "float32":
        gradients.append("continuous_adjoint")
    gradient = pick(gradients)
    event = pick(("none", "none", "passing", "terminal"))
    if check == "reversal":
        event = "none"
    sparse = isinstance(method, Implicit | Adams) or method.order < 3
    readable = gradient != "continuous_adjoint" or method.explicit_one_step
    dense = rng.random() < 0.25 and event != "terminal" and readable
    return Case(
        seed=seed,
        check=check,
        system=system,
        field=field,
        rate=pick((20.0, 60.0)),
        shape=shape,
        dtype=dtype,
        method=name,
        steps=steps,
        number=rng.randint(4, 6) if name in IMPLICIT else rng.randint(6, 12),
        gradient=gradient,
        checkpoints=pick((None, 1, 3)) if gradient == "discrete_adjoint" else None,
        times=times,
        per_sample=per_sample,
        decreasing=rng.random() < 0.3 and field != "stiff" and (system, field) != ("first", "polynomial"),
        span=rng.uniform(0.3, 0.8 if sparse else 2.0),
        rtol=10.0 ** -_digits(method.order, dtype, rng),
        controller=pick(("I", "PI", "PID")),
        step_ts=rng.random() < 0.2,
        event=event,
        direction=pick((-1, 0, 1)),
        dense=dense,
        held=pick(("closure", "module", "system")),
    )


def _digits(order: int, dtype: str, rng: random.Random) -> int:
    """Return digits that a method of an order reaches in a few hundred steps at the most."""
    if order < 3:
        return order + 1
    return 4 if dtype == "float32" else rng.randint(3, 5 if order < 5 else 8)


def _fits(method: object, system: str) -> bool:
    damped, identity = method.damped, method.identity_only
    return not damped or system in ("ball", "general") or (system == "tanh" and not identity)
