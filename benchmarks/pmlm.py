"""What pseudo-masked language modelling costs beside plain masked language modelling: forward with backward.

The same UniLM v2 shape reads the same text, with 15% of the tokens hidden: once as a masked text, once with
the steps of a factorisation order appended (Bao et al. 2020, section 3.2), which makes two predictions of
each hidden token for one. Both sides are ours; they run in turns, on one thread. Tokens are random, since the
arithmetic does not depend on which they are. Without dropout.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.harness import Bar, finish, interleave, median, options
from mainspring.config import parse
from mainspring.data.batch import causal_batch
from mainspring.models.unilm.config import unilm2
from mainspring.nn import Transformer, initialize
from mainspring.objectives import MaskedConfig, MaskedLM, Objective, PseudoMaskedConfig, PseudoMaskedLM
from mainspring.objectives.base import Views
from mainspring.objectives.words import Vocabulary
from mainspring.train.allocator import keep_freed_memory

ROUNDS, WORDS, LAYERS = 5, 8192, 4
BAR, TARGET = 1.5, 1.4
SHAPES = ((32, 128), (8, 512))
"""Rows and tokens of a batch."""


def vocabulary(words: int) -> Vocabulary:
    """Words without spelling, after BERT's special tokens."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return Vocabulary.of(special + [f"w{i}" for i in range(words - 5)], range(5), 4, first=2, separator=3)


def seconds(model: Transformer, objective: Objective, views: Views) -> float:
    """Seconds of a forward with its backward."""
    model.zero_grad(set_to_none=True)
    started = time.perf_counter()
    losses = objective.loss(model, views).values()
    torch.stack([loss.total * loss.weight / loss.count for loss in losses]).sum().backward()
    return time.perf_counter() - started


def main() -> int:
    """Compare on every shape; the bar is on the largest ratio."""
    arguments = options(__doc__ or "")
    torch.set_num_threads(1)
    layers = 2 if arguments.quick else LAYERS
    facts = vocabulary(WORDS)
    config = unilm2(256, layers, 4, vocab_size=WORDS, max_positions=512, dropout=0.0, attention_dropout=0.0)
    model = initialize(Transformer(config), 0).train()
    masked = MaskedLM(parse(MaskedConfig, {"kind": "mlm", "rate": 0.15, "whole_words": False}), facts)
    pseudo = PseudoMaskedLM(parse(PseudoMaskedConfig, {"kind": "pmlm", "rate": 0.15}), facts)
    rows, bars = [], []
    for kept, (batch, length) in [(kept, shape) for kept in (False, True) for shape in SHAPES]:
        if kept and not keep_freed_memory():
            break
        batch = batch // 4 if arguments.quick else batch
        draw = np.random.default_rng(0)
        text = causal_batch(torch.from_numpy(draw.integers(5, WORDS, (batch, length))))
        rngs = [np.random.default_rng([1, row]) for row in range(batch)]
        plain, appended = masked.build(text, rngs), pseudo.build(text, rngs)
        candidates: dict[str, Callable[[], float]] = {
            "mlm": partial(seconds, model, masked, plain),
            "pmlm": partial(seconds, model, pseudo, appended),
        }
        for run in candidates.values():
            run()
        times = {name: median(values) for name, values in interleave(ROUNDS, candidates).items()}
        ratio = times["pmlm"] / times["mlm"]
        rows.append(
            {
                "tokens": length,
                "rows": batch,
                "memory": "kept" if kept else "returned",
                "mlm_seconds": times["mlm"],
                "pmlm_seconds": times["pmlm"],
                "ratio": ratio,
                "tokens_ratio": appended[pseudo.VIEW].ids.shape[1] / length,
                "labels_ratio": sum(pseudo.counts(appended).values()) / sum(masked.counts(plain).values()),
            }
        )
        where = f"{length} tokens, memory {'kept' if kept else 'returned'}"
        bars.append(Bar(f"PMLM / MLM seconds, {where}", ratio, BAR, at_most=True))
    return finish(
        "pmlm",
        title="Pseudo-masked beside masked language modelling",
        rows=rows,
        bars=bars,
        notes=[
            f"UniLM v2 shape: width 256, {layers} layers, 4 heads, {WORDS} words, distances as scores; fp32, "
            f"1 thread, no dropout; forward and backward, median of {ROUNDS} rounds.",
            f"The target is {TARGET}; the bar is {BAR}.",
            "Profile (AVX2, beside other jobs): products take 1.40 times those of MLM, copies 2.0 and gelu "
            "with its gradient 2 to 3.3 times. A forward with backward of 32 x 128 has 4,064 page faults for "
            "MLM and 60,884 for PMLM, of 8 x 512 39,331 and 124,268: logits take 40 MB, and from 32 MiB on "
            "the C library maps and returns every block.",
            "memory: whether freed memory goes back to the system, or is kept (`train.keep_memory`).",
        ],
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
