"""Throughput and memory of building token shards, beside a bare loop over the `tokenizers` library.

Text: the documentation of the installed Python packages and the declaration of human rights in 49 languages,
repeated to the size wanted, as JSON lines with one document a line. Both sides read the same file, encode
with one byte-level BPE tokenizer and leave token ids on disk; ours also normalises, splits, records
documents, hashes and syncs. Each runs in a process of its own, in turn.

- `tokenizers loop`: json.loads, encode_batch of 1,000 documents, NumPy, write; what data set scripts do.
- `tokenizers alone`: encode_batch over documents already in memory, nothing else: the bound on this machine.

Memory is the peak resident size of our process, on the text and on four times the text.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Bar, finish, interleave, median, options

VOCABULARY = 8192
LOOP_DOCUMENTS = 1000


def write_corpus(folder: Path, size: int) -> int:
    """Write `text.jsonl` of about `size` bytes of text, and `tokenizer.json`; returns the bytes of text."""
    from mainspring.data import docstring_documents, udhr_documents
    from mainspring.text import train_tokenizer

    texts = [d.text for d in docstring_documents(limit_bytes=min(size, 20_000_000))]
    texts += [d.text for d in islice(udhr_documents(), 0, None, 8)]
    train_tokenizer(texts[::4], "bpe", VOCABULARY).save(folder / "tokenizer.json")
    written = 0
    with (folder / "text.jsonl").open("w", encoding="utf-8") as file:
        for number, text in enumerate(cycle(texts)):
            # A number makes repeated documents differ, so that nothing gains from their being copies.
            text = f"{number}. {text}"
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            written += len(text.encode())
            if written >= size:
                return written
    raise AssertionError("the corpus is endless")


def ours(folder: Path) -> dict[str, float]:
    """`mainspring data build` without the command line."""
    from mainspring.data import SourceConfig, build

    source = SourceConfig(name="text", path=str(folder / "text.jsonl"))
    cpu = time.process_time()
    report = build([source], folder / "tokenizer.json", folder / "out")
    tokens = sum(report.tokens.values())
    return {
        "seconds": report.seconds,
        "cpu": time.process_time() - cpu,
        "tokens": tokens,
        "bytes": report.bytes,
    }


def loop(folder: Path) -> dict[str, float]:
    """What a script over `tokenizers` does."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = size = 0
    began, cpu = time.perf_counter(), time.process_time()
    with (folder / "text.jsonl").open(encoding="utf-8") as file, (folder / "loop.bin").open("wb") as out:
        while texts := [json.loads(line)["text"] for line in islice(file, LOOP_DOCUMENTS)]:
            size += sum(len(text.encode()) for text in texts)
            for encoding in tokenizer.encode_batch(texts):
                out.write(np.array([*encoding.ids, 0], dtype=np.uint16).tobytes())
                tokens += len(encoding.ids) + 1
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "tokens": tokens, "bytes": size}


def alone(folder: Path) -> dict[str, float]:
    """The library by itself, in batches of a size that suits it."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    with (folder / "text.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in islice(file, 4 * LOOP_DOCUMENTS)]
    batches = [texts[i : i + 200] for i in range(0, len(texts), 200)]
    began, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        tokenizer.encode_batch_fast(batch)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "tokens": 0, "bytes": sum(len(text.encode()) for text in texts)}


CANDIDATES = {"mainspring": ours, "tokenizers loop": loop, "tokenizers alone": alone}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """One candidate in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data", "--worker", name, str(folder)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def worker(name: str, folder: Path) -> None:
    """Run a candidate and print what it measured."""
    result = CANDIDATES[name](folder)
    rate = result["bytes"] / 1e6 / result["seconds"]
    print(json.dumps({**result, "mb_s": rate, "peak": peak_bytes()}))


def peak_bytes() -> int:
    """Peak resident size of this process (on Linux ru_maxrss keeps the parent's, VmHWM does not)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> int:
    """Exit status 1 when a bar is missed."""
    arguments = options(__doc__ or "")
    size, rounds = (12_000_000, 3) if arguments.quick else (60_000_000, 5)
    with tempfile.TemporaryDirectory() as name:
        folder, large = Path(name, "one"), Path(name, "four")
        for place, count in ((folder, size), (large, 4 * size)):
            place.mkdir()
            write_corpus(place, count)
        runs = interleave(rounds, {name: lambda name=name: measure(name, folder) for name in CANDIDATES})
        four = measure("mainspring", large)
    rates = {name: median([run["mb_s"] for run in found]) for name, found in runs.items()}
    peaks = {name: median([run["peak"] for run in found]) / 2**20 for name, found in runs.items()}
    paired = [a["mb_s"] / b["mb_s"] for a, b in zip(runs["mainspring"], runs["tokenizers loop"], strict=True)]
    rows = [
        {
            "engine": name,
            "mb_per_second": rates[name],
            "cpu_seconds_per_mb": median([run["cpu"] / run["bytes"] * 1e6 for run in runs[name]]),
            "peak_mib": peaks[name],
            "text_mb": runs[name][0]["bytes"] / 1e6,
        }
        for name in CANDIDATES
    ]
    rows.append(
        {
            "engine": "mainspring, four times the text",
            "mb_per_second": four["mb_s"],
            "cpu_seconds_per_mb": four["cpu"] / four["bytes"] * 1e6,
            "peak_mib": four["peak"] / 2**20,
            "text_mb": four["bytes"] / 1e6,
        }
    )
    return finish(
        "data",
        title="Building token shards",
        rows=rows,
        bars=[
            Bar("MB/s of text (time)", rates["mainspring"], 5.0),
            Bar("beside the tokenizers loop (ratio)", median(paired), 1.0),
            Bar(
                "beside tokenizers alone, the bound (ratio)",
                rates["mainspring"] / rates["tokenizers alone"],
                0.8,
            ),
            Bar("peak MiB on four times the text (exact)", four["peak"] / 2**20, 1024, at_most=True),
        ],
        notes=[
            f"Byte-level BPE of {VOCABULARY} entries; MB are 10^6 bytes of UTF-8 text, not of the file.",
            "Peak is the resident size of the whole process, the interpreter and its libraries included.",
        ],
        arguments=arguments,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], Path(sys.argv[3]))
        sys.exit(0)
    sys.exit(main())
