"""Few checkpoints: the same gradients bit by bit, by the least number of steps run again."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from math import comb

import pytest
import torch
from scenarios import SCENARIOS, Scenario, pulled_back

from hbode import hbodeint
from hbode.gradients import DiscreteAdjoint
from hbode.gradients.schedule import advances, first_sweep, least_useful, split


@cache
def least(count, slots):
    """The least number of advances by exhaustion: keep the carry m steps ahead, walk back what lies ahead, then m."""
    if count <= 1:
        return 0
    if slots == 1:
        return count * (count - 1) // 2
    return min(m + least(count - m, slots - 1) + least(m, slots) for m in range(1, count))


def again(kept, count, slots):
    """Steps run again in walking back over `count` steps, with some carries kept and that of the last step."""
    ends = [*kept, count - 1]
    return sum(least(b - a, slots - n) for n, (a, b) in enumerate(pairwise(ends)))


def online(count, slots):
    """The carries kept after `count` steps whose number was not known before."""
    kept = []
    for newest in range(count - 1):
        kept.append(newest)
        if len(kept) > slots:
            kept.pop(least_useful(kept, newest + 1, slots))
    return kept


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8])
def test_number_of_advances_is_least(slots):
    for count in range(1, 80):
        assert advances(count, slots) == least(count, slots)
        if count > 1:
            m = split(count, slots)
            ahead = least(count - m, slots - 1) if slots > 1 else (0 if m == count - 1 else 10**9)
            assert m + ahead + least(m, slots) == least(count, slots)


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8, 20])
def test_planned_carries_are_optimal(slots):
    """The first sweep itself advances over all but the last step; what is left of the optimum is run again."""
    for count in range(2, 120):
        kept = first_sweep(count, slots)
        assert len(kept) <= slots
        assert again(kept, count, slots) == advances(count, slots) - (count - 1)


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8, 12])
def test_online_carries_are_optimal_as_long_as_any_can_be(slots):
    for count in range(2, comb(slots + 2, 2) + 2):
        assert again(online(count, slots), count, slots) == advances(count, slots) - (count - 1)


@pytest.mark.parametrize("slots", [2, 3, 4])
def test_no_online_schedule_is_optimal_for_longer(slots):
    """By exhaustion: all sets of carries that were optimal at every count so far die out at the next one."""
    alive, count = {(0,)}, 2
    while alive:
        count += 1
        newest = count - 2
        grown = [(*kept, newest) for kept in alive]
        shrunk = {kept[:i] + kept[i + 1 :] for kept in grown for i in range(1, len(kept))}
        grown = {kept for kept in grown if len(kept) <= slots} | {kept for kept in shrunk if len(kept) <= slots}
        optimum = advances(count, slots) - (count - 1)
        alive = {kept for kept in grown if again(kept, count, slots) == optimum}
    assert count == comb(slots + 2, 2) + 2


@pytest.mark.parametrize("slots", [2, 5, 10])
def test_online_carries_stay_close_to_the_optimum(slots):
    """Within a quarter of what is run again; measured: 0.22 at two slots, 0.07 at five, 0.04 at ten."""
    for count in range(slots + 2, 400, 7):
        optimum = advances(count, slots) - (count - 1)
        cost = again(online(count, slots), count, slots)
        assert cost <= 1.25 * optimum


@pytest.mark.parametrize("checkpoints", [1, 3])
@pytest.mark.parametrize("name", ["dprkn6", "dopri5"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_gradients_are_the_same_bit_by_bit(net, draw, scenario, name, checkpoints):
    solve = Scenario(net, draw, method=name, **SCENARIOS[scenario])
    all_kept = pulled_back(solve("discrete_adjoint")[0], solve.inputs)
    few_kept = pulled_back(solve(DiscreteAdjoint(checkpoints))[0], solve.inputs)
    for a, b in zip(all_kept, few_kept, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["leapfrog", "implicit_adams", "dprkn8"])
def test_gradients_on_a_fixed_grid_are_the_same_bit_by_bit(net, draw, name):
    options = {"step_size": 0.03}
    solve = Scenario(net, draw, method=name, t=(0.0, 0.4, 1.1), options=options)
    all_kept = pulled_back(solve("discrete_adjoint")[0], solve.inputs)
    solve.call["options"] = {**options, "checkpoints": 4}
    few_kept = pulled_back(solve("discrete_adjoint")[0], solve.inputs)
    for a, b in zip(all_kept, few_kept, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("checkpoints", "adaptive"), [(1, True), (6, True), (9, True), (3, False), (7, False)])
def test_evaluations_are_those_of_the_optimal_schedule(net, draw, counted, checkpoints, adaptive):
    """Each step is run with a graph once; dprkn6 has five evaluations a step, and one belongs to the start."""
    f, h0 = counted(net()), draw(2, 2, grad=True)
    options = {"checkpoints": checkpoints} | ({"max_step": 0.1} if adaptive else {"step_size": 0.1})
    t = [0.0, {1: 2.9, 6: 2.5, 9: 5.0, 3: 6.0, 7: 12.0}[checkpoints]]
    sol = hbodeint(f, h0, t, method="dprkn6", options=options)
    steps = sol.stats.accepted
    assert steps > checkpoints + 1
    assert not adaptive or checkpoints == 1 or steps <= comb(checkpoints + 2, 2) + 1
    f.calls = 0
    sol.h.sum().backward()
    run_again = advances(steps, checkpoints) - (steps - 1)
    assert sol.stats.nfe_backward == f.calls == 5 * (steps + run_again) + 1


def test_no_more_carries_than_asked_for(net, draw):
    """At any time of the backward pass: those kept on the tape and those made on the way, beside the step at hand."""
    f, h0 = net(), draw(2, 2, grad=True)
    most = []

    class Watched(DiscreteAdjoint):
        def solve(self, problem, on_backward):
            solved = super().solve(problem, on_backward)
            most.append(sum(bool(step.carry) for step in solved.tape.steps))
            return solved

    sol = hbodeint(f, h0, [0.0, 3.0], gradient=Watched(4), options={"step_size": 0.1})
    assert most == [5]  # the newest is kept besides
    sol.h.sum().backward()


def test_backward_twice(net, draw):
    f, h0 = net(), draw(2, 2, grad=True)
    sol = hbodeint(f, h0, [0.0, 3.0], options={"checkpoints": 3})
    (first,) = torch.autograd.grad(sol.h.sum(), h0, retain_graph=True)
    (second,) = torch.autograd.grad(sol.h.sum(), h0)
    assert torch.equal(first, second)


def test_number_must_be_positive():
    with pytest.raises(ValueError, match="checkpoints must be at least 1, or None to keep all, got 0"):
        DiscreteAdjoint(0)
