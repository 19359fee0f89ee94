"""From the central model to a task: an encoder for search, and the same encoder in int8.

The model stays as it is. What is learnt is one linear layer over the means of its tokens, so that a sentence
lies near the text that goes on from it: first sentences of docstrings and the rest of each, with the other
pairs as what is not meant (InfoNCE both ways, van den Oord et al. 2018, arXiv 1807.03748). Means are computed
once, the layer is trained in a second, starting from whitened directions (Su et al. 2021, arXiv 2103.15316).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.compress import formats_for, open_subject, quantize
from mainspring.compress.subject import Subject
from mainspring.finetune.native import export_native_task
from mainspring.finetune.pooling import DenseConfig, EmbedConfig, Embedder
from mainspring.infer.load import assemble, equip, find, read
from mainspring.infer.tasks import EncoderTasks
from mainspring.numerics import format_named
from mainspring.recipes.compression import folder_bytes
from mainspring.recipes.search.examples import heads_and_rests

TOKENS = 96
"""Of a text, at most."""
_WIDTH = 128
_STEPS, _RATE, _TEMPERATURE = 150, 2e-3, 0.05
_AT_ONCE = 256


@dataclass(frozen=True)
class Pairs:
    """Where what is learnt comes from."""

    limit_bytes: int = 2_500_000
    """Documentation that is looked through, at most."""
    learnt: int = 512
    """Pairs to learn from, at most."""
    held_out: int = 256
    """Pairs that are measured on, at most."""


@dataclass(frozen=True)
class Retrieval:
    """How well a text is found by the sentence before it."""

    first: float
    """Share of held-out sentences whose own text comes first."""
    ten: float
    """Share whose own text is among the first ten."""


@dataclass(frozen=True)
class Specialised:
    """What training the layer did."""

    learnt: int
    """Pairs that were learnt from."""
    held_out: int
    """Pairs that were measured on, and texts that each is looked for among."""
    before: Retrieval
    """With the model as it was."""
    after: Retrieval


@dataclass(frozen=True)
class Quantised:
    """What narrowing the encoder did."""

    format: str
    bytes_before: int
    """Of its weights, as they are stored."""
    bytes_after: int
    after: Retrieval


def held_apart(pairs: Pairs) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs to learn from, and others to measure on; a text is in one of them alone."""
    found = heads_and_rests(limit_bytes=pairs.limit_bytes, processes=2, longest=400)
    distinct = list({rest: (head, rest) for head, rest in found}.values())
    random.Random(0).shuffle(distinct)
    held = min(pairs.held_out, len(distinct) // 4)
    return distinct[held : held + pairs.learnt], distinct[:held]


def specialise(
    run_dir: Path, to: Path, learnt: Sequence[tuple[str, str]], held: Sequence[tuple[str, str]]
) -> Specialised:
    """Write an encoder for search: the newest model of a run with a layer over it.

    Args:
        run_dir: the run.
        to: folder to write.
        learnt: first sentence and rest, to learn from.
        held: others, to measure on.
    """
    subject = open_subject(run_dir)
    plain = EmbedConfig(pooling=("mean",), max_tokens=min(TOKENS, subject.config.max_positions))
    texts = [text for pair in (*held, *learnt) for text in pair]
    tasks = EncoderTasks(_embedder(subject, plain), subject.tokenizer(), causal=subject.causal)
    means = tasks.embed(texts).vectors.view(-1, 2, subject.config.d_model)
    layer = _trained(means[len(held) :])
    embed = plain.replace(
        dense=[DenseConfig(width=layer.out_features, activation="none").model_dump()], normalize=True
    )
    embedder = _embedder(subject, embed)
    embedder.dense[0].load_state_dict(layer.state_dict())
    export_native_task(embedder, subject.tokenizer(), to, family=subject.family)
    apart = means[: len(held)]
    return Specialised(len(learnt), len(held), _retrieval(apart), _retrieval(layer(apart)))


def quantise(path: Path, to: Path, held: Sequence[tuple[str, str]], form: str = "int8") -> Quantised:
    """Write an encoder with its matrices in a narrow format, and measure it.

    Args:
        path: folder of the encoder.
        to: folder to write.
        held: pairs to measure on.
        form: the format, by name.
    """
    place = find(path)
    shape, state = read(place)
    embedder = assemble(shape, state)
    assert isinstance(embedder, Embedder), "an encoder for search gives vectors"
    narrow = format_named(form)
    done = quantize(embedder.encoder, formats_for(embedder.encoder, narrow, embeddings=narrow))
    own = equip(place, shape)
    export_native_task(
        embedder,
        own.tokenizer,
        to,
        family=shape.family,
        encoded={f"encoder.{name}": one for name, one in done.encoded.items()},
        formats={f"encoder.{name}": one for name, one in done.formats.items()},
    )
    tasks = EncoderTasks(embedder, own.tokenizer, causal=own.causal)
    vectors = tasks.embed([text for pair in held for text in pair]).vectors
    return Quantised(form, folder_bytes(path), folder_bytes(to), _retrieval(vectors.view(len(held), 2, -1)))


def _embedder(subject: Subject, embed: EmbedConfig) -> Embedder:
    """The model of a subject as an embedder; layers after it are as they are initialised."""
    embedder = Embedder(subject.config, embed)
    state = subject.model.state_dict()
    embedder.encoder.load_state_dict({name: state[name] for name in embedder.encoder.state_dict()})
    return embedder.eval().requires_grad_(False)


def _trained(means: Tensor) -> nn.Linear:
    """The layer that brings pairs together. means [N, 2, D]."""
    layer = _whitening(means.flatten(0, 1), _WIDTH)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=_RATE, weight_decay=0.01)
    for step in range(_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * (1 - step / _STEPS)
        rows = torch.randperm(len(means), generator=generator)[:_AT_ONCE]
        heads, rests = F.normalize(layer(means[rows]), dim=-1).unbind(1)
        near = heads @ rests.T / _TEMPERATURE
        own = torch.arange(len(rows))
        loss = (F.cross_entropy(near, own) + F.cross_entropy(near.T, own)) / 2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return layer.requires_grad_(False)


def _whitening(means: Tensor, width: int) -> nn.Linear:
    """A layer after which the directions of most variance have mean 0 and variance 1. means [N, D]."""
    middle = means.mean(0)
    width = min(width, *means.shape)
    _, spread, directions = torch.linalg.svd(means - middle, full_matrices=False)
    weight = directions[:width] / (spread[:width, None] / len(means) ** 0.5).clamp(min=1e-4)
    layer = nn.Linear(means.shape[1], width)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(-weight @ middle)
    return layer


def _retrieval(vectors: Tensor) -> Retrieval:
    """Of sentences and texts [N, 2, D], how high each sentence's own text ranks by cosine."""
    heads, rests = F.normalize(vectors, dim=-1).unbind(1)
    near = heads @ rests.T
    place = (near > near.diagonal()[:, None]).sum(1)
    return Retrieval(float((place < 1).float().mean()), float((place < 10).float().mean()))
