"""Index in a process of its own, kill it at a random moment, look at what is left: ROUNDS times.

One process imports everything and forks for each round, which spares the imports. Prints a line of JSON.
"""

import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

from mainspring.products.search import Document, Index
from support.hashed_words import HashedWords

AT_ONCE = 5


def write(folder: Path, first: int, acknowledged: int) -> None:
    """Add, replace and delete documents, telling each that is acknowledged."""
    index = Index.open(folder, encoder=HashedWords(64))
    number = first
    while True:
        keys = [f"d{number + i}" for i in range(AT_ONCE)]
        index.add(
            [Document(key, f"document unique{key} with some common words", f"Title {key}") for key in keys]
        )
        os.write(acknowledged, "".join(f"+{key}\n" for key in keys).encode())
        if number % 3 == 0:
            os.write(acknowledged, f"?{keys[0]}\n".encode())  # from here on it may be gone, or not yet
            index.delete([keys[0]])
            os.write(acknowledged, f"-{keys[0]}\n".encode())
        number += AT_ONCE


def look(folder: Path, live: set[str], dead: set[str], answer: int) -> None:
    """Open what is left; tell what was lost, and whether the three parts agree."""
    index = Index.open(folder, encoder=HashedWords(64))
    lost = [key for key in live if index.text(key) is None]
    risen = [key for key in dead if index.text(key) is not None]
    unfound = [
        k for k in live if [h.key for h in index.search(f"unique{k}", semantic=False, top=2).hits] != [k]
    ]
    index.encode()
    counts = index.store.counts()
    agree = index.snapshot().lexical.passages == counts["passages"] == counts["encoded"]
    near = [
        k
        for k in sorted(live)[-20:]
        if index.search(f"document unique{k}", top=1, captions=False).hits[0].key != k
    ]
    report = {"lost": lost, "risen": risen, "unfound": unfound, "agree": agree, "near": near, **counts}
    os.write(answer, json.dumps(report).encode())


def main(folder: Path, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    live: set[str] = set()
    dead: set[str] = set()
    child = os.fork()
    if not child:
        Index.create(folder, encoder=HashedWords(64)).close()
        os._exit(0)
    os.waitpid(child, 0)
    for turn in range(rounds):
        end, begin = os.pipe()
        child = os.fork()
        if not child:
            write(folder, turn * 100_000, begin)
        os.close(begin)
        # Not before something was acknowledged, then at any moment.
        select.select([end], [], [], 20)
        time.sleep(rng.uniform(0, 0.12))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told = b""
        while block := os.read(end, 1 << 16):
            told += block
        os.close(end)
        for line in told.decode().splitlines():
            live.discard(line[1:])
            if line[0] != "?":
                (live if line[0] == "+" else dead).add(line[1:])
        end, begin = os.pipe()
        child = os.fork()
        if not child:
            look(folder, live, dead, begin)
            os._exit(0)
        os.close(begin)
        report = b""
        while block := os.read(end, 1 << 16):
            report += block
        os.close(end)
        _, status = os.waitpid(child, 0)
        print(
            json.dumps({"round": turn, "status": status, "live": len(live), **json.loads(report or b"{}")}),
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
