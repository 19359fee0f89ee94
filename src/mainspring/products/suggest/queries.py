"""Past queries and how often each was asked, in a file that only grows and is read at the start."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import Counter
from pathlib import Path

from mainspring.errors import DiskError
from mainspring.products.suggest.prefixes import normal

LONGEST = 200
"""Characters of a query that is kept."""
_MOST = 200_000


class QueryLog:
    """Queries in a file of one JSON text a line; several threads and processes may add."""

    def __init__(self, path: str | Path) -> None:
        """Read what is there; lines that are damaged are left out."""
        self.path = Path(path)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self.changes = 0
        """Number of queries added by this process."""
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError):  # a line that a process died while writing
                    query = json.loads(line)
                    if isinstance(query, str):
                        self._counts[query] += 1

    def add(self, query: str) -> None:
        """Count a query, without case; what is too long or empty is passed over.

        Raises:
            DiskError: the file cannot be written.
        """
        text = normal(query).strip()
        if not text or len(text) > LONGEST:
            return
        line = (json.dumps(text, ensure_ascii=True) + "\n").encode("ascii")
        with self._lock:
            if text not in self._counts and len(self._counts) >= _MOST:
                return
            try:
                descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                try:
                    os.write(descriptor, line)
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise DiskError(f"{self.path}: past queries cannot be kept ({error.strerror})") from error
            self._counts[text] += 1
            self.changes += 1

    def counts(self, least: int = 1) -> dict[str, int]:
        """Queries with the number of times each was asked.

        Args:
            least: leave out those asked fewer times, which may be somebody's secret.
        """
        with self._lock:
            return {query: count for query, count in self._counts.items() if count >= least}
