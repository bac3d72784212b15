"""First and second derivatives, against differences in double precision of the same computation on the same steps."""

from __future__ import annotations

import torch
from stress.bounds import TIGHT, Kink, require
from stress.problems import Leaves, Problem, couples
from stress.values import stop_time
from torch import Tensor

from hbode.solution import of_batch


def weights(problem: Problem, outputs: list[Tensor], sol) -> list[Tensor]:
    """Return random weights, zero for rows so near to a terminal event that differences move them across it."""
    case = problem.case
    rng = torch.Generator().manual_seed(case.seed)
    w = [torch.randn(y.shape, generator=rng, dtype=y.dtype) for y in outputs]
    if case.event == "terminal":
        t, samples = problem.values["t"], range(case.shape[0]) if case.samples else [None]
        for sample in samples:
            stop = stop_time(problem, sol, sample)
            if stop is not None:
                near = (t if sample is None or t.ndim == 1 else t[sample]).sub(stop).abs() < 0.03 * case.span
                for rows in w[: 2 if sol.m is not None else 1]:
                    rows[near, ... if sample is None else sample] = 0.0
    return w


def loss(outputs: list[Tensor], w: list[Tensor]) -> Tensor:
    if any(y.shape != c.shape for y, c in zip(outputs, w, strict=True)):
        raise Kink
    return sum(inner(y, c) for y, c in zip(outputs, w, strict=True))


def whole(y: Tensor) -> Tensor:
    """Return rows with zeros for those that were not reached."""
    return torch.where(y.isnan(), 0.0, y)


def inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b.to(a.dtype)).real.sum().double()


def direction(x: Leaves, seed: int, sol) -> Leaves:
    """Return a random direction in the space of the leaves.

    It keeps repeated times together. Times next to the end of a step stay: interpolants have kinks there.
    """
    rng = torch.Generator().manual_seed(seed + 1)
    kinds = {k: torch.promote_types(y.dtype, torch.float64) for k, y in x.items()}
    v = {k: torch.randn(y.shape, generator=rng, dtype=kinds[k]) for k, y in x.items()}
    t, nodes = x["t"].detach(), sol.stats.t.T.unsqueeze(-1)  # (n, 1) or (B, n, 1)
    for i in range(1, t.shape[-1]):
        same = t[..., i] == t[..., i - 1]
        v["t"][..., i] = torch.where(same, v["t"][..., i - 1], v["t"][..., i])
    gap = (nodes - t.unsqueeze(-2)).abs()
    near = ((gap > 1e-12) & (gap < 0.01)).any(-2) & (t != t[..., :1]) & (t != t[..., -1:])
    still = near | (near.any(-1, keepdim=True) & (t == t[..., :1]))  # steps move with the first time
    v["t"] *= 0.3 * ~still
    return v


def shifted(problem: Problem, v: Leaves, s: float, dtype: str) -> Leaves:
    x = problem.leaves(dtype)
    return {k: (y.detach() + s * v[k]).requires_grad_() for k, y in x.items()}


def grads(value: Tensor, x: Leaves, create_graph: bool = False) -> Leaves:
    found = torch.autograd.grad(value, list(x.values()), create_graph=create_graph, allow_unused=True)
    return {k: torch.zeros_like(y) if g is None else g for (k, y), g in zip(x.items(), found, strict=True)}


def along(g: Leaves, v: Leaves) -> Tensor:
    return sum(inner(g[k], v[k]) for k in g)


def length(g: Leaves, v: Leaves) -> float:
    return sum(float(g[k].detach().abs().double().square().sum() * v[k].abs().square().sum()) ** 0.5 for k in g)


def differences(phi, problem: Problem, size: float) -> tuple[float, float]:
    """Return the derivative of φ at 0 by fourth-order differences, and how far off they may be.

    What the fourth order does better than the second, e²/6 of the third derivative, tells what it leaves, e⁴/30 of the
    fifth: at the rate of the case, and up to 1,000 where events or stiffness make it steep. Of kinks it is all that is
    known. A difference that is not small is that of a kink.
    """
    case = problem.case
    steep = case.event != "none" or case.field == "stiff"
    e = 2e-5 if case.field == "kinked" else 2e-4 if steep else 0.04 / case.rate
    near, far = (phi(e) - phi(-e)) / (2 * e), (phi(2 * e) - phi(-2 * e)) / (4 * e)
    found = (4 * near - far) / 3
    if abs(found - near) > max(100 * e**2, 1e-5) * max(size, abs(found)):
        raise Kink
    part = 10.0 if case.field == "kinked" else 1e-2 if steep else 100 * e**2
    return found, part * abs(found - near)


def first(problem: Problem) -> None:
    case = problem.case
    if case.gradient == "continuous_adjoint":
        return continuous(problem)
    if case.times == "tied" and case.steps == "adaptive":
        return modes(problem)
    x = problem.leaves()
    call = call_of(problem)
    sol = problem.solve(x, case.gradient, dense=case.dense, **call)
    outs = problem.outputs(x, sol)
    w = weights(problem, outs, sol)
    g = grads(loss(outs, w), x)
    if case.steps == "adaptive" and case.samples:
        return modes(problem)
    v = direction(x, case.seed, sol)
    double = "complex128" if case.dtype == "complex128" else "float64"

    def phi(s: float) -> float:
        moved = shifted(problem, v, s, double)
        with torch.no_grad():
            again = frozen(problem, moved, sol, s * v["t"], dense=case.dense, **call)
            return float(loss(problem.outputs(moved, again), w))

    size = length(g, v)
    expected, doubt = differences(phi, problem, size)
    share = 1e-4 if case.dtype == "float32" else 1e-7 if case.field == "kinked" or case.implicit else 1e-9
    require(abs(float(along(g, v)) - expected), doubt + share * size, "gradient against differences")


