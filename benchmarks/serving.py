"""Throughput of the HTTP service: 16 clients written side by side, and one after another.

Two servers of the same random GPT-2 stand on loopback, each in a process of its own: one writes 16 texts at
once, one writes one at a time (`slots` 1). Sixteen clients ask each in turn for streams of mixed lengths,
prompts of 8 to 192 tokens and answers of 16 to 64; a figure is the median over rounds. A third measurement
has all prompts begin with the same 160 tokens, as a system prompt does, with and without kept prefixes.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, finish, interleave, median, options, resume

CLIENTS = 16
FULL = {"d_model": 768, "n_heads": 12, "n_layers": 12, "d_ff": 3072, "max_positions": 512}
QUICK = {"d_model": 256, "n_heads": 4, "n_layers": 4, "d_ff": 1024, "max_positions": 512}
SERVER = """
import sys, json, torch
from mainspring.infer.batching import BatchSettings
from mainspring.serve import run
torch.set_num_threads(int(sys.argv[2]))
settings = BatchSettings(**json.loads(sys.argv[3]))
run(sys.argv[1], port=0, batching=settings, on_ready=lambda url: print(url, flush=True))
"""


def export(folder: Path, shape: Mapping[str, int]) -> None:
    """A random GPT-2 with the tokenizer of the installed documentation."""
    from mainspring.data import docstring_documents
    from mainspring.models import ModelConfig, resolve
    from mainspring.models.hub import export_hf
    from mainspring.nn import Transformer, initialize
    from mainspring.text import train_tokenizer

    texts = (document.text for document in docstring_documents(limit_bytes=1_000_000))
    tokenizer = train_tokenizer(texts, kind="bpe", vocab_size=8192)
    folder.mkdir(parents=True)
    tokenizer.save(folder / "tokenizer.json")
    model = ModelConfig(family="gpt2", preset="small", config={**shape})
    config = resolve(model, tokenizer.vocab_size)
    weights = initialize(Transformer(config), seed=0).state_dict()
    export_hf(model, config, weights, folder / "tokenizer.json", folder)


@contextmanager
def server(folder: Path, threads: int, settings: Mapping[str, int]) -> Iterator[str]:
    """A server process; yields its host and port."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", SERVER, str(folder), str(threads), json.dumps(settings)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip().removeprefix("http://")
    finally:
        process.terminate()
        process.wait(30)


def requests(each: int, *, common: int = 0) -> list[list[dict[str, Any]]]:
    """What each client asks, as tokens; the same for every server. `common`: tokens that all begin with."""
    rng = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(300, 8000) for _ in range(count)]

    def body() -> dict[str, Any]:
        return {
            "prompt": [*head, *tokens(rng.choice([8, 24, 64, 192 - common]))],
            "max_tokens": rng.choice([16, 32, 64]),
            "temperature": 0.8,
            "seed": rng.randrange(1000),
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    head = tokens(common)
    return [[body() for _ in range(each)] for _ in range(CLIENTS)]


def client(
    place: str, bodies: list[dict[str, Any]], found: dict[str, list[float]], lock: threading.Lock
) -> None:
    """One client's requests, one after another."""
    for body in bodies:
        started, last, first, gaps = time.perf_counter(), 0.0, 0.0, []
        connection = HTTPConnection(place, timeout=300)
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        while line := response.readline():
            if line.startswith(b"data: {"):
                now = time.perf_counter()
                if last:
                    gaps.append(now - last)
                else:
                    first = now - started
                last = now
                chunk = json.loads(line[6:])
        connection.close()
        with lock:
            found["first"].append(first)
            found["gap"] += gaps
            found["whole"].append(time.perf_counter() - started)
            found["tokens"].append(float(chunk["usage"]["completion_tokens"]))


def load(place: str, asked: list[list[dict[str, Any]]]) -> dict[str, float]:
    """All clients at once; tokens a second and the times that a client sees."""
    found: dict[str, list[float]] = {"first": [], "gap": [], "whole": [], "tokens": []}
    lock, started = threading.Lock(), time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda bodies: client(place, bodies, found, lock), asked))
    seconds = time.perf_counter() - started

    def at(name: str, share: float) -> float:
        ordered = sorted(found[name])
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000

    return {
        "tokens_s": sum(found["tokens"]) / seconds,
        "first_p50_ms": at("first", 0.5),
        "first_p99_ms": at("first", 0.99),
        "gap_p50_ms": at("gap", 0.5),
        "gap_p99_ms": at("gap", 0.99),
        "answer_p99_ms": at("whole", 0.99),
    }


def measure(
    folder: Path, threads: int, rounds: int, each: int, servers: Mapping[str, Mapping[str, int]], common: int
) -> list[dict[str, Any]]:
    """Servers side by side, asked in turn; a row for each, of medians over rounds."""
    asked = requests(each, common=common)
    with ExitStack() as stack:
        places = {
            name: stack.enter_context(server(folder, threads, settings)) for name, settings in servers.items()
        }
        for place in places.values():
            load(place, [bodies[:1] for bodies in asked[:2]])  # warm
        runs = interleave(rounds, {name: lambda p=place: load(p, asked) for name, place in places.items()})
    return [
        {"server": name, **{key: median([run[key] for run in found]) for key in found[0]}}
        for name, found in runs.items()
    ]


def main() -> int:
    """Measure, and hold side by side against one after another."""
    given = options(__doc__.splitlines()[0], parts=True)
    shape, rounds, each = (QUICK, 2, 1) if given.quick else (FULL, 5, 1)
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        export(folder, shape)
        ways = {
            "side by side": {"slots": CLIENTS, "prefix_bytes": 0},
            "one at a time": {"slots": 1, "prefix_bytes": 0},
        }
        rows = []
        for turn in range(rounds):  # a round at a time, so that a call may end and go on
            rows += resume(given.parts, f"mixed {turn}", lambda: measure(folder, threads, 1, each, ways, 0))
        kept = {"prefixes kept": {"slots": CLIENTS}, "none kept": {"slots": CLIENTS, "prefix_bytes": 0}}
        shared = []
        for turn in range(rounds):
            shared += resume(
                given.parts, f"shared {turn}", lambda: measure(folder, threads, 1, each, kept, 160)
            )
    table = [_median(way, "mixed lengths", rows) for way in ways] + [
        _median(way, "160 tokens in common", shared) for way in kept
    ]
    beside, alone, with_prefix, without = (row["tokens_s"] for row in table)
    first_with, first_without = (row["first_p50_ms"] for row in table[2:])
    return finish(
        "serving",
        title=f"GPT-2, {shape['n_layers']} layers of {shape['d_model']}, and {CLIENTS} clients over HTTP",
        rows=table,
        bars=[
            Bar("tokens a second, side by side / one at a time", beside / alone, 3.0),
            Bar("tokens a second with kept prefixes / without", with_prefix / without, 1.0),
        ],
        notes=[
            f"{threads} threads a server, fp32, clients in a process beside it; medians of {rounds} rounds.",
            "first: time to a stream's first event; gap: between two events; answer: the whole request.",
            f"With 160 tokens in common a first token comes {first_without / first_with:.2g} times as soon.",
        ],
        arguments=given,
    )


def _median(way: str, load_name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians of a way's rows."""
    of_way = [row for row in rows if row["server"] == way]
    numbers = {key: median([row[key] for row in of_way]) for key in of_way[0] if key != "server"}
    return {"load": load_name, "server": way, **numbers}


if __name__ == "__main__":
    sys.exit(main())
