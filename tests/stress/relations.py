"""What solves have to do with each other: there and back, and samples with themselves alone."""

from __future__ import annotations

import numpy as np
import torch
from stress.bounds import LOCAL, TIGHT, Kink, floor, require, rows_of, scale_and_growth
from stress.gradients import grads, inner, same, weights, whole
from stress.problems import Problem, couples
from stress.reference import solution

from hbode.solution import of_batch


def reversal(problem: Problem) -> None:
    """A solve back from where a solve ended returns to its start."""
    case, x = problem.case, problem.leaves()
    call = {} if case.steps == "adaptive" else TIGHT
    with torch.no_grad():
        ahead = problem.solve(x, **call)
        back = dict(x) | {"h0": ahead.h[-1], "t": x["t"].flip(-1)}
        if ahead.m is not None:
            back["m0"] = ahead.m[-1]
        returned = problem.solve(back, **call)
    sample = None
    exact = solution(problem, sample)
    size, growth = scale_and_growth(problem, sample, exact)
    y1 = rows_of(problem, ahead, sample)[1][-1].flatten()
    shift = 1e-6 * np.random.default_rng(case.seed).standard_normal(y1.size)
    start = float(problem.values["t"][0])
    plain = solution(problem, back=y1)(np.array(start))
    backwards = np.abs(solution(problem, back=y1 + shift)(np.array(start)) - plain).max() / np.abs(shift).max()
    steps = of_batch(ahead.stats.accepted) + of_batch(returned.stats.accepted)
    if case.steps == "adaptive":
        bound = (LOCAL * steps * case.rtol * (size + 1e-2) * growth + floor(case) * size) * max(1.0, backwards)
    else:
        fine = problem.solve(x, options=problem.fixed(x["t"].detach(), 2 * case.number), **call)
        own = float((fine.h[-1] - ahead.h[-1]).abs().max().detach()) + (
            float((fine.m[-1] - ahead.m[-1]).abs().max().detach()) if fine.m is not None else 0.0
        )
        if case.steps == "requested":
            own = float(np.abs(y1 - exact(problem.values["t"][-1:].numpy()).flatten()).max())
        bound = LOCAL * own * max(1.0, backwards) * 2 + floor(case) * size * max(1.0, backwards)
    require(float((returned.h[-1] - x["h0"]).abs().max()), bound, "the way there and back")


def samples(problem: Problem) -> None:
    """A sample that steps by itself steps as it does alone."""
    case = problem.case
    x = problem.leaves()
    call = {"options": couples(case)}
    sol = problem.solve(x, case.gradient, **call)
    outs = [sol.h] + ([sol.m] if sol.m is not None else [])
    w = weights(problem, outs, sol)
    g = grads(sum(inner(whole(y), c) for y, c in zip(outs, w, strict=True)), x)
    summed = {k: torch.zeros_like(y) for k, y in x.items()}
    left = (
        0.1 * case.rtol if case.implicit else 0.0
    )  # the share of an inner solver: rounding decides where in it it ends
    for sample in range(case.shape[0]):
        one = problem.alone(sample)
        z = one.leaves()
        own = one.solve(z, "backprop", **call)
        parts = [own.h] + ([own.m] if own.m is not None else [])
        # A first step is so short for some methods that its error, and with it the next step, is rounding.
        mine = sol.stats.dt[~sol.stats.dt[:, sample].isnan(), sample]
        alike = len(mine) == len(own.stats.dt) and bool(torch.allclose(mine, own.stats.dt, rtol=1e-9))
        for y, batch in zip(parts, outs, strict=True):
            mine = batch[:, sample : sample + 1]
            require(float((y.isnan() != mine.isnan()).any()), 0.0, "rows reached alone")
            share = 1e-9 + left if alike else LOCAL * len(own.stats.t) * case.rtol
            require(float(whole(y - mine).abs().max()), share * float(whole(y).abs().max()), "a sample alone")
        if not alike:
            raise Kink
        value = sum(inner(whole(y), c[:, sample : sample + 1]) for y, c in zip(parts, w, strict=True))
        for k, part in grads(value, z).items():
            if k in ("h0", "m0", "level"):
                summed[k][sample : sample + 1] += part
            elif k == "t":
                summed[k][sample] += part
            else:
                summed[k] += part
    same(g, summed, 1e-7 + left, "gradient of samples alone")
