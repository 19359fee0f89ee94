"""The scratch folder of one rank of one run: taken, marked, locked, and emptied of what a killed run left.

Nothing in it is of use once the process that made it has ended. The kernel lets go of the lock then, however
it ended; whoever comes next sees a folder that is marked and not locked, and removes it. A run that is
resumed writes its states from the checkpoint anew.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import uuid
import weakref
from pathlib import Path

from mainspring.errors import DiskError

PREFIX = "mainspring-scratch-"
MARK = "scratch.json"


class Scratch:
    """A fresh folder below `parent`, removed by `close`.

    Args:
        parent: made if it is not there; other things in it are left alone.
        rank: of this process, for the name.

    Raises:
        DiskError: the folder cannot be made or written to.
    """

    def __init__(self, parent: str | Path, rank: int = 0) -> None:
        parent = Path(parent)
        self.run = uuid.uuid4().hex[:12]
        self.path = parent / f"{PREFIX}{self.run}-rank{rank:05d}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            sweep(parent)
            self.path.mkdir(mode=0o700)
            # Locked before it is marked: a marked folder without a lock is a dead one.
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            said = {
                "what": "scratch of a running training process; no checkpoint; removed when it ends",
                "run": self.run,
                "rank": rank,
                "host": socket.gethostname(),
                "process": os.getpid(),
            }
            (self.path / MARK).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise DiskError(
                f"the folder of the disk tier, {parent}, cannot be used: {error.strerror or error} "
                f"({error.filename}); name one that you may write to (plan.offload_folder)"
            ) from error

        self._remove = weakref.finalize(self, _remove, self.path, self._lock, os.getpid())

    def close(self) -> None:
        """Remove the folder and all in it; calling it again does nothing."""
        self._remove()


def _remove(folder: Path, lock: int, process: int) -> None:
    if os.getpid() == process:  # and not a fork of it that ends
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(parent: Path) -> list[Path]:
    """Remove what runs that were killed left below `parent`, and return it.

    A folder whose process lives (its lock is held, also on another machine that shares a file system with
    locks) is left alone, and so is everything that has not our mark.
    """
    removed = []
    for folder in sorted(parent.glob(f"{PREFIX}*")):
        if (folder / MARK).is_file() and _abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _abandoned(folder: Path) -> bool:
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True
