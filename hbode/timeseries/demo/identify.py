"""The first part of the demo: the structure identified from a record of its motion, simulated for a new force."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...reporting.tables import aligned, markdown_table
from ..identification import SystemIdentifier
from ..records import Array, Records
from ..simulation import FreeRun, compare, write_report
from ..simulation.comparison import Compared
from ..simulation.report import table
from ..structure import Structure, structure_records

ROWS, TEST_ROWS = 768, 768


@dataclass(frozen=True)
class Identified:
    """The records, what models made of them, and what the demo says of it: terminal, summary.md, metrics.json."""

    train: Records
    test: Records
    compared: list[Compared]
    lines: list[str]
    page: str
    numbers: dict[str, Any]


def simulate_structure(folder: Path, seed: int, jobs: int, say: Callable[[str], None]) -> Identified:
    """Fit a model to force and displacements, simulate a new force, write a report into a new folder."""
    structure = Structure()
    train = structure_records(ROWS, seed, structure)
    new = replace(structure, band=(0.7, 8.0))
    test = structure_records(TEST_ROWS, seed + 1, new)
    say(f"Identification: {train.source}; force and displacements, {ROWS} rows at {structure.rate:g} Hz.")
    started = time.perf_counter()
    identifier = SystemIdentifier(
        "hbnode",
        hidden=2,
        initial=20,
        stretch=150,
        validation=0.2,
        evaluations=12,
        seeds=2,
        random_state=seed,
        jobs=min(jobs, 2),
    ).fit(train)
    seconds = time.perf_counter() - started
    free_run = FreeRun.of(identifier, test, identifier.initial)
    compared = compare(identifier, train, free_run, seconds, say=say)

    def stiffness(x: Array) -> Array:
        """Return k₁ + k₂ + 3 κ x² in 1/s², x in mm."""
        return structure.springs[0] + structure.springs[1] + 3 * structure.cubic * (x / 1e3) ** 2

    folder.mkdir()
    title = "A made-up structure identified from its force and displacements, and simulated for a new force"
    notes = (
        "The records are simulated, noise included: they are what the figures call measured.",
        f"Fitted to {ROWS} rows, {ROWS / structure.rate:.0f} s; the new force is as strong, at other frequencies.",
        "The model knows neither masses nor springs. True: natural frequencies without the cubic spring "
        + ", ".join(f"{f:.4g} Hz" for f in structure.frequencies().tolist())
        + f"; damping γ = {structure.damping:g} 1/s.",
    )
    files = write_report(
        folder, "hbode demo", title, identifier, free_run, compared, notes, stiffness={"Displacement1": stiffness}
    )
    shown = "\n".join(
        f"![{name.removesuffix('.png')}]({folder.name}/{name})\n" for name in files if name.endswith(".png")
    )
    rows = table(compared, free_run)
    page = f"# {title}\n\n{' '.join(notes)}\n\n{markdown_table(rows)}\n\n{shown}\n```\n{identifier.describe()}\n```\n"
    numbers = {"test": free_run.as_json(), "models": {one.name: one.as_json() for one in compared}}
    lines = ["", *aligned(rows), *(f"{one.name}: {one.note}" for one in compared if one.note), ""]
    return Identified(train, test, compared, [*lines, *str(identifier.describe()).split("\n"), ""], page, numbers)
