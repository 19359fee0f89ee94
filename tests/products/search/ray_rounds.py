"""Shards in actors of a local Ray, as a program of its own: a line of JSON for each thing it looked at.

Arguments: a folder of shards, and a query.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import ray

from mainspring.products.search.equipment import Models
from mainspring.products.search.rank import BiEncoderRanker
from mainspring.products.search.ray_shards import start
from mainspring.products.search.shards import ShardedIndex, folders_of
from support.hashed_words import HashedWords


@ray.remote(num_cpus=0)
def end(pid: int) -> None:
    """End a process of this machine, from within the cluster."""
    os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Search, lose a shard, search again until it is back."""
    folders, query = folders_of(Path(sys.argv[1])), sys.argv[2]
    ray.init(num_cpus=len(folders), include_dashboard=False, log_to_driver=False, configure_logging=False)
    shards = start(folders, cores=0.5, timeout=60)
    searched = ShardedIndex(shards, Models(HashedWords(), BiEncoderRanker(), None, None, None))

    def tell(name: str) -> list[str]:
        found = searched.search(query, top=200)
        hits = [[hit.key, hit.score, hit.relevance] for hit in found.hits]
        print(json.dumps({"round": name, "hits": hits, "lost": list(found.lost)}), flush=True)
        return list(found.lost)

    tell("whole")
    victim = shards[folders[1].name]
    # The process is killed, not the actor, which Ray therefore starts anew.
    pid = ray.get(victim.actor.process.remote())
    ray.get(end.remote(pid))
    began = time.monotonic()
    lost: list[str] = []
    while not lost and time.monotonic() - began < 30:
        lost = tell("killed")
    while lost and time.monotonic() - began < 120:
        time.sleep(0.5)
        lost = tell("later")
    ray.shutdown()


if __name__ == "__main__":
    main()
