"""How good a model's sentence embeddings are, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.compress import Subject, open_subject
from mainspring.data.batch import bidirectional_batch, pad_rows
from mainspring.text.tokenizer import Tokenizer

LONGEST = 128


@torch.inference_mode()
def embed(subject: Subject, tokenizer: Tokenizer, texts: Sequence[str], rows: int = 32) -> Tensor:
    """Mean of the last hidden states over a text's tokens, of length 1: fp32 [texts, D]."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = torch.empty(len(texts), subject.config.d_model)
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        ids, valid = pad_rows(
            [tokenizer.encode(texts[i], template=True)[:LONGEST] for i in chosen], tokenizer.pad or 0
        )
        batch = bidirectional_batch(ids, valid=None if bool(valid.all()) else valid)
        hidden = subject.model(batch, select=torch.zeros_like(valid)).hidden.float()
        weight = valid[..., None].float()
        found[chosen] = F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)
    return found


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Correlation of ranks, ties at their mean rank."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def on_pairs(subject: Subject, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str, float]]) -> float:
    """Spearman's correlation of the embeddings' cosines with people's scores."""
    texts = sorted({text for one, other, _ in pairs for text in (one, other)})
    place = {text: number for number, text in enumerate(texts)}
    vectors = embed(subject, tokenizer, texts)
    cosines = [float(vectors[place[one]] @ vectors[place[other]]) for one, other, _ in pairs]
    return spearman(cosines, [score for _, _, score in pairs])


def agreement(vectors: Tensor, teacher: Tensor) -> float:
    """Share of texts whose nearest other text is the teacher's nearest."""
    nearest = [(v @ v.T).fill_diagonal_(-2).argmax(1) for v in (vectors, teacher)]
    return float((nearest[0] == nearest[1]).float().mean())


def milliseconds(folder: Path, rows: int, length: int, rounds: int = 7) -> float:
    """Least time of a forward over `rows` texts of `length` tokens, in fp32, eager, on one thread."""
    torch.set_num_threads(1)
    model = open_subject(folder).model
    ids = torch.randint(1000, 20000, (rows, length), generator=torch.Generator().manual_seed(0))
    batch, nowhere = bidirectional_batch(ids), torch.zeros_like(ids, dtype=torch.bool)
    times = []
    with torch.inference_mode():
        for _ in range(rounds):
            began = time.perf_counter()
            model(batch, select=nowhere)
            times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def _ranks(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    array = np.asarray(values)
    _, where, counts = np.unique(array, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[where]
