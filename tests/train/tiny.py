"""The smallest run that is a real one: generated text, a byte-level vocabulary, a network of a few thousand
parameters."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from mainspring.config import parse
from mainspring.data.build import build
from mainspring.data.documents import Document
from mainspring.parallel import World
from mainspring.planner import Machine
from mainspring.text import TokenizerSpec
from mainspring.train import Recipe, Result, Trainer
from mainspring.train.events import Event

MACHINE = Machine(
    flops_fp32=1e11,
    flops_bf16=2e11,
    memory_bandwidth=1e10,
    link_bandwidth=1e9,
    memory=2**33,
    cores=2,
    threads=1,
    ranks=1,
)
"""Saves the second that measuring takes; also makes the figures of a test predictable."""
WORDS = """the a spring wheel main turns drives slowly quickly big small red clock and or with of holds
power""".split()  # noqa: SIM905


def build_data(folder: Path, kind: str = "bpe", vocab: int = 280) -> Path:
    """Token data of some 200 documents of made-up sentences."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(5, 60))) + "." for _ in range(200)]
    documents = [Document(text, "made-up", None, str(i)) for i, text in enumerate(texts)]
    build(documents, parse(TokenizerSpec, {"kind": kind, "vocab_size": vocab}), folder, holdout=0.1)
    return folder


def recipe(data: Path, *, kind: str = "clm", **changes: Any) -> Recipe:
    """A recipe; `changes` by dotted name with `__` for the dot: `train__steps=5`."""
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {
            "family": "gpt2" if kind == "clm" else "bert",
            "config": {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_ff": 32, "max_positions": 32},
        },
        "data": {"path": str(data), "seq_len": 16},
        "objective": {"kind": kind},
        "optim": {"lr": 0.01, "schedule": {"kind": "cosine", "warmup_steps": 2}},
        "plan": {},
        "train": {"steps": 6, "batch_tokens": 128, "checkpoint_every": 2, "seed": 3, "threads": 1},
    }
    for name, value in changes.items():
        section, _, field = name.partition("__")
        values[section][field] = value
    return parse(Recipe, values)


def fit(
    recipe: Recipe, run_dir: Path, sink: Any = None, **options: Any
) -> tuple[Result, list[Event], Trainer]:
    """Train in this process (as one rank, where there is a process group)."""
    told: list[Event] = []
    sinks = [told.append, *([sink] if sink else [])]
    with World.start(recipe.over(_size()).plan, device="cpu", threads=1) as world:
        trainer = Trainer(recipe, run_dir, world, sinks, machine=MACHINE, **options)
        return trainer.fit(), told, trainer


def _size() -> int:
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_initialized() else 1
