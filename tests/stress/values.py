"""Values at the requested times, events and dense output, against scipy at tight tolerances."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from stress.bounds import LOCAL, TIGHT, Difference, floor, require, rows_of, scale_and_growth
from stress.problems import Problem
from stress.reference import solution
from torch import Tensor

from hbode.solution import of_batch


@torch.no_grad()
def values(problem: Problem) -> None:
    case = problem.case
    samples = range(case.shape[0]) if case.samples else [None]
    exact = {sample: solution(problem, sample) for sample in samples}
    sizes = {sample: scale_and_growth(problem, sample, exact[sample]) for sample in samples}
    if case.steps != "adaptive":
        order(problem, exact, sizes)
    if case.steps == "adaptive" or case.dense:
        sol = problem.solve(problem.leaves(), dense=case.dense)
        if case.dense:
            agree_at_rows(problem, sol)
    for sample in samples if case.steps == "adaptive" else ():
        size, growth = sizes[sample]
        bound = LOCAL * of_batch(sol.stats.accepted) * case.rtol * (size + 1e-2) * growth + floor(case) * size * growth
        compare(problem, sol, sample, exact[sample], bound)


def compare(problem: Problem, sol, sample: int | None, exact, bound: float) -> None:
    t, y = rows_of(problem, sol, sample)
    stopped = stop_time(problem, sol, sample)
    sign = -1.0 if problem.case.decreasing else 1.0
    reached = np.ones(len(t), bool) if stopped is None else (stopped - t) * sign >= 0
    require(float(np.isnan(y[reached]).any()), 0.0, "rows not reached")
    if not reached.all():
        require(float((~np.isnan(y[~reached])).any()), 0.0, "rows beyond the event")
    require(float(np.abs(y[reached] - exact(t[reached])).max()), bound, "values against scipy")
    if problem.case.event != "none":
        events(problem, sol, sample, exact, bound, stopped)


def stop_time(problem: Problem, sol, sample: int | None) -> float | None:
    if problem.case.event != "terminal":
        return None
    times = event_times(sol, sample)
    return float(times[0]) if len(times) else None


def event_times(sol, sample: int | None) -> np.ndarray:
    record = sol.events[0]
    mine = slice(None) if sample is None or record.sample is None else record.sample == sample
    return record.t[mine].detach().numpy()


def events(problem: Problem, sol, sample: int | None, exact, bound: float, stopped: float | None) -> None:
    """The event function of scipy's solution vanishes where events were found, and nowhere else."""
    case = problem.case
    level = problem.values["level"][sample if sample is not None else slice(None)].sum().item()

    def height(t: np.ndarray) -> np.ndarray:
        states = exact(t)
        return np.array([problem.height(torch.as_tensor(y[0])).sum().item() for y in states]) - level

    slack = bound * max(1.0, problem.direction.abs().sum().item())
    found = event_times(sol, sample)
    if len(found):
        require(float(np.abs(height(found)).max()), slack, "event function at the event")
    t = problem.values["t"]
    t = (t[sample] if sample is not None and t.ndim == 2 else t).numpy()
    last = t[-1] if stopped is None else stopped
    fine = np.linspace(t[0], last, 101)
    g = height(fine)
    clear = np.abs(g) > 3 * slack
    if stopped is not None:
        clear[-3:] = False
    signs = np.sign(g[clear])
    turns = [s for a, s in pairwise(signs) if a != s]
    wanted = sum(case.direction in (0, s) for s in turns)
    count = len(found) - (stopped is not None)
    if count < wanted and pairs(sol, fine[clear], signs, sample):
        return
    # Where the function stays within the slack, it may have zeros or not.
    doubtful = int((~clear[:-3]).sum() > 0)
    if not wanted <= count <= wanted + 2 * doubtful:
        raise Difference(f"events: {count} found, {wanted} in scipy's solution")


def pairs(sol, times: np.ndarray, signs: np.ndarray, sample: int | None) -> bool:
    """Return whether two changes of sign lie within one step: these are not looked for."""
    starts = sol.stats.t if sample is None else sol.stats.t[:, sample]
    starts = np.sort(starts[~starts.isnan()].numpy())
    turns = [times[i + 1] for i in range(len(signs) - 1) if signs[i] != signs[i + 1]]
    owners = np.searchsorted(starts, np.sort(turns))
    return bool((np.diff(owners) == 0).any())


def order(problem: Problem, exact: dict, sizes: dict) -> None:
    """On fixed grids, errors fall as the order says, up to that of the interpolants, when the steps are halved."""
    case, t = problem.case, problem.values["t"]
    if case.event == "terminal" or (case.steps == "requested" and t.shape[-1] < 4):
        return
    rate = 1.0 if case.field == "kinked" else float(min(case.order, 3))
    if case.field == "discontinuous":  # the steps at the jump are not halved
        rate -= 1
    if case.field == "stiff":  # steps that are long for the fast decay have no order
        rate = 0.0
    tried: list[dict] = []
    for factor in (1, 2, 4, 8, 16):
        x = problem.leaves()
        if case.steps == "requested":
            x["t"] = refined(problem, factor)
            sol = problem.solve(x, **TIGHT)
        else:
            sol = problem.solve(x, options=problem.fixed(t, factor * case.number), **TIGHT)
        tried.append({sample: largest_error(problem, sol, sample, exact[sample]) for sample in exact})
        least = {s: floor(case) * size * growth for s, (size, growth) in sizes.items()}
        if factor > 1 and all(tried[-1][s] <= max(least[s], tried[-2][s] / 2 ** (rate - 0.7)) for s in exact):
            return
    raise Difference(f"order {case.order}: errors {tried}, least {least}")


def largest_error(problem: Problem, sol, sample: int | None, exact) -> float:
    y = torch.stack([sol.h] + ([sol.m] if sol.m is not None else []), 1)
    y, t = (y, sol.t) if sample is None else (y[:, :, sample : sample + 1], sol.t[sample])
    return float(np.abs(y.numpy() - exact(t.numpy())).max())


def refined(problem: Problem, times: int) -> Tensor:
    """Return the times of the case with each interval divided."""
    t = problem.values["t"]
    shares = torch.arange(times, dtype=torch.float64) / times
    inner = (t[:-1, None] + shares * t.diff()[:, None]).flatten()
    return torch.cat((inner, t[-1:]))


def agree_at_rows(problem: Problem, sol) -> None:
    """Dense output at the requested times is the rows, to rounding."""
    t = problem.values["t"]
    reached = ~torch.isnan(sol.h.reshape(len(sol.h), -1).real).any(1)
    if not reached.all():
        return
    h, _ = sol(t)
    close = 1e-4 if problem.case.dtype == "float32" else 1e-10
    require(float((h - sol.h).abs().max()), close * float(sol.h.abs().max()), "dense output against the rows")
