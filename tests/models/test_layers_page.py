"""docs/layers.md does what it says."""

import re
from pathlib import Path

import torch

from hbode.models import PUBLISHED

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "layers.md").read_text(encoding="utf-8")


def test_all_code_on_the_page_runs():
    torch.manual_seed(0)
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S):
        exec(compile(code, "layers.md", "exec"), names)
    assert names["states"].shape == (5, 16, 6)
    assert names["images"].shape == (2, 8, 12, 12)
    assert names["paths"].shape == (20, 16, 3, 2)
    assert torch.equal(~names["said"].reconstruction.isnan().any(-1), names["whole"])


def test_all_published_systems_are_on_the_page():
    assert all(f"`{name}`" in PAGE for name in PUBLISHED)
