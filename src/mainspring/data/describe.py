"""What token data holds, as plain values for a command line or a report."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from mainspring.data.dataset import SPLITS, TokenData
from mainspring.data.permute import key_of, permute

_SHOWN = 200
_KINDS = ("tokens", "documents", "bytes")


def describe(data: TokenData, *, samples: int = 3) -> dict[str, Any]:
    """Sizes, sources, languages, faults and the beginnings of some documents.

    Args:
        data: opened token data.
        samples: documents to show of each source's training text, chosen by a fixed key.

    Returns:
        `directory`, `dtype`, `shards`, `disk_bytes`, `tokenizer`, `splits` (tokens, documents, bytes,
        tokens_per_byte of each), `sources` (the same of each source, with `langs`), `languages` (training
        tokens of each tag), `read` (files, faults and examples of each source), `samples` (source, document,
        tokens, text).
    """
    entries = data.manifest["shards"].values()
    width = 2 if data.manifest["dtype"] == "uint16" else 4
    streams = {split: list(data.split(split).values()) for split in SPLITS}
    languages: Counter[str] = Counter()
    for stream in streams["train"]:
        languages[stream.lang or "und"] += stream.tokens
    return {
        "directory": str(data.directory),
        "dtype": data.manifest["dtype"],
        "shards": len(entries),
        "disk_bytes": sum(width * e["tokens"] + 8 * (e["documents"] + 1) for e in entries),
        "tokenizer": {
            "vocab_size": data.vocab_size,
            "hash": data.manifest["tokenizer"]["hash"],
            "special": data.tokenizer.specials,
        },
        "splits": {
            split: _sizes(*(sum(getattr(s, kind) for s in own) for kind in _KINDS))
            for split, own in streams.items()
        },
        "sources": {
            name: {"langs": list(info.langs)}
            | {split: _sizes(*(getattr(info, kind)[split] for kind in _KINDS)) for split in SPLITS}
            for name, info in data.sources.items()
        },
        "languages": dict(languages.most_common()),
        "read": data.manifest["read"],
        "samples": [shown for name in data.sources for shown in _documents(data, name, samples)],
    }


def _sizes(tokens: int, documents: int, size: int) -> dict[str, Any]:
    return {
        "tokens": tokens,
        "documents": documents,
        "bytes": size,
        "tokens_per_byte": round(tokens / size, 4) if size else None,
    }


def _documents(data: TokenData, source: str, count: int) -> list[dict[str, Any]]:
    streams = [stream for stream in data.split("train").values() if stream.source == source]
    total = sum(stream.documents for stream in streams)
    found: list[dict[str, Any]] = []
    for place in permute(np.arange(min(count, total)), max(1, total), key_of("describe", source)).tolist():
        for stream in streams:
            if place < stream.documents:
                ids = stream.document(place)
                text = data.tokenizer.decode(ids[: 2 * _SHOWN].tolist())[:_SHOWN]
                found.append({"source": stream.name, "document": place, "tokens": len(ids), "text": text})
                break
            place -= stream.documents
    return found
