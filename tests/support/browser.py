"""A page in headless Chromium, with what it complained of and asked for."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"width": 360, "height": 740}


class Watched:
    """A browser page, with what it complained of and asked for."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on(
            "console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda e: self.complaints.append(str(e)))
        page.on("request", lambda r: self.requests.append(r.url))

    def until(self, true: Callable[[], bool]) -> None:
        """Wait; the page's policy forbids the browser to evaluate the driver's own wait conditions."""
        deadline = time.monotonic() + 20
        while not true():
            assert time.monotonic() < deadline, self.page.locator("body").inner_text()
            self.page.wait_for_timeout(5)

    def text(self, selector: str) -> str:
        """What an element says."""
        found: str = self.page.locator(selector).text_content()
        return found

    def overflow(self) -> int:
        """Pixels that the page is wider than the window."""
        extra: int = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        return extra
