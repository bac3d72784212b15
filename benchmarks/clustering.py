"""Kernel treelets beside the clustering of scikit-learn: time, toy sets, mice proteins.

- time: CPU seconds of `KernelTreelets` from 500 to 8,000 samples, kernel matrix included, taking turns with Ward; the
  slope of log time over log n.
- toys: the six sets of scikit-learn's comparison page, 500 samples, adjusted Rand index, mean over ten seeds. The
  number of clusters is given, but to DBSCAN, which has the radius of that page's setting for the set. All else is a
  default. The rules for γ and outliers were chosen on other seeds of these sets.
- mice: 1,080 measurements of 77 proteins in 72 mice of eight classes (Higuera, Gardiner, Cios 2015), standardised,
  missing values (1.7 %) replaced by means. Two measurements are a pair; a clustering calls it positive where both are
  in one cluster, and it is positive where both are of one class. AUC is the area under true over false positive
  rate along all levels of a tree, or along the numbers of clusters `COUNTS` with the ends (0, 0) and (1, 1), by
  trapezes. Xia and Ceniceros (arXiv 1812.04808) report .726 for kernel treelets; their code computes this area. γ and
  the numbers of neighbours are defaults, or the same for treelets and spectral clustering. That "neighbours" is a
  kernel of the package, and its rule of 2 ln n, comes from the toy sets and from these data, of which "rbf" makes
  little; the second table shows how much the number matters.

    python benchmarks/clustering.py [time toys mice] [--data ../shared/data]
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import header, table
from _systems import DATA
from scipy.cluster import hierarchy
from sklearn import datasets
from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans, SpectralClustering
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import StandardScaler

from hbode.clustering import KernelTreelets

SIZES = (500, 1000, 2000, 4000, 8000)
SEEDS = range(100, 110)
COUNTS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 72, 110, 160, 240)
NEIGHBOURS = (10, 14, 20, 30)


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def times() -> None:
    draws = {
        "5 blobs in 2 dimensions": lambda n: datasets.make_blobs(n, centers=5, random_state=0)[0],
        "uniform in 10 dimensions": lambda n: np.random.default_rng(0).uniform(size=(n, 10)),
    }
    for name, draw in draws.items():
        rows, kept = [], []
        for n in SIZES:
            x, repeats = draw(n), 2 if n > 4000 else 5
            runs = {
                "rbf": lambda x=x: KernelTreelets(5).fit(x),
                "neighbours": lambda x=x: KernelTreelets(5, kernel="neighbours").fit(x),
                "Ward": lambda x=x: AgglomerativeClustering(5).fit(x),
            }
            seconds = [{key: cpu_seconds(run) for key, run in runs.items()} for _ in range(repeats)]
            ratios = [statistics.median(s[key] / s["Ward"] for s in seconds) for key in ("rbf", "neighbours")]
            kept.append([statistics.median(s[key] for s in seconds) for key in runs])
            rows.append([str(n), *(f"{s:.3f}" for s in kept[-1]), *(f"{r:.2f}" for r in ratios)])
        slopes = [
            statistics.linear_regression(np.log(SIZES), np.log(column)).slope for column in zip(*kept, strict=True)
        ]
        rows.append(["slope", *(f"{s:.2f}" for s in slopes), "", ""])
        print(f"{name}, CPU seconds\n")
        print(table(["n", "rbf", "neighbours", "Ward", "rbf / Ward", "neighbours / Ward"], rows), "\n")


def toys() -> None:
    def sheared(n: int, seed: int) -> tuple[Any, Any]:
        x, y = datasets.make_blobs(n, random_state=seed)
        return x @ [[0.6, -0.6], [-0.4, 0.8]], y

    draws: dict[str, tuple[Callable[[int, int], tuple[Any, Any]], int, float]] = {
        "circles": (lambda n, s: datasets.make_circles(n, factor=0.5, noise=0.05, random_state=s), 2, 0.3),
        "moons": (lambda n, s: datasets.make_moons(n, noise=0.05, random_state=s), 2, 0.3),
        "varied": (lambda n, s: datasets.make_blobs(n, cluster_std=[1.0, 2.5, 0.5], random_state=s), 3, 0.18),
        "sheared": (sheared, 3, 0.15),
        "blobs": (lambda n, s: datasets.make_blobs(n, random_state=s), 3, 0.3),
        "no structure": (lambda n, s: (np.random.RandomState(s).rand(n, 2), None), 3, 0.3),
    }
    methods: dict[str, Callable[[int, float], Any]] = {
        "rbf": lambda k, eps: KernelTreelets(k),
        "neighbours": lambda k, eps: KernelTreelets(k, kernel="neighbours"),
        "rbf, plain cut": lambda k, eps: KernelTreelets(k, min_share=0),
        "Ward": lambda k, eps: AgglomerativeClustering(k),
        "spectral": lambda k, eps: SpectralClustering(k, affinity="nearest_neighbors", random_state=0),
        "DBSCAN": lambda k, eps: DBSCAN(eps=eps),
    }
    rows = []
    for name, (draw, clusters, eps) in draws.items():
        cells = []
        for make in methods.values():
            values = []
            for seed in SEEDS:
                x, y = draw(500, seed)
                labels = make(clusters, eps).fit_predict(StandardScaler().fit_transform(x))
                values.append(adjusted_rand_score(y, labels) if y is not None else np.bincount(labels + 1).max() / 5)
            cells.append(f"{np.mean(values):.3f}" if y is not None else f"{np.mean(values):.0f} %")
        rows.append([name, *cells])
    print("Adjusted Rand index; where there is no structure, the share of the largest of three clusters\n")
    print(table(["set", *methods], rows), "\n")


def mice(folder: Path) -> None:
    path = folder / "mice_protein.csv"
    if not path.exists():
        print(f"no {path}: the part `mice` is left out\n")
        return
    with path.open(newline="") as file:
        lines = list(csv.reader(file))[1:]
    raw = np.array([[float(cell) if cell else math.nan for cell in line[1:78]] for line in lines])
    classes = np.unique([line[-1] for line in lines], return_inverse=True)[1]
    raw = (raw - np.nanmean(raw, 0)) / np.nanstd(raw, 0)
    x = np.where(np.isnan(raw), 0.0, raw)

    def rates(labels: Any) -> tuple[float, float]:
        """Return false and true positive rate over pairs."""
        counts = np.zeros((labels.max() + 1, classes.max() + 1))
        np.add.at(counts, (labels, classes), 1)
        n = len(classes)
        both, cluster, same = ((c**2).sum() - n for c in (counts, counts.sum(1), counts.sum(0)))
        return (cluster - both) / (n * (n - 1) - same), both / same

    def area(clusterings: Sequence[Any]) -> str:
        points = np.array(sorted({(0.0, 0.0), (1.0, 1.0), *map(rates, clusterings)}))
        return f"{np.trapezoid(points[:, 1], points[:, 0]):.3f}"

    def of_tree(tree: Any) -> list[str]:
        levels = hierarchy.cut_tree(tree).T
        return [area(levels), area([levels[len(classes) - k] for k in COUNTS])]

    def of_counts(make: Callable[[int], Any]) -> list[str]:
        return ["", area([make(k).fit_predict(x) for k in COUNTS])]

    def published(a: Any, b: Any) -> Any:
        """exp(-32 d²), d the mean square difference over the proteins that both have: in the authors' code."""
        one, other = (~np.isnan(v) for v in (a, b))
        u, v = np.where(one, a, 0.0), np.where(other, b, 0.0)
        squares = (u * u) @ other.T + one @ (v * v).T - 2 * u @ v.T
        return np.exp(-32 * (squares / (one.astype(float) @ other.T)) ** 2)

    def spectral(k: int, neighbours: int) -> Any:
        return SpectralClustering(k, affinity="nearest_neighbors", n_neighbors=neighbours, random_state=0)

    def index(model: Any, of: Any = x) -> str:
        return f"{adjusted_rand_score(classes, model.fit_predict(of)):.3f}"

    default = math.ceil(2 * math.log(len(classes)))
    trees = {
        f"treelets, neighbours ({default})": (KernelTreelets(8, kernel="neighbours"), x),
        "treelets, rbf": (KernelTreelets(8), x),
        "treelets, kernel of the authors' code": (KernelTreelets(8, kernel=published), raw),
    }
    rows = [["published: kernel treelets", ".726", "", ""]]
    for name, (model, of) in trees.items():
        rows.append([name, *of_tree(model.fit(of).linkage_), index(model, of)])
    rows.append(["Ward", *of_tree(hierarchy.linkage(x, "ward")), index(AgglomerativeClustering(8))])
    rows.append(["average linkage", *of_tree(hierarchy.linkage(x, "average")), ""])
    rows.append(
        ["k-means", *of_counts(lambda k: KMeans(k, n_init=3, random_state=0)), index(KMeans(8, random_state=0))]
    )
    for n in (default, 10):
        rows.append([f"spectral ({n})", *of_counts(lambda k, n=n: spectral(k, n)), index(spectral(8, n))])
    print(
        "Mice proteins: AUC of pairs, along all levels and along the same numbers of clusters; ARI of eight clusters\n"
    )
    print(table(["method", "AUC, levels", "AUC, counts", "ARI"], rows), "\n")
    rows = []
    for n in NEIGHBOURS:
        model = KernelTreelets(8, kernel="neighbours", n_neighbors=n).fit(x)
        rows.append([str(n), *of_tree(model.linkage_), of_counts(lambda k, n=n: spectral(k, n))[1]])
    print(table(["neighbours", "treelets, AUC, levels", "treelets, AUC, counts", "spectral, AUC, counts"], rows), "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], "time", "toys", "mice"], help="default: all")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data (default: %(default)s)")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message="Graph is not fully connected")
    print(header("Kernel treelets"))
    for name, part in (("time", times), ("toys", toys), ("mice", lambda: mice(given.data))):
        if not given.parts or name in given.parts:
            part()


if __name__ == "__main__":
    main()
