"""Denoising and translation: views, teacher forcing by hand, refusals, and a tiny model that learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mainspring.config import parse
from mainspring.data.batch import IGNORE, causal_batch
from mainspring.data.pair_batch import TextPair, pair_batch
from mainspring.errors import ConfigError
from mainspring.nn import Transformer
from mainspring.nn.masks import allow
from mainspring.objectives import (
    Denoising,
    DenoisingConfig,
    Objective,
    Translate,
    TranslateConfig,
    Vocabulary,
    build,
)
from objectives.pairs import FULL, MASK, SEP, network, pairs, rows_from
from objectives.test_masked import SPECIAL, VOCAB, generators, text


def dae(**changes: object) -> Denoising:
    return Denoising(parse(DenoisingConfig, {"kind": "dae", **changes}), FULL)


def model(**changes: object) -> Transformer:
    return network(n_layers=0, encoder_layers=2, decoder_layers=2, norm_place="pre", **changes)


def test_translation_reads_the_source_and_writes_the_target() -> None:
    batch = pair_batch([TextPair([11, 12], [21, 22, 23], 1, 2), TextPair([13], [24], 2, 1)])
    objective = Translate(TranslateConfig(language_tags=(100, 101, 102), label_smoothing=0.0), FULL)
    views = objective.build(batch, [])
    assert views["source"].ids.tolist() == [[102, 11, 12, SEP], [101, 13, SEP, 0]]
    assert views["mt"].ids.tolist() == [[SEP, 21, 22, 23], [SEP, 24, 0, 0]]
    assert views["mt"].labels.tolist() == [[21, 22, 23, SEP], [24, SEP, IGNORE, IGNORE]]
    assert views["mt"].lang.tolist() == [[2] * 4, [1, 1, 0, 0]]
    assert torch.equal(allow(views["mt"])[0, 0], torch.ones(4, 4).tril().bool())
    net = model()
    with torch.no_grad():
        loss = objective.loss(net, views)["mt"]
        expected = torch.zeros(())
        for row, (end, start) in enumerate([(4, 4), (2, 3)]):
            source, target = (
                type(v)(*(t if t is None else t[row : row + 1, :n] for t in v))
                for v, n in ((views["source"], start), (views["mt"], end))
            )
            logits = net(target, source=source).logits[0]
            expected += F.cross_entropy(logits, target.labels[0], reduction="sum")
    torch.testing.assert_close(loss.total, expected)
    assert loss.count == 6 == objective.counts(views)["mt"]


@pytest.mark.parametrize("noise", ["spans", "infill", "order"])
def test_noise_is_on_the_source_and_the_text_can_be_told_from_both(noise: str) -> None:
    objective = dae(noise=noise, sentinels=[100, 101, 102], rate=0.3)
    ids = torch.randint(SPECIAL, 100, (4, 20))
    ids[:, -1] = SEP
    views = objective.build(causal_batch(ids), generators(4))
    for row in range(4):
        words, labels = ids[row, :-1].tolist(), views["dae"].labels[row]
        written = labels[labels != IGNORE].tolist()
        read = views["source"].ids[row].tolist()
        assert written[-1] == SEP and views["dae"].ids[row, 0] == SEP
        if noise == "spans":
            assert written[0] == 100 and read.count(100) == 1
        else:
            assert written[:-1] == words
        if noise == "infill":
            assert read.count(MASK) == 2
        if noise == "order":
            assert sorted(read) == sorted([*words, SEP])


@pytest.mark.parametrize("noise", ["spans", "infill", "order"])
def test_one_batch_equals_several(noise: str) -> None:
    objective, batch, net = dae(noise=noise, sentinels=[100, 101]), text(5, 20), model().double()
    whole = objective.loss(net, objective.build(batch, generators(5)))["dae"]
    total = 0.0
    for start, stop in [(0, 1), (1, 5)]:
        views = objective.build(rows_from(batch, start, stop), generators(5)[start:stop])
        total += objective.loss(net, views)["dae"].total.item()
    assert total == pytest.approx(whole.total.item(), rel=1e-6)


def test_a_tiny_model_learns_to_translate() -> None:
    """Every word has one translation: the loss falls well below that of guessing."""
    objective = Translate(TranslateConfig(label_smoothing=0.0), FULL)
    batch = pairs(16)
    batch = pair_batch(
        [
            TextPair(row[row >= SPECIAL].tolist(), ((row[row >= SPECIAL] + 50) % 100 + SPECIAL).tolist())
            for row in batch.ids
        ]
    )
    net, views = model().train(), objective.build(batch, [])
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = objective.loss(net, views)["mt"]
        (loss.total / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.total.item() / loss.count)
    assert losses[-1] < 0.5 * losses[0]


def test_refusals() -> None:
    assert isinstance(build(DenoisingConfig(), FULL), Objective)
    assert isinstance(build(TranslateConfig(), FULL), Objective)
    with pytest.raises(ConfigError, match="needs objective.sentinels"):
        dae(noise="spans")
    with pytest.raises(ConfigError, match=f"{VOCAB} is no token"):
        dae(noise="spans", sentinels=[VOCAB])
    with pytest.raises(ConfigError, match="no mask token"):
        build(DenoisingConfig(), Vocabulary.of(["a", "b"], [], None, separator=1))
    with pytest.raises(ConfigError, match="-1 is no token"):
        build(TranslateConfig(language_tags=(-1,)), FULL)
    few = build(TranslateConfig(language_tags=(5,)), FULL)
    with pytest.raises(ConfigError, match="1 tags, and a target has language 2"):
        few.build(pairs(1), [])
