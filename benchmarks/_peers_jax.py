"""The solvers of peers.py that run in JAX: diffrax, compiled, on the weights of the torch network."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from _peers_torch import GAMMA, MAX_STEPS, Case, Result, Scaled, Solver
from torch import nn

METHODS = ("Tsit5", "Dopri5")


@dataclass(frozen=True)
class Libraries:
    """The modules, and the device that arrays go to."""

    jax: ModuleType
    diffrax: ModuleType
    device: Any


def libraries(device: str) -> Libraries | None:
    """Return diffrax, or None with a note where it or its device is missing."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import diffrax
        import jax
    except ImportError as error:
        print(f"diffrax left out ({error}): pip install 'hbode[peers]'\n", file=sys.stderr)
        return None
    jax.config.update("jax_default_matmul_precision", "highest")  # float32 throughout, as in torch
    try:
        found = jax.devices("gpu" if device == "cuda" else "cpu")[0]
    except RuntimeError as error:
        print(f"diffrax left out, jax has no such device: {error}\n", file=sys.stderr)
        return None
    return Libraries(jax, diffrax, found)


def field(net: nn.Module, jax: ModuleType) -> Callable[[Any, Any], Any]:
    """Return f(h, weights) of a torch network, its weights in the order of its parameters."""
    if isinstance(net, Scaled):
        inner = field(net.net, jax)
        return lambda h, weights: net.scale * inner(h, weights)
    layers = list(net.children())

    def f(h: Any, weights: Any) -> Any:
        rest = iter(weights)
        for layer in layers:
            if isinstance(layer, nn.Tanh):
                h = jax.numpy.tanh(h)
            elif isinstance(layer, nn.Linear):
                h = h @ next(rest).T + next(rest)
            elif isinstance(layer, nn.Conv2d):
                h = jax.lax.conv_general_dilated(h, next(rest), (1, 1), "SAME") + next(rest)[:, None, None]
            else:
                raise TypeError(f"no counterpart in JAX for {layer}")
        return h

    return f


class Diffrax:
    """A problem for diffrax."""

    def __init__(self, case: Case, found: Libraries) -> None:
        self.jax, self.diffrax = found.jax, found.diffrax
        arrays = [case.h0, case.t, *case.net.parameters()]
        h0, self.t, *weights = (self.jax.device_put(x.detach().cpu().numpy(), found.device) for x in arrays)
        self.inputs, self.f = (h0, weights), field(case.net, self.jax)

    def forward(self, method: str) -> Solver:
        """Return the forward solve."""
        solve = self.jax.jit(lambda inputs, tol: self._solve(inputs, tol, method, self._checkpointed()))
        run = lambda tol: self.jax.block_until_ready(solve(self.inputs, np.float32(tol)))
        return Solver(f"diffrax {method}", run, lambda sol: self._read(sol, ()))

    def training(self, method: str, steps: int | None = None, backsolve: bool = True) -> list[Solver]:
        """Return the training steps, with so many equal steps if given."""
        adjoints = {"checkpointed": self._checkpointed()}
        if backsolve:
            adjoints["backsolve"] = self.diffrax.BacksolveAdjoint()
        return [self._training(method, name, adjoint, steps) for name, adjoint in adjoints.items()]

    def alone(self, count: int) -> Callable[[], object]:
        """Return so many evaluations of f alone, one on the result of the other."""
        again = lambda h, weights: self.jax.lax.fori_loop(0, count, lambda _, h: self.f(h, weights), h)
        compiled = self.jax.jit(again)
        return lambda: self.jax.block_until_ready(compiled(*self.inputs))

    def _training(self, method: str, name: str, adjoint: Any, steps: int | None) -> Solver:
        def loss(inputs: Any, tol: Any) -> Any:
            sol = self._solve(inputs, tol, method, adjoint, steps)
            return sum(self.jax.numpy.square(y).mean() for y in sol.ys), sol

        gradient = self.jax.jit(self.jax.grad(loss, has_aux=True))

        def run(tol: float) -> Any:
            return self.jax.block_until_ready(gradient(self.inputs, np.float32(tol)))

        return Solver(f"diffrax {method} {name}", run, lambda out: self._read(out[1], (out[0][0], *out[0][1])))

    def _checkpointed(self) -> Any:
        return self.diffrax.RecursiveCheckpointAdjoint()

    def _solve(self, inputs: Any, tol: Any, method: str, adjoint: Any, steps: int | None = None) -> Any:
        h0, weights = inputs
        control: Any = self.diffrax.PIDController(rtol=tol, atol=tol)
        if steps is not None:
            control = self.diffrax.ConstantStepSize()
        return self.diffrax.diffeqsolve(
            self.diffrax.ODETerm(self._heavy_ball),
            getattr(self.diffrax, method)(),
            self.t[0],
            self.t[-1],
            None if steps is None else (self.t[-1] - self.t[0]) / steps,
            (h0, self.jax.numpy.zeros_like(h0)),
            weights,
            saveat=self.diffrax.SaveAt(ts=self.t),
            stepsize_controller=control,
            adjoint=adjoint,
            max_steps=MAX_STEPS if steps is None else steps + 10,
            throw=False,  # outputs that were not reached are infinite
        )

    def _heavy_ball(self, t: Any, y: Any, weights: Any) -> Any:
        h, m = y
        return m, self.f(h, weights) - GAMMA * m

    def _read(self, sol: Any, grads: Any) -> Result:
        h, m, *grads = (torch.from_numpy(np.array(x)) for x in (*sol.ys, *grads))
        return Result(h, m, grads, 6 * int(sol.stats["num_steps"]) + 1)  # both methods: first same as last
