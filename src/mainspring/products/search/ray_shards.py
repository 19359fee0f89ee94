"""Shards on other machines: each an actor of Ray that has its index open (extra: ray).

Ray starts an actor anew whose process or machine is gone; until it answers again, searches go without it
(`Results.lost`). An index's folder has to lie at the same path wherever its actor may run.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mainspring.errors import require
from mainspring.products.search.bm25 import Statistics
from mainspring.products.search.index import Index
from mainspring.products.search.rank import Candidate
from mainspring.products.search.recall import Lists, Recalled
from mainspring.products.search.shards import IndexShard, LostShardError, Told, Wanted

TIMEOUT = 10.0
"""Seconds after which a shard that has not answered is left out."""


def start(
    folders: Sequence[str | Path], *, cores: float = 1.0, timeout: float = TIMEOUT
) -> dict[str, RayShard]:
    """An actor for each folder, on whatever machines the Ray that this process is connected to has.

    Args:
        folders: of indexes, as `shards.split` makes them.
        cores: processor cores that each actor takes.
        timeout: seconds after which a shard that has not answered is left out of a search.

    Returns:
        Shards by name, for `ShardedIndex`. They end with this process, or with `stop`.

    Raises:
        MissingExtraError: ray is not installed.
        SearchIndexError: there is no index in a folder.
    """
    ray = require("ray", "ray")
    # Restarted as often as need be; a call is never repeated, so that a search does not wait for a restart.
    kind = ray.remote(num_cpus=cores, max_restarts=-1, max_task_retries=0)(_Held)
    actors = {Path(folder).name: kind.remote(str(Path(folder).resolve())) for folder in folders}
    assert len(actors) == len(folders), "shards have names of their own"
    shards = {name: RayShard(ray, actor, name, timeout) for name, actor in actors.items()}
    ray.get([actor.process.remote() for actor in actors.values()])  # opened, or refused
    return shards


class _Held(IndexShard):
    """What runs in an actor."""

    def __init__(self, folder: str) -> None:
        super().__init__(Index.open(folder))

    def process(self) -> int:
        """Number of its process."""
        return os.getpid()


class RayShard:
    """A shard in an actor; a `Shard` that is lost while the actor does not answer."""

    def __init__(self, ray: Any, actor: Any, name: str, timeout: float) -> None:
        self._ray, self.actor, self._name, self._timeout = ray, actor, name, timeout

    def stop(self) -> None:
        """End the actor for good."""
        self._ray.kill(self.actor)

    def tell(self) -> Told:
        """Its languages."""
        told: Told = self._asked(self.actor.tell.remote)
        return told

    def statistics(self, query: str, languages: Collection[str]) -> Statistics:
        """Of the query's terms."""
        found: Statistics = self._asked(self.actor.statistics.remote, query, list(languages))
        return found

    def lists(self, wanted: Wanted, statistics: Statistics) -> Lists:
        """What its indexes find, scored by these statistics."""
        found: Lists = self._asked(self.actor.lists.remote, wanted, statistics)
        return found

    def looked_up(self, candidates: Sequence[Candidate], vector: NDArray[np.float32] | None) -> Recalled:
        """What is known of its candidates."""
        found: Recalled = self._asked(self.actor.looked_up.remote, list(candidates), vector)
        return found

    def _asked(self, call: Any, *given: Any) -> Any:
        lost = self._ray.exceptions
        try:
            return self._ray.get(call(*given), timeout=self._timeout)
        except (lost.RayActorError, lost.GetTimeoutError) as error:
            reason = str(error).strip().splitlines()
            said = reason[0] if reason else type(error).__name__
            raise LostShardError(f"shard {self._name}: does not answer ({said})") from error
