"""A small model trained on WikiText-2's validation text: what int8 and int4 cost it on unseen text."""

from __future__ import annotations

import copy
import gzip
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.data.batch import causal_batch
from mainspring.infer.quantized import quantize_model
from mainspring.infer.quantized.native import best_kernels
from mainspring.infer.runner import CachedRunner
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.text import Tokenizer, train_tokenizer

PLACES = [*Path(__file__).resolve().parents, Path("/work")]
"""Where a folder `shared` may lie."""
LENGTH, ROWS = 128, 8


def read(name: str) -> str:
    """One of WikiText-2's files."""
    folder = next(f for f in (place / "shared/data/lm/wikitext-2" for place in PLACES) if f.is_dir())
    return gzip.decompress((folder / f"{name}.txt.gz").read_bytes()).decode()


def rows_of(tokenizer: Tokenizer, text: str) -> Tensor:
    """The text in rows of 129 tokens."""
    lines = [line for line in text.splitlines() if line.strip()]
    ids = torch.tensor([token for line in lines for token in tokenizer.encode(line)])
    return ids[: len(ids) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)


def loss(model: Transformer, rows: Tensor) -> Tensor:
    """Mean cross-entropy of the next token."""
    logits = model(causal_batch(rows[:, :-1])).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


def trained(steps: int) -> tuple[Transformer, Tensor]:
    """A causal model of 2.2 M parameters, and rows to judge it by."""
    text = read("valid")
    tokenizer = train_tokenizer(text.splitlines(), "bpe", 2048)
    train, held = rows_of(tokenizer, text), rows_of(tokenizer, read("test")[:300_000])
    config = TransformerConfig(
        d_model=192, n_heads=4, n_layers=4, d_ff=768, activation="gelu_tanh", vocab_size=tokenizer.vocab_size,
        max_positions=256,
    )  # fmt: skip
    model = initialize(Transformer(config), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    draw = torch.Generator().manual_seed(0)
    for step in range(steps):
        batch = train[torch.randint(len(train), (ROWS,), generator=draw)]
        value = loss(model, batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"gate: step {step}/{steps}, loss {value.item():.2f}", flush=True)
    return model.eval().requires_grad_(False), held


def measure(steps: int) -> list[dict[str, Any]]:
    """Perplexity of each precision, and how many greedy continuations of 32 prompts are those of fp32."""
    model, held = trained(steps)
    prompts = [row[:32].tolist() for row in held[:32]]
    rows: list[dict[str, Any]] = []
    wanted: Tensor | None = None
    for precision in ("fp32", "int8", "int4"):
        chosen = quantize_model(copy.deepcopy(model), precision, kernels=best_kernels())
        with torch.inference_mode():
            parts = [held[k : k + 32] for k in range(0, len(held) // 32 * 32, 32)]
            mean = torch.stack([loss(chosen, part) for part in parts]).mean()
        texts = continued(chosen, prompts, 32)
        wanted = texts if wanted is None else wanted
        rows.append(
            {
                "model": "trained, 2.2 M",
                "case": "quality",
                "engine": f"ours {precision}",
                "perplexity": float(mean.exp()),
                "greedy texts as fp32": int((texts == wanted).all(1).sum()),
                "greedy tokens as fp32": int((texts == wanted).sum()),
                "of texts, tokens": f"{len(texts)}, {texts.numel()}",
            }
        )
    return rows


def continued(model: Transformer, prompts: list[list[int]], count: int) -> Tensor:
    """Greedy continuations, int64 [P, count]."""
    runner = CachedRunner(model, model.config.vocab_size)
    best = torch.cat(runner.prefill(prompts, count)).argmax(-1)
    tokens = [best]
    for _ in range(count - 1):
        tokens.append(runner.step(tokens[-1].tolist()).argmax(-1))
    return torch.stack(tokens, 1)
