"""Look over a built site: links lead somewhere, nothing comes from elsewhere, all that is public is there.

python docs/check.py docs/_build/html
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from reference import reference

LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """The anchors of a page, where its links lead, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        self.anchors |= {own[key] or "" for key in ("id", "name") if key in own}
        if tag == "a" and own.get("href"):
            self.links.append(own["href"] or "")
        if own.get(LOADED.get(tag, "")) and own.get("rel") not in ("canonical", "alternate"):
            self.loaded.append(own[LOADED[tag]] or "")


def problems(site: Path) -> list[str]:
    """Return what is wrong, a line each."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    wrong = []
    for path, page in pages.items():
        name = path.relative_to(site)
        wrong += [f"{name} loads {url}" for url in page.loaded if urlsplit(url).netloc]
        for url in (*page.links, *(url for url in page.loaded if not url.startswith("data:"))):
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                wrong.append(f"{name} links to {url}, which is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                wrong.append(f"{name} links to {url}, which has no such place")
    anchors = set().union(*(page.anchors for page in pages.values()))
    for package, names in reference().items():
        wrong += [f"{package}.{name} is not in the reference" for name in names if f"{package}.{name}" not in anchors]
    return wrong


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]).resolve())
    print(*found, sep="\n")
    print(f"{len(found)} problems")
    sys.exit(bool(found))
