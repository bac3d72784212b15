"""Every notebook is stored as `make notebooks` leaves it: executed from the top, with outputs, no error."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb")) or [
    pytest.param(None, marks=pytest.mark.skip(reason="there is no notebook in notebooks/ yet"))
]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name if path else "none")
def test_stored_outputs(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    outputs = [output for cell in cells for output in cell["outputs"]]
    errors = [f"{out['ename']}: {out['evalue']}" for out in outputs if out["output_type"] == "error"]
    counts = [cell["execution_count"] for cell in cells]

    assert cells, "the notebook has no code"
    assert errors == []
    assert counts == list(range(1, len(cells) + 1)), "run `make notebooks`"
    assert outputs, "no output is stored: run `make notebooks`"
