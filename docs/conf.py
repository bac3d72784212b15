"""How Sphinx builds the site: `make docs`."""

from __future__ import annotations

import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

from reference import escaped, links, write  # noqa: E402

import hbode  # noqa: E402

project, author, release = "hbode", "The hbode authors", hbode.__version__
copyright = author
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type", "ref.python"]  # a field of several classes is no link
nb_execution_mode = "off"  # they are kept with their outputs: make notebooks
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the section Parameters says more
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"hbode {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_theme_options = {"sidebar_hide_name": False, "navigation_with_keys": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Formulas are drawn in the browser by a file of the site itself: no network is asked for anything.
mathjax_path = "tex-svg-full.js"
html_static_path += [str(x.locate()) for x in metadata.files("sphinx-mathjax-offline") or () if x.name == mathjax_path]
linkcheck_anchors = False


LINKS = links()


def escape(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Make docstrings what they look like: |λ| and (T, *h0) no markup, names links; examples stay as they are."""
    example = False
    for n, line in enumerate(lines):
        example = (example and bool(line.strip())) or line.lstrip().startswith(">>>")
        if not example:
            lines[n] = escaped(line, LINKS)


def skip(app: Any, what: str, name: str, obj: object, skipped: bool, options: Any) -> bool | None:
    """Leave out what scikit-learn adds to estimators for the routing of metadata."""
    return True if re.fullmatch(r"set_\w+_request|get_metadata_routing", name) else None


def setup(app: Any) -> None:
    write(DOCS / "api")
    notebooks = DOCS / "notebooks"
    notebooks.mkdir(exist_ok=True)
    for path in sorted((DOCS.parent / "notebooks").glob("*.ipynb")):
        shutil.copy2(path, notebooks)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon
