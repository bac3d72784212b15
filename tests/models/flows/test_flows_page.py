"""docs/flows.md does what it says."""

import re
from pathlib import Path

import torch

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "flows.md").read_text(encoding="utf-8")


def test_all_code_on_the_page_runs():
    torch.manual_seed(0)
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S):
        exec(compile(code, "flows.md", "exec"), names)
    assert names["log_p"].shape == (100,) and names["points"].shape == (1000, 2)
    assert names["drawn"].shape == (5, 10, 2) and names["scores"].shape == (5, 10)
    assert min(names["cost"]) > 0
