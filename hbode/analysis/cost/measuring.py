"""Time and memory of what runs on a device, without a trace on what is measured."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from operator import methodcaller
from typing import Any

import torch
from torch._C import _autograd, _profiler
from torch.profiler import record_function

from ...gradients.captured import reachable
from ...systems import System

_START, _ALLOCATION = "hbode: memory of a run", "[memory]"


def now(device: torch.device) -> float:
    """Return the time in seconds, once a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(runs: Sequence[Callable[[], object]], device: torch.device) -> list[int] | str:
    """Return the most memory that each run held at a time, over what was held before it, or why that is not known.

    Counted are the tensors of torch's own allocator on the device, whose sizes it rounds up: not the Python objects,
    nor what the kernels allocate by other means. Runs are slowed down; do not time them. On a CPU each allocation is
    kept in a record until the run ends: some 100 kB an evaluation of a field, with its gradient.

    Parameters
    ----------
    runs
        Called once each, in turn. What a run returns is let go.
    device
        A CPU, where the profiler of torch reports each allocation (it must not be in use already), or a CUDA device.

    Returns
    -------
    list of int, or str
        Bytes, one entry a run; or the reason why the device's memory cannot be measured.
    """
    if device.type == "cuda":
        return [_peak_on_gpu(run, device) for run in runs]
    if device.type != "cpu":
        return f"memory is not measured on {device.type}"
    if _autograd._profiler_enabled():
        return "memory is not measured inside torch.profiler"
    try:
        with _quiet():
            return [_peak_on_cpu(run) for run in runs]
    except (AttributeError, TypeError) as error:  # it is not a public interface
        return f"memory is not measured with torch {torch.__version__}: {error}"


def _peak_on_cpu(run: Callable[[], object]) -> int:
    gc.collect()
    _record_allocations()
    try:
        with record_function(_START):
            run()
    finally:
        results = _autograd._disable_profiler()
    events: Sequence[Any] = sorted(results.events(), key=methodcaller("start_ns"))
    began = [event.name() for event in events].index(_START)
    allocations = (x for x in events[began:] if x.name() == _ALLOCATION and x.device_type().name == "CPU")
    return max(accumulate(x.nbytes() for x in allocations), default=0)  # negative where memory is freed


def _record_allocations() -> None:
    """Start torch's profiler without a record of each operator, which would take ten times as long as the runs."""
    session = torch.autograd.profiler.profile(profile_memory=True)
    config, activities = session.config(), session.kineto_activities
    scopes = {_profiler.RecordScope.USER_SCOPE}
    _autograd._prepare_profiler(config, activities)
    _autograd._enable_profiler(config, activities, scopes)  # type: ignore[call-arg]  # torch declares no scopes


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the profiler, which reads this variable when it is first used, from writing to stderr that it starts."""
    level = "KINETO_LOG_LEVEL"
    own = level not in os.environ
    os.environ.setdefault(level, "99")
    try:
        yield
    finally:
        if own:
            del os.environ[level]


@contextmanager
def untouched(system: System, device: torch.device) -> Iterator[None]:
    """Put the buffers of a system, which its field may write to, and the state of random numbers back at the end."""
    modules = (system, *reachable(system).modules)
    held = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for buffer, before in held:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


def _peak_on_gpu(run: Callable[[], object], device: torch.device) -> int:
    gc.collect()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before
