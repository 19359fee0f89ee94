"""What a trained network is asked: linear probes, retrieval of translations, loss on held-out text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mainspring.data.batch import bidirectional_batch, pad_rows
from mainspring.data.dataset import TokenData
from mainspring.data.loader import holdout_batch, holdout_count, row_generators
from mainspring.data.pair_batch import TextPair, pair_batch
from mainspring.nn import Transformer
from mainspring.objectives import Objective, Translate, TranslateConfig, Vocabulary
from mainspring.text.tokenizer import Tokenizer

RIDGES = (1e-4, 1e-2, 1.0)
"""Strengths tried, beside the variance 1 of a feature."""
HOLDOUT_SEED = 20_000
"""Of the masks of held-out text, the same for every network."""


@torch.inference_mode()
def states(
    network: nn.Module, rows: Sequence[Sequence[int]], longest: int, batch: int = 64
) -> Iterator[tuple[range, Tensor, Tensor]]:
    """Hidden states of every layer: (places in `rows`, valid [B, T], states [L, B, T, D]), by length."""
    network.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        ids, valid = pad_rows([rows[i][:longest] for i in places], pad=0)
        view = bidirectional_batch(ids, valid=None if bool(valid.all()) else valid)
        nowhere = torch.zeros_like(valid)
        kept = network(view, select=nowhere, states=True).states
        yield places, valid, torch.stack(kept)  # type: ignore[misc]


def pooled(network: nn.Module, tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> Tensor:
    """Mean of the hidden states of each text, in every layer: [L, N, D]."""
    rows = [[*ids[: longest - 1], tokenizer.separator] for ids in tokenizer.encode_batch(list(texts))]
    found: dict[int, Tensor] = {}
    for places, valid, hidden in states(network, rows, longest):  # type: ignore[arg-type]
        weights = valid[None, :, :, None].float()
        means = (hidden * weights).sum(2) / weights.sum(2)
        found.update({place: means[:, k] for k, place in enumerate(places)})
    return torch.stack([found[i] for i in range(len(rows))], dim=1)


def sentences(network: nn.Module, tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> Tensor:
    """What stands for each text behind the first token of a sentence, in every layer: [2 L, N, D].

    The state of that first token, which contrast trains, then the mean of all states.
    """
    first = Vocabulary.of_tokenizer(tokenizer).first
    rows = [[first, *ids[: longest - 2], tokenizer.separator] for ids in tokenizer.encode_batch(list(texts))]
    found: dict[int, Tensor] = {}
    for places, valid, hidden in states(network, rows, longest):  # type: ignore[arg-type]
        weights = valid[None, :, :, None].float()
        both = torch.cat([hidden[:, :, 0], (hidden * weights).sum(2) / weights.sum(2)])
        found.update({place: both[:, k] for k, place in enumerate(places)})
    return torch.stack([found[i] for i in range(len(rows))], dim=1)


def first_pieces(
    network: nn.Module, tokenizer: Tokenizer, sentences: Sequence[Sequence[tuple[str, str]]], longest: int
) -> tuple[Tensor, list[str]]:
    """Hidden state of each word's first piece, in every layer [L, N, D], and the words' tags."""
    rows: list[list[int]] = []
    marks: list[list[tuple[int, str]]] = []
    for sentence in sentences:
        ids: list[int] = []
        mark = []
        for (_, tag), pieces in zip(sentence, tokenizer.encode_batch([w for w, _ in sentence]), strict=True):
            if pieces and len(ids) < longest - 1:
                mark.append((len(ids), tag))
                ids += pieces
        rows.append([*ids[: longest - 1], tokenizer.separator])  # type: ignore[list-item]
        marks.append(mark)
    vectors, tags = [], []
    for places, _, hidden in states(network, rows, longest):
        for k, place in enumerate(places):
            vectors.append(hidden[:, k, [at for at, _ in marks[place]]])
            tags += [tag for _, tag in marks[place]]
    return torch.cat(vectors, dim=1), tags


def linear_probe(
    train: tuple[Tensor, Sequence[str]], test: tuple[Tensor, Sequence[str]], every: int = 5
) -> float:
    """Accuracy of a ridge classifier on frozen states [L, N, D].

    The layer and the strength are those best on every fifth of the training states; the classifier is then
    fitted to all of them, in closed form, so that chance has no part in it.
    """
    names = {name: k for k, name in enumerate(sorted(set(train[1])))}
    targets = torch.tensor([names[name] for name in train[1]])
    wanted = torch.tensor([names.get(name, -1) for name in test[1]])
    kept_out = torch.arange(len(targets)) % every == 0
    fitted, asked = targets[~kept_out], targets[kept_out]
    scores = {
        (layer, ridge): _fit(x[~kept_out], fitted, len(names), ridge, x[kept_out], asked)
        for layer, x in enumerate(train[0].double())
        for ridge in RIDGES
    }
    layer, ridge = max(scores, key=lambda key: scores[key])
    return _fit(train[0][layer].double(), targets, len(names), ridge, test[0][layer].double(), wanted)


def _fit(x: Tensor, y: Tensor, classes: int, ridge: float, x_test: Tensor, y_test: Tensor) -> float:
    mean, scale = x.mean(0), x.std(0) + 1e-8
    x, x_test = (torch.cat([(v - mean) / scale, torch.ones(len(v), 1).double()], 1) for v in (x, x_test))
    gram = x.T @ x + ridge * len(x) * torch.eye(x.shape[1]).double()
    weights = torch.linalg.solve(gram, x.T @ nn.functional.one_hot(y, classes).double())
    return float(((x_test @ weights).argmax(1) == y_test).double().mean())


def retrieval(source: Tensor, target: Tensor) -> NDArray[np.float64]:
    """Share of texts [L, N, D] whose nearest by cosine among the translations [L, N, D] is their own, by
    layer; mean of both directions."""
    one, two = (nn.functional.normalize(x.double(), dim=-1) for x in (source, target))
    similar = one @ two.transpose(1, 2)
    own = torch.arange(similar.shape[1])
    found = ((similar.argmax(2) == own).double() + (similar.argmax(1) == own).double()) / 2
    return np.asarray(found.mean(1))


@torch.inference_mode()
def translation(
    network: nn.Module, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], config: TranslateConfig
) -> dict[str, float]:
    """How well an encoder-decoder translates: sacrebleu's chrF and BLEU, in lower case, of greedy
    translations, and the loss of the references' tokens."""
    import sacrebleu

    from mainspring.infer import Engine, GenerateOptions
    from mainspring.infer.layout import layout_of

    assert isinstance(network, Transformer)
    engine = Engine(network, tokenizer, layout=layout_of(config, tokenizer))
    sources, targets = (list(side) for side in zip(*pairs, strict=True))
    order = sorted(range(len(pairs)), key=lambda i: len(sources[i]))
    written = [""] * len(pairs)
    for start in range(0, len(order), 128):
        places = order[start : start + 128]
        found = engine.generate([sources[i] for i in places], GenerateOptions(max_tokens=30))
        for place, completion in zip(places, found, strict=True):
            written[place] = completion.text.strip()
    plain = config.replace(label_smoothing=0.0)
    objective = Translate(plain, Vocabulary.of_tokenizer(tokenizer))
    total, count = 0.0, 0
    for start in range(0, len(order), 64):
        some = [tokenizer.encode_batch(list(pairs[i])) for i in order[start : start + 64]]
        views = objective.build(pair_batch([TextPair(*both) for both in some]), [])
        (loss,) = objective.loss(network, views).values()
        total, count = total + float(loss.total), count + loss.count
    lowered = [text.lower() for text in targets]
    return {
        "held-out loss of translations": total / count,
        "chrF": float(sacrebleu.corpus_chrf(written, [lowered]).score),
        "BLEU": float(sacrebleu.corpus_bleu(written, [lowered], lowercase=True).score),
    }


@torch.inference_mode()
def heldout_loss(network: nn.Module, objective: Objective, data: TokenData, seq_len: int, rows: int) -> float:
    """Mean of an objective's one loss on held-out text, in nats a predicted token."""
    network.eval()
    total, terms, most = 0.0, 0, min(rows, holdout_count(data, seq_len))
    for start in range(0, most, 8):
        stop = min(start + 8, most)
        batch = holdout_batch(data, seq_len, start, stop)
        views = objective.build(batch, row_generators(HOLDOUT_SEED, start, stop))
        (loss,) = objective.loss(network, views).values()
        total, terms = total + float(loss.total), terms + loss.count
    return total / terms
