"""docs/training.md does what it says."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"


def test_the_code_on_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        exec(compile(code, PAGE.name, "exec"), names)
    history = names["history"]
    assert history.validation["loss"][history.best - 1] < 0.5 * history.validation["loss"][0]
    assert min(history.train["nfe"]) > 0 and Path("training.pt").is_file()
