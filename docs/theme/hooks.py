"""What does the site do with a page that GitHub does by itself, or does not do?"""

from __future__ import annotations

import re
from typing import Any

# Blocks with prompts, whose results are not Python.
SESSION = re.compile(r"^```python(?=\n>>> )", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Colours results of a session as results, so that copying leaves them and prompts out."""
    return SESSION.sub("```pycon", markdown)
