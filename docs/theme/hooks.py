"""What does the site do with a page that GitHub does by itself, or does not do?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

# Blocks with prompts, whose results are not Python.
SESSION = re.compile(r"^```python(?=\n>>> )", re.MULTILINE)
DRAWING = re.compile(r"^!\[([^\]]*)\]\((?:\S*/)?drawings/(\w+\.svg)\)$", re.MULTILINE)
# What a browser would fetch by itself from somewhere else.
FETCHED = re.compile(
    r'<(?:script|img|iframe|source)[^>]*\ssrc="(?:https?:)?//'
    r'|<link[^>]*rel="(?:stylesheet|preconnect|preload)"[^>]*href="(?:https?:)?//'
    r'|url\("?(?:https?:)?//'
)


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Colours results of a session as results, so that copying leaves them and prompts out, and
    makes drawings part of the page, so that they take its colours."""
    drawings = Path(config.docs_dir) / "drawings"

    def inline(found: re.Match[str]) -> str:
        svg = re.sub(r"<style>.*?</style>\n", "", (drawings / found[2]).read_text())
        return f'<figure class="drawing">{svg}<figcaption>{found[1]}</figcaption></figure>'

    return DRAWING.sub(inline, SESSION.sub("```pycon", markdown))


def on_post_build(config: Any, **_: Any) -> None:
    """Refuses a site that fetches anything from elsewhere."""
    for kind in ("*.html", "*.css"):
        for page in Path(config.site_dir).rglob(kind):
            found = FETCHED.search(page.read_text())
            if found:
                raise PluginError(f"{page} fetches from elsewhere: {found[0]}")
