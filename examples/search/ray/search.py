"""Search an index that is spread over machines: shards in actors of Ray, one question a line.

    mainspring search split my-index --to shards --shards 4
    ray start --head                      # on the first machine
    ray start --address FIRST:6379        # on the others
    python search.py shards

Each line of the input is a query; its answer is a line of JSON with the documents that were found and the
shards that did not answer. The shards' folder has to be on every machine at the same path.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import ray

from mainspring.errors import UsageError
from mainspring.products.search import Index
from mainspring.products.search.ray_shards import start
from mainspring.products.search.shards import LostShardError, ShardedIndex, folders_of


def main() -> None:
    """Start the shards and answer until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", help="folder that `mainspring search split` made")
    parser.add_argument("--address", default="auto", help="of Ray; local starts one here")
    parser.add_argument("--cores", type=float, default=1.0, help="processor cores of each shard")
    parser.add_argument("--top", type=int, default=5, help="documents to return")
    given = parser.parse_args()
    folders = folders_of(Path(given.shards))
    if not folders:
        raise UsageError(f"{given.shards}: no shards are here; make some: mainspring search split")
    ray.init(None if given.address == "local" else given.address, log_to_driver=False)
    shards = start(folders, cores=given.cores)
    with Index.open(folders[0]) as first:  # its encoder reads the queries
        searched = ShardedIndex(shards, first.models())
        print(json.dumps({"shards": list(shards)}), flush=True)
        for line in sys.stdin:
            try:
                found = searched.search(line.strip(), top=given.top)
            except LostShardError as error:
                print(json.dumps({"error": str(error)}), flush=True)
                continue
            print(
                json.dumps({"hits": [asdict(hit) for hit in found.hits], "lost": list(found.lost)}),
                flush=True,
            )


if __name__ == "__main__":
    main()
