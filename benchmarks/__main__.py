"""Run every benchmark, then write docs/benchmarks.md from their JSON."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HELPERS = {"__init__", "__main__", "harness", "trainer"}


def main() -> int:
    """Exit status 1 when a bar is missed anywhere."""
    here = Path(__file__).parent
    names = sorted(p.stem for p in here.glob("*.py") if p.stem not in HELPERS)
    status = 0
    for name in names:
        print(f"== benchmarks.{name}", flush=True)
        status |= subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=False
        ).returncode
    if "--quick" not in sys.argv:
        subprocess.run([sys.executable, "-m", "tools.reference"], check=True)
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
