"""A small data directory and recipes over it, for tests of what stands on training."""

from __future__ import annotations

import random
from pathlib import Path

from mainspring.data import Document, build
from mainspring.text.train import Kind, TokenizerSpec

FIRST = "the a one model learns to read write small large text from token batch rank step"
REST = "loss gradient of and in for with every shard plan memory second never always before after"
WORDS = f"{FIRST} {REST}".split(" ")


def sentences(seed: int, count: int) -> str:
    """Sentences of common words."""
    draw = random.Random(seed)
    lines = (" ".join(draw.choices(WORDS, k=draw.randint(4, 12))).capitalize() + "." for _ in range(count))
    return "\n".join(lines)


def build_data(directory: Path, *, kind: Kind = "bpe", vocab_size: int = 320, documents: int = 160) -> Path:
    """Build token shards of made-up sentences in a directory and return it."""
    texts = [Document(sentences(i, 8), "made-up", "en", str(i)) for i in range(documents)]
    build(texts, TokenizerSpec(kind=kind, vocab_size=vocab_size), directory, holdout=0.1)
    return directory


def overrides(data: Path, **train: object) -> list[str]:
    """Overrides that make gpt2-tiny or bert-tiny a run of moments over a data directory."""
    values = {"train.steps": 3, "train.batch_tokens": 128, "data.seq_len": 32, "train.checkpoint_every": 2}
    values |= {f"train.{key}": value for key, value in train.items()}
    shape = "{ d_model = 32, n_heads = 2, n_layers = 2, d_ff = 64, max_positions = 64 }"
    return [
        f'data.path="{data}"',
        f"model.config={shape}",
        *(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in values.items()),
    ]
