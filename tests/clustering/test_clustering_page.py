"""docs/clustering.md does what it says."""

import re
from pathlib import Path

import numpy as np
from sklearn.metrics import adjusted_rand_score

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "clustering.md").read_text(encoding="utf-8")


def test_all_code_on_the_page_runs():
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S):
        exec(compile(code, "clustering.md", "exec"), names)
    assert adjusted_rand_score(names["truth"], names["model"].labels_) == 1
    assert names["variables"].labels_.tolist() == [0, 0, 0, 1, 1]
    assert np.allclose(names["back"], names["sensors"], atol=1e-12, rtol=0)
    assert names["regimes"].labels_.tolist() == [0] * 10 + [1] * 10 + [2] * 10
