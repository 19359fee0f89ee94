"""The page at /: one self-contained HTML file, and the headers that keep it from loading anything else."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files


def policy(html: str) -> str:
    """A content security policy that allows exactly the page's own inline script and style."""

    def digests(tag: str) -> str:
        bodies = [body.encode() for body in re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)]
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(b).digest()).decode()}'" for b in bodies)

    return (
        f"default-src 'none'; script-src {digests('script')}; style-src {digests('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


HTML = files("mainspring.serve").joinpath("page.html").read_text(encoding="utf-8")
"""The page."""
HEADERS = {
    "content-security-policy": policy(HTML),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
"""Its headers."""
