"""docs/identification.md does what it says."""

import math
import re
import shlex
from pathlib import Path

import pytest

from hbode.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "identification.md"


@pytest.mark.slow
def test_all_code_on_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for language, code in re.findall(r"^```(python|console)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        if language == "python":
            exec(compile(code, PAGE.name, "exec"), names)
        else:
            assert all(main(shlex.split(line)[1:]) == 0 for line in code.splitlines())
    # Drag makes the damping 0.3 + 0.3 |v|, up to 1.8: a constant is in between, and what the grey box misses.
    assert names["mode"].frequency == pytest.approx(3 / (2 * math.pi), rel=0.1)
    assert 0.3 < names["damping"] < 1.8
    grey, corrected = (100 - names[model].score(names["test"]) for model in ("grey", "corrected"))
    assert corrected < 0.6 * grey
    assert 0.4 < names["inside"] <= 1
    assert (names["loaded"].predict(names["test"]) == names["again"].predict(names["test"])).all()
    assert all(Path(file).is_file() for file in ("model/report.md", "simulated.csv", "energy.png"))
