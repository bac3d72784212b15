"""Memory and time of layers on a large random graph, and what solvers need on a long diffusion.

First table: a forward and backward pass of each layer on 200,000 nodes and 2 million directed edges (and half of both,
which shows how it grows), 32 channels, 4 heads, float32, T = 4 at tolerances of 1e-3, each in a process of its own.
Bars: O(edges), 60 s. Second table: the linear diffusion over T = 10 and 50 on a random graph of 2,000 nodes, its error
against the matrix exponential beside the evaluations of each solver. Bar: 0.3 of dopri5's at the same error.
"""

from __future__ import annotations

import multiprocessing
import time

import torch
from _common import header, peak_memory, table

from hbode.models import SolverSettings
from hbode.models.graphs import Graph, GraphDiffusion, GraphHeavyBall

NODES, EDGES, CHANNELS = 200_000, 2_000_000, 32
KINDS = {
    "GraphDiffusion, linear": (GraphDiffusion, {}),
    "GraphDiffusion, nonlinear": (GraphDiffusion, {"nonlinear": True}),
    "GraphHeavyBall, linear": (GraphHeavyBall, {}),
}
METHODS = ("dopri5", "rkc", "prox_bdf2", "prox_bdf3", "kvaerno3", "kvaerno5", "auto")


def random_graph(nodes: int, edges: int) -> Graph:
    """Return a graph of random edges, and loops."""
    return Graph(torch.randint(nodes, (2, edges), generator=torch.Generator().manual_seed(0)), nodes)


def large(name: str, share: float) -> tuple[float, float, float, float, int, int]:
    """Return MiB before and at the peak, CPU seconds forward and backward, evaluations, of a share of the graph."""
    torch.set_num_threads(1)
    kind, options = KINDS[name]
    graph = random_graph(int(share * NODES), int(share * EDGES))
    x = torch.randn(graph.nodes, CHANNELS, requires_grad=True)
    layer = kind(CHANNELS, t=(0.0, 4.0), solver=SolverSettings(None), **options)
    before = peak_memory()
    start = time.process_time()
    loss = layer(x, graph).square().mean()
    middle = time.process_time()
    loss.backward()
    end = time.process_time()
    return before, peak_memory(), middle - start, end - middle, layer.stats.nfe, layer.stats.nfe_backward


def measure(name: str, share: float) -> tuple[float, float, float, float, int, int]:
    """Return `large` of a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(large, (name, share))


def solvers(span: float) -> list[list[str]]:
    """Return rows of method, tolerance, evaluations, those that are products, and the error."""
    torch.manual_seed(0)
    graph, x = random_graph(2000, 8000), torch.randn(2000, CHANNELS)
    exact = GraphDiffusion(CHANNELS).double()
    with torch.no_grad():
        weights = exact.attention(x.double(), graph)
        a = torch.zeros(2000, 2000, dtype=torch.float64)
        a.index_put_((graph.targets, graph.sources), weights, accumulate=True)
        end = torch.linalg.matrix_exp(span * (a - torch.eye(2000))) @ x.double()
        rows = []
        for method in METHODS:
            for tol in (1e-1, 1e-2, 1e-3, 1e-4):
                layer = GraphDiffusion(CHANNELS, t=(0.0, span), solver=SolverSettings(method, tol, tol)).double()
                layer.load_state_dict(exact.state_dict())
                error = (layer(x.double(), graph) - end).square().mean().sqrt()
                stats = layer.stats
                rows.append([method, f"{tol:g}", str(stats.nfe), str(stats.products), f"{float(error):.1e}"])
    return rows


def main() -> None:
    """Print the tables."""
    print(header("A forward and backward pass on a random graph"))
    columns = ["layer", "nodes", "edges", "MiB before", "MiB more", "CPU s forward", "CPU s backward", "NFE f/b"]
    rows = []
    for name in KINDS:
        for share in (0.5, 1.0):
            before, peak, ahead, back, nfe, nfe_back = measure(name, share)
            sizes = [f"{int(share * NODES):,}", f"{int(share * EDGES):,}", f"{before:.0f}", f"{peak - before:.0f}"]
            rows.append([name, *sizes, f"{ahead:.1f}", f"{back:.1f}", f"{nfe}/{nfe_back}"])
    print(table(columns, rows))
    for span in (10.0, 50.0):
        print(f"\nLinear diffusion, T = {span:g}\n")
        print(table(["method", "tolerance", "NFE", "products", "rms error"], solvers(span)))


if __name__ == "__main__":
    main()
