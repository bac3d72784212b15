"""Accuracy over depth on a citation graph, and what solvers need for the same accuracy.

``python benchmarks/_graph_depth.py cora.npz``: GRAND and the coupled heavy ball are trained for each span T with the
settings of `hbode reproduce grand`, and read at the end of it, without early stopping in T. Test accuracy is measured
once for each model, span and seed. The trained diffusion of the longest span is then solved by every method; equal
accuracy is judged by the validation. Two tables, and docs/figures/graphs.png.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace
from pathlib import Path

import joblib
import torch
from _common import header, table
from torch import nn

from hbode.experiments import EXPERIMENTS, Splits
from hbode.models import SolverSettings
from hbode.reporting.style import Picture
from hbode.training import train

GRAND = EXPERIMENTS["grand"]
SPANS, SEEDS = (5.0, 15.0, 50.0), (0, 1)
MODELS = ("grand", "grand-source", "graph-heavy-ball")
METHODS = ("dopri5", "rkc", "prox_bdf2", "prox_bdf3", "kvaerno3", "kvaerno5", "auto")
FIGURE = Path(__file__).parents[1] / "docs/figures/graphs.png"


def trained(name: str, span: float, seed: int, data: Splits) -> nn.Module:
    """Return a trained model with the weights of the best validation."""
    settings = replace(GRAND.settings["full"], span=span)
    torch.manual_seed(seed)
    model = GRAND.model(name, data, settings, False)
    train(model, GRAND.loss, data.train, settings.training, validation=data.validation, seed=seed)
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, part: tuple[torch.Tensor, ...]) -> float:
    """Return the accuracy on a part of the nodes."""
    return float(GRAND.loss(model, part)[1]["accuracy"])


def by_solver(model: nn.Module, data: Splits) -> list[list[str]]:
    """Return rows of method, tolerance, evaluations, validation accuracy and scores' distance from an exact solve."""
    layer, rows = model.solve.layer, []
    with torch.no_grad():
        layer.solver = SolverSettings("dopri8", 1e-8, 1e-8)
        exact = model()
        for method in METHODS:
            for tol in (0.3, 1e-1, 1e-2, 1e-3):
                layer.solver = SolverSettings(method, tol, tol)
                scores = model()
                nfe = layer.stats.nfe
                alike = float((scores.argmax(1) == exact.argmax(1)).double().mean())
                rows.append([method, f"{tol:g}", str(nfe), f"{accuracy(model, data.validation):.3f}", f"{alike:.4f}"])
    return rows


def main() -> None:
    """Print the tables and draw the figure."""
    torch.set_num_threads(1)
    data = GRAND.load(Path(sys.argv[1]), GRAND.settings["full"])
    tasks = [(name, span, seed) for span in reversed(SPANS) for name in MODELS for seed in SEEDS]
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        models = dict(
            zip(tasks, joblib.Parallel(n_jobs=2)(joblib.delayed(trained)(*t, data) for t in tasks), strict=True)
        )
    found: dict[str, list[list[float]]] = {name: [] for name in MODELS}
    rows = []
    for name in MODELS:
        for span in SPANS:
            alike = [models[name, span, seed] for seed in SEEDS]
            held, tests = ([accuracy(model, part) for model in alike] for part in (data.validation, data.test))
            found[name].append(tests)
            nfe = str(alike[0].solve.stats.nfe)
            rows.append([name, f"{span:g}", *(" ".join(f"{x:.3f}" for x in of) for of in (held, tests)), nfe])
    solvers = by_solver(models["grand", SPANS[-1], SEEDS[0]], data)
    print(header(f"Accuracy over depth, {len(SEEDS)} seeds"))
    print(table(["model", "T", "validation", "test", "NFE"], rows))
    print(f"\nThe diffusion trained at T = {SPANS[-1]:g}, by other solvers\n")
    print(table(["method", "tolerance", "NFE", "validation", "classes as of the exact solve"], solvers))
    figure = Picture(5.5, 3.6)
    panel = figure.subplots()
    for name, tests in found.items():
        look = GRAND.looks[name]
        panel.plot(SPANS, [statistics.mean(x) for x in tests], **look, label=name.upper())
        panel.fill_between(SPANS, [min(x) for x in tests], [max(x) for x in tests], color=look["color"], alpha=0.14)
    panel.set(xscale="log", xlabel="depth T", ylabel="test accuracy", ylim=(0.7, 0.86))
    panel.set_xticks(SPANS, [f"{span:g}" for span in SPANS], minor=False)
    panel.minorticks_off()
    panel.grid(alpha=0.25)
    panel.legend()
    figure.savefig(FIGURE, dpi=150)


if __name__ == "__main__":
    main()