def call_of(problem: Problem) -> dict:
    """Return how a case is solved for its gradient: what iterations leave must not show in differences."""
    case = problem.case
    options = couples(case)
    if not case.implicit and case.method != "implicit_adams":
        return {"options": options}
    if case.steps == "adaptive":
        return {"options": options | {"inner_share": max(1e-12 / case.rtol, 1e-9)}}
    return {"options": options | ({"inner_share": 0.1} if case.implicit else {})} | TIGHT  # less than it is rounding


def frozen(problem: Problem, x: Leaves, sol, dt: Tensor, **call):
    """Solve again by the same steps, which move with the first time until the first point that they had to end on."""
    if problem.case.steps != "adaptive":
        return problem.solve(x, **call)
    start = sol.stats.t
    if not len(start):
        return problem.solve(x, **call)
    end = problem.values["t"][-1]
    nodes = torch.cat((start[1:], (start[-1:] + sol.stats.dt[-1:])))
    nodes = nodes[(end - nodes).abs() > 1e-13]
    sign = -1.0 if problem.case.decreasing else 1.0
    points = [*problem.step_ts, *([problem.jump] if problem.case.field == "discontinuous" else [])]
    free = torch.ones(len(nodes), dtype=torch.bool)
    for point in points:
        free &= (point - nodes) * sign > 0
    grid = torch.where(free, nodes + dt[0], nodes)
    ends = x["t"].detach()[[0, -1]]
    if not bool((sign * torch.cat((ends[:1], grid, ends[1:])).diff() > 0).all()):
        raise Kink  # a step shorter than the shift of the times
    if problem.asked is not None and not bool(((problem.asked - ends[0]) * sign >= 0).all()):
        raise Kink  # a place of dense output that the start moves beyond
    return problem.solve(x, grid=grid, **call)


def modes(problem: Problem) -> None:
    """All modes that are exact agree, to the rounding of the way back."""
    case = problem.case
    found = []
    for mode in (case.gradient, "backprop"):
        x = problem.leaves()
        call = {"options": couples(case)}
        sol = problem.solve(x, mode, dense=case.dense, **call)
        outs = problem.outputs(x, sol)
        found.append(grads(loss(outs, weights(problem, outs, sol)), x))
    share = 1e-3 if case.dtype == "float32" else 1e-8
    same(found[0], found[1], share, f"{case.gradient} against backprop")


def same(a: Leaves, b: Leaves, share: float, what: str) -> None:
    size = max(float(y.abs().max()) for y in b.values())
    for k in b:
        require(float((a[k] - b[k]).abs().max()), share * size, f"{what}, by {k}")


def continuous(problem: Problem) -> None:
    """The continuous adjoint is the gradient of the exact solution, as the discrete one is in the limit."""
    case = problem.case
    found = []
    for mode in ("continuous_adjoint", "backprop"):
        x = problem.leaves()
        sol = problem.solve(x, mode, dense=case.dense, rtol=1e-9, atol=1e-10)
        outs = problem.outputs(x, sol)
        found.append(grads(loss(outs, weights(problem, outs, sol)), x))
    steps = of_batch(sol.stats.accepted)
    per_step = 1e-5 if case.field == "kinked" else 1e-6  # of tolerances of 1e-9, more where a step meets a kink
    same(found[0], found[1], per_step * steps, "continuous_adjoint against backprop")


def second(problem: Problem) -> None:
    """Second derivatives along two directions, against differences of the first along one of them."""
    case = problem.case
    x = problem.leaves()
    call = call_of(problem)
    sol = problem.solve(x, case.gradient, dense=case.dense, **call)
    outs = problem.outputs(x, sol)
    w = weights(problem, outs, sol)
    g = grads(loss(outs, w), x, create_graph=True)
    u, v = direction(x, case.seed, sol), direction(x, case.seed + 1, sol)
    if case.steps == "adaptive":  # the steps move with the first time, those of a grid do not
        u["t"][..., 0] = 0.0
    value = along(g, u)
    curved = grads(value, x) if value.requires_grad else {k: torch.zeros_like(y) for k, y in x.items()}

    def phi(s: float) -> float:
        moved = shifted(problem, v, s, case.dtype)
        again = frozen(problem, moved, sol, s * v["t"], dense=case.dense, gradient="backprop", **call)
        return float(along(grads(loss(problem.outputs(moved, again), w), moved), u))

    if case.samples and case.steps == "adaptive":
        return
    size = length(curved, v) + length(g, u)
    expected, doubt = differences(phi, problem, size)
    share = 1e-7 if case.field == "kinked" or case.implicit else 1e-9
    require(abs(float(along(curved, v)) - expected), doubt + share * size, "second derivative against differences")
