"""The reference: all that is public is on its pages, and has an example that runs."""

import doctest
import importlib.util
import inspect
import warnings
from importlib import import_module
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).resolve().parents[1] / "docs"
_spec = importlib.util.spec_from_file_location("site_reference", DOCS / "reference.py")
assert _spec is not None and _spec.loader is not None
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)
FOUND = reference.reference()
DESCRIBED = {
    f"{package}.{name}": value
    for package, names in FOUND.items()
    for name, value in names.items()
    if reference.is_described(value)
}


LONG = {"hbode.experiments.reproduce", "hbode.timeseries.run_demo", "hbode.timeseries.run_forecast"}


def test_every_public_name_is_on_a_page(tmp_path):
    reference.write(tmp_path)
    pages = {path.stem: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.rst")}
    assert pages.keys() == {"index", *FOUND}
    for package, names in FOUND.items():
        lines = set(pages[package].splitlines())
        kinds = ("autoclass", "autofunction", "py:data")
        assert [n for n in names if not any(f".. {kind}:: {n}" in lines for kind in kinds)] == []


def test_every_public_name_of_a_package_is_found_once():
    once = {id(value) for names in FOUND.values() for value in names.values()}
    for package in reference.packages():
        for name in reference.public_names(package):
            value = getattr(import_module(package), name)
            assert inspect.ismodule(value) or id(value) in once, f"{package}.{name}"


def test_internal_names_exist():
    for package in reference.packages():
        module = import_module(package)
        assert set(getattr(module, "INTERNAL", ())) <= set(getattr(module, "__all__", ()))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in DESCRIBED])
def test_docstring_of_a_public_name(name, tmp_path, monkeypatch):
    """It is not the one that is made up for a dataclass, and has an example, which runs."""
    value = DESCRIBED[name]
    said = inspect.getdoc(value) or ""
    assert said and not said.startswith(f"{value.__name__}("), "has no docstring of its own"
    examples = doctest.DocTestParser().get_examples(said)
    assert examples, "has no example"
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    test = doctest.DocTest(examples, {}, name, inspect.getsourcefile(value), 0, said)
    told: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(test, out=told.append)
    assert not told, "".join(told)


def test_the_front_page_leads_everywhere():
    """Every page is in a list of contents; notebooks are, by a pattern."""
    listed = (DOCS / "index.md").read_text(encoding="utf-8") + (DOCS / "howto" / "index.md").read_text(encoding="utf-8")
    lines = {line.strip() for line in listed.splitlines()} | {"index"}
    pages = {path.stem if path.stem != "index" else "howto/index" for path in (DOCS / "howto").glob("*.md")}
    pages |= {path.stem for path in DOCS.glob("*.md")}
    assert pages - lines == set() and "notebooks/*" in lines


def test_markup_of_docstrings():
    assert reference.escaped("dt |λ| of (T, *h0), `Stats`, ``*a``", {"Stats": "hbode.Stats"}) == (
        r"dt \|λ\| of (T, \*h0), :py:obj:`Stats <hbode.Stats>`, ``*a``"
    )
    assert reference.escaped("labels_ and `x`") == r"labels\_ and ``x``"
