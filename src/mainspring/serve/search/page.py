"""The page at /: one self-contained HTML file, and the headers that keep it from loading anything else."""

from __future__ import annotations

from importlib.resources import files

from mainspring.serve.page import policy

HTML = files("mainspring.serve.search").joinpath("page.html").read_text(encoding="utf-8")
"""The page."""
HEADERS = {
    "content-security-policy": policy(HTML),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
"""Its headers."""
