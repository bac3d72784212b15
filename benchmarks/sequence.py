"""Sequence layers with momentum, forward and backward, for sequences from 128 to 16,384 samples.

- The linear heavy ball (`HeavyBallLayer`, complex) beside a loop over its samples, and beside D-LinOSS as its authors
  compute it: an associative scan over 2 × 2 blocks in JAX, compiled.
- `MomentumLSTM` and `AdamLSTM` beside the fused `nn.LSTM`.
- Causal momentum attention beside causal linear attention.

float32; equal sizes; runs of one row take turns. Median milliseconds (range), and ratios run by run.

    python benchmarks/sequence.py [oscillators lstm attention] [--lengths 128,1024,16384] [--device cuda]
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from _common import Timing, alternate, header, ratio, table
from torch import Tensor, nn

from hbode.models.attention import MomentumAttention
from hbode.models.recurrent import AdamLSTM, HeavyBallLayer, MomentumLSTM, RMSPropLSTM

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
BATCH, SIZE, HEADS = 8, 64, 4
LOOP = 1024
"""The longest sequence that loops over samples run."""
Run = Callable[[], object]


def step(module: nn.Module, x: Tensor) -> Run:
    """Return a run: forward, the mean square of the output, and gradients of all parameters and of the input."""
    x = x.detach().requires_grad_()

    def run() -> None:
        y = module(x)
        (y[0] if isinstance(y, tuple) else y).square().mean().backward()
        if x.is_cuda:
            torch.cuda.synchronize()

    return run


class Loop(nn.Module):
    """A `HeavyBallLayer` (complex) sample by sample; its maps B, C and D for all at once, or in the loop too."""

    def __init__(self, layer: HeavyBallLayer, maps_in_loop: bool) -> None:
        super().__init__()
        self.layer, self.maps_in_loop = layer, maps_in_loop

    def forward(self, u: Tensor) -> Tensor:
        layer = self.layer
        E, G = (x.float() for x in layer.propagator(torch.tensor(1.0, dtype=torch.float64, device=u.device)))
        (a, b), (c, d) = E.repeat_interleave(2, 0).permute(1, 2, 0)
        p, q = G[..., 0].repeat_interleave(2, 0).T
        gain, read = layer.gain.flatten(0, 1), layer.read.flatten(1)
        inputs = u.unbind(1) if self.maps_in_loop else (u @ gain.T).unbind(1)
        h, m, found = 0.0, 0.0, []
        for x in inputs:
            push = x @ gain.T if self.maps_in_loop else x
            h, m = a * h + b * m + p * push, c * h + d * m + q * push
            found.append(h @ read.T + layer.skip(x) if self.maps_in_loop else h)
        y = torch.stack(found, 1)
        return y if self.maps_in_loop else y @ read.T + layer.skip(u)


def dlinoss(length: int) -> Run | None:
    """Return the same of D-LinOSS (arXiv 2505.12171) in JAX; None without JAX."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    try:
        import jax
    except ImportError:
        return None
    jnp = jax.numpy
    rng = iter(jax.random.split(jax.random.PRNGKey(0), 8))

    def normal(*shape: int) -> Any:
        return jax.random.normal(next(rng), shape) / math.sqrt(shape[-1])

    parameters = {
        "A": jax.random.uniform(next(rng), (SIZE,)),
        "G": 0.1 * jax.random.uniform(next(rng), (SIZE,)),
        "B": normal(SIZE, SIZE) + 1j * normal(SIZE, SIZE),
        "C": normal(SIZE, SIZE) + 1j * normal(SIZE, SIZE),
        "D": normal(SIZE),
    }
    u = jax.random.normal(next(rng), (BATCH, length, SIZE))

    def combine(one: Any, other: Any) -> Any:
        (a, b, c, d), (x, y) = one
        (e, f, g, h), (p, q) = other
        return (e * a + f * c, e * b + f * d, g * a + h * c, g * b + h * d), (e * x + f * y + p, g * x + h * y + q)

    def layer(p: Any, u: Any) -> Any:
        # IMEX: z⁺ = (z - Δ A x + Δ B u) / (1 + Δ G), x⁺ = x + Δ z⁺, with Δ = 1, over (z, x).
        s = 1 / (1 + p["G"])
        force = s * (u @ p["B"].T)
        blocks = tuple(jnp.broadcast_to(v, (length, SIZE)) for v in (s, -s * p["A"], s, 1 - s * p["A"]))
        _, (_, x) = jax.lax.associative_scan(combine, (blocks, (force, force)))
        return (x @ p["C"].T).real + p["D"] * u

    def loss(p: Any, u: Any) -> Any:
        return (jax.vmap(layer, (None, 0))(p, u) ** 2).mean()

    compiled = jax.jit(jax.value_and_grad(loss, (0, 1)))
    return lambda: jax.block_until_ready(compiled(parameters, u))


