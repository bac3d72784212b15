"""Without the extra, the plain engine trains and the other says what to install."""

import sys

import pytest
from training.problems import line, linear, settings, squared

import hbode.training
from hbode.lazy import MissingExtra


def test_without_lightning(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.delitem(sys.modules, "hbode.training.lightning_engine", raising=False)
    with pytest.raises(MissingExtra, match=r"needs lightning: pip install 'hbode\[train\]'"):
        hbode.training.train(linear(), squared, line(), settings(), engine="lightning")
    with pytest.raises(MissingExtra, match=r"hbode\[train\]"):
        hbode.training.Lightning  # noqa: B018
    assert hbode.training.train(linear(), squared, line(), settings()).epochs == 4
