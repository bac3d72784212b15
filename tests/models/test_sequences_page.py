"""docs/sequences.md does what it says."""

import re
from pathlib import Path

import torch

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sequences.md").read_text(encoding="utf-8")


def test_all_code_on_the_page_runs():
    torch.manual_seed(0)
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S):
        exec(compile(code, "sequences.md", "exec"), names)
    assert names["published"].settings["momentum"] == 0.6