def oscillators(length: int, device: str) -> dict[str, Run | None]:
    torch.manual_seed(0)
    layer, u = HeavyBallLayer(SIZE, SIZE, complex=True), torch.randn(BATCH, length, SIZE)
    layer, u = layer.to(device), u.to(device)
    return {
        "HeavyBallLayer": step(layer, u),
        "loop over samples": step(Loop(layer, True), u) if length <= LOOP else None,
        "loop, maps outside": step(Loop(layer, False), u) if length <= LOOP else None,
        "D-LinOSS in JAX": dlinoss(length),
    }


def lstm(length: int, device: str) -> dict[str, Run]:
    torch.manual_seed(0)
    x = torch.randn(BATCH, length, SIZE, device=device)
    layers = {"nn.LSTM": nn.LSTM, "MomentumLSTM": MomentumLSTM, "AdamLSTM": AdamLSTM, "RMSPropLSTM": RMSPropLSTM}
    return {name: step(layer(SIZE, SIZE, batch_first=True).to(device), x) for name, layer in layers.items()}


class CausalAttention(nn.Module):
    """Self-attention that sees no later position."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.attention = MomentumAttention(SIZE, HEADS, batch_first=True, momentum=momentum, step_size=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.attention(x, x, x, is_causal=True)[0])


def attention(length: int, device: str) -> dict[str, Run]:
    torch.manual_seed(0)
    x = torch.randn(BATCH, length, SIZE, device=device)
    return {
        "linear attention": step(CausalAttention(0.0).to(device), x),
        "momentum attention": step(CausalAttention(0.9).to(device), x),
    }


PARTS: dict[str, Callable[[int, str], Mapping[str, Run | None]]] = {
    "oscillators": oscillators,
    "lstm": lstm,
    "attention": attention,
}


def slope(lengths: Sequence[int], timings: Sequence[Timing]) -> float:
    """Return the slope of log time over log length, by least squares."""
    x, y = [math.log(n) for n in lengths], [math.log(timing.median) for timing in timings]
    return statistics.linear_regression(x, y).slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="default: all")
    parser.add_argument("--lengths", type=lambda text: [int(n) for n in text.split(",")], default=LENGTHS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    print(header(f"Sequence layers: batch {BATCH}, {SIZE} channels, {given.device}"))
    for part in given.parts or PARTS:
        rows, kept = [], []
        for length in given.lengths:
            runs = {name: run for name, run in PARTS[part](length, given.device).items() if run is not None}
            timings = alternate(runs, given.repeats)
            kept.append(timings)
            first = next(iter(timings.values()))
            beside = [f"{name}: {timing}, × {ratio(timing, first)}" for name, timing in list(timings.items())[1:]]
            rows.append([str(length), str(first), *beside])
            name = next(iter(timings))
        width = max(map(len, rows))
        print(table(["length", f"{name}, ms", *[""] * (width - 2)], [row + [""] * (width - len(row)) for row in rows]))
        slopes = (f"{name} {slope(given.lengths, [timings[name] for timings in kept]):.2f}" for name in kept[-1])
        print(f"slope of log time over log length: {', '.join(slopes)}\n")


if __name__ == "__main__":
    main()
