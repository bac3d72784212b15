"""Several processes that train one model, each with a part of every batch."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gathered(value: Any) -> list[Any]:
    """Return the values of all processes, in their order."""
    every = [value] * world()
    if world() > 1:
        dist.all_gather_object(every, value)
    return every


def of_first(value: Any) -> Any:
    """Return the value of the first process."""
    box = [value]
    if world() > 1:
        dist.broadcast_object_list(box, 0)
    return box[0]


def start_alike(model: nn.Module) -> None:
    """Give the model of every process the weights and buffers of the first."""
    if world() > 1:
        for x in model.state_dict().values():
            dist.broadcast(x, 0)


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Add up the gradients of all processes. A parameter that none has a gradient for keeps none, as in one process."""
    if world() == 1:
        return
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
    dist.all_reduce(used)
    for p, count in zip(parameters, used.tolist(), strict=True):
        if count:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            dist.all_reduce(p.grad)


@contextmanager
def joined(devices: int, device: torch.device, task: Callable[[], object]) -> Iterator[torch.device]:
    """Belong to a group of processes, and give the device of this one.

    The group is the one that exists already, or that of torchrun; else processes are started beside this one, which is
    the first.

    Parameters
    ----------
    devices
        How many processes are wanted; 1 for those that there are.
    device
        Where the model is.
    task
        What the processes that are started do: the same as the block.

    Raises
    ------
    ValueError
        If torchrun started another number of processes.
    TypeError
        If the task cannot be sent to another process.
    RuntimeError
        If one of them could not start, or failed.
    """
    with ExitStack() as stack:
        if not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
                if devices == 1:
                    yield device
                    return
                stack.enter_context(_started(devices, backend, task))
            dist.init_process_group(backend)
            stack.callback(dist.destroy_process_group)
        if devices not in (1, world()):
            raise ValueError(f"devices must be 1 in a group of processes, or its size {world()}, got {devices}")
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(device)
        yield device


@contextmanager
def _started(devices: int, backend: str, task: Callable[[], object]) -> Iterator[None]:
    """Run a task in processes of their own, and be the first of the group, in the environment that torchrun makes."""
    try:
        sent = pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"model and loss must be of a module, not lambdas or local functions, for devices={devices}: {error}"
        ) from None
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    group = {"MASTER_ADDR": store.host, "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
    group |= {"WORLD_SIZE": devices, "LOCAL_WORLD_SIZE": devices}
    places = [{k: str(v) for k, v in {**group, "RANK": i, "LOCAL_RANK": i}.items()} for i in range(devices)]
    context = multiprocessing.get_context("spawn")
    children, pipes = [], []
    before = {name: os.environ.get(name) for name in places[0]}
    try:
        for place in places[1:]:
            mine, theirs = context.Pipe()
            child = context.Process(target=_follow, args=(theirs, place, backend, sent), daemon=True)
            child.start()
            theirs.close()
            children.append(child)
            pipes.append(mine)
        _hear(pipes)
        os.environ.update(places[0])
        try:
            yield
        except RuntimeError as error:
            if type(error) is RuntimeError or isinstance(error, dist.DistError):
                _hear(pipes)  # a connection that broke: what happened at the other end says more
            raise
        _hear(pipes)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})
        for child in children:
            child.terminate()
            child.join()


def _hear(pipes: list[Any]) -> None:
    """Wait for the next word of each process, and raise unless it is good."""
    for number, pipe in enumerate(pipes, start=1):
        try:
            word = pipe.recv()
        except EOFError:
            word = "it ended. A script that trains with several devices needs `if __name__ == '__main__':` around it"
        if word is not None:
            raise RuntimeError(f"process {number} of the training: {word}")


def _follow(pipe: Connection, environment: dict[str, str], backend: str, task: bytes) -> None:
    """Run a task in a process started for it; send None when it starts and when it ends, or what went wrong."""
    os.environ.update(environment)
    try:
        run = pickle.loads(task)
        pipe.send(None)
        dist.init_process_group(backend)
        run()
        dist.destroy_process_group()
        pipe.send(None)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
