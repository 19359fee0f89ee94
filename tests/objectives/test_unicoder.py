"""Unicoder's tasks: word recovery written out, pairs and non-pairs, a text of two languages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mainspring.config import parse
from mainspring.data.batch import IGNORE, TokenBatch
from mainspring.data.pair_batch import TextPair, pair_batch
from mainspring.nn import Transformer, initialize
from mainspring.objectives import Objective, OwnsModules, SeveralPasses, Unicoder, UnicoderConfig, build
from mainspring.objectives.cross_lingual_network import CrossLingualNetwork
from objectives.pairs import CLS, FULL, SEP, network, rows_from
from objectives.test_masked import SPECIAL, generators


def unicoder(**changes: object) -> Unicoder:
    return Unicoder(parse(UnicoderConfig, {"kind": "unicoder", **changes}), FULL)


def model_of(objective: Unicoder) -> CrossLingualNetwork:
    return initialize(objective.assemble(Transformer(network().config)), 0).eval()


def document(rows: int, sentences: int, seed: int = 0) -> TokenBatch:
    """Rows of pairs; source words are below 50, their translations 50 higher."""
    rng = np.random.default_rng(seed)
    sources = [rng.integers(SPECIAL, 50, size=rng.integers(1, 6)) for _ in range(rows * sentences)]
    return pair_batch([TextPair(s, s + 50, 1, 2) for s in sources], per_row=sentences)


def test_word_recovery_is_the_papers_formula() -> None:
    objective, batch = unicoder(), document(3, 1)
    model, views = model_of(objective), objective.build(document(3, 1), generators(3))
    loss = objective.loss(model, views)["recovery"]
    assert batch.ids.shape[0] == views["recovery"].ids.shape[0]
    w, total = model.affinity.weight[0], torch.zeros(())
    with torch.no_grad():
        x_all = model.network.embed(views["recovery"])
        y_all = model.network.embed(views["translation"])
        for row in range(3):
            view = rows_from(views["recovery"], row, row + 1)
            ours = torch.ones_like(view.ids, dtype=torch.bool) if view.valid is None else view.valid
            theirs = views["translation"].valid
            y = y_all[row] if theirs is None else y_all[row][theirs[row]]
            rebuilt = []
            for i in range(view.ids.shape[1]):
                scores = torch.stack([w @ torch.cat([x_all[row, i], y_j, x_all[row, i] * y_j]) for y_j in y])
                rebuilt.append(torch.softmax(scores, 0) @ y)
            logits = model.network(view, embeds=torch.stack(rebuilt)[None]).logits[ours]
            total += F.cross_entropy(logits, view.labels[ours], ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(loss.total, total)
    labels = views["recovery"].labels
    assert torch.equal(labels[labels != IGNORE], views["recovery"].ids[labels != IGNORE])
    assert (labels[labels != IGNORE] >= SPECIAL).all()


def test_the_words_themselves_are_not_read() -> None:
    """Of the text to recover only the attention's scores are left: with w = 0 it is not seen at all."""
    objective = unicoder()
    model, views = model_of(objective), objective.build(document(2, 1), generators(2))
    with torch.no_grad():
        model.affinity.weight.zero_()
        before = objective.loss(model, views)["recovery"].total
        labels = views["recovery"].labels
        ids = torch.where(labels != IGNORE, views["recovery"].ids.roll(1), views["recovery"].ids)
        after = objective.loss(model, {**views, "recovery": views["recovery"]._replace(ids=ids)})["recovery"]
    assert torch.equal(before, after.total)


def test_pairs_and_what_is_none() -> None:
    objective, batch = unicoder(), document(200, 3)
    view = objective.build(batch, generators(200))["paraphrase"]
    assert view.ids.shape[0] == 600
    alike = view.labels[:, 0]
    assert (view.labels[:, 1:] == IGNORE).all()
    assert alike.float().mean().item() == pytest.approx(0.5, abs=0.07)
    for row in range(600):
        words = view.ids[row][view.ids[row] >= SPECIAL].tolist()
        source, target = [w for w in words if w < 50], [w - 50 for w in words if w >= 50]
        assert (source == target) == bool(alike[row]) or source == target  # two sentences may be alike
        assert view.pos[row, len(source) + 2].item() == 0, "positions begin again"
    alone = objective.build(document(40, 1), generators(40))["paraphrase"]
    assert (alone.labels[:, 0] == 1).all(), "a pair alone in its row has nothing to be confused with"


def test_classification_reads_the_first_token() -> None:
    objective = unicoder()
    model, views = model_of(objective), objective.build(document(4, 2), generators(4))
    loss = objective.loss(model, views)["paraphrase"]
    hidden = model.network(views["paraphrase"]).hidden[:, 0]
    scores = hidden @ model.classes.weight.T + model.classes.bias
    expected = -torch.log_softmax(scores, 1).gather(1, views["paraphrase"].labels[:, :1]).sum()
    torch.testing.assert_close(loss.total, expected)
    assert loss.count == 8


def test_the_languages_of_a_text_take_turns() -> None:
    objective = unicoder()
    view = objective.build(document(50, 4), generators(50))["xmlm"]
    firsts = set()
    for row in range(50):
        ids = torch.where(view.labels != IGNORE, view.labels, view.ids)[row]
        length = int((view.lang[row] > 0).sum())
        ends = [i for i in range(length) if ids[i] == SEP]
        langs = [int(view.lang[row, i]) for i in ends]
        assert ids[0] == CLS and len(ends) == 4 and langs in ([1, 2, 1, 2], [2, 1, 2, 1])
        assert view.pos[row, :length].tolist() == list(range(length))
        for i in range(1, length):
            if ids[i] != SEP:
                assert (ids[i] >= 50) == (view.lang[row, i] == 2)
        firsts.add(langs[0])
    assert firsts == {1, 2} and (view.labels != IGNORE).any()


def test_one_batch_equals_several_and_protocols() -> None:
    objective, batch = unicoder(), document(5, 2)
    model = model_of(objective).double()
    views = objective.build(batch, generators(5))
    whole = objective.loss(model, views)
    assert {name: loss.count for name, loss in whole.items()} == objective.counts(views)
    sums = dict.fromkeys(whole, 0.0)
    for start, stop in [(0, 1), (1, 3), (3, 5)]:
        part = objective.build(rows_from(batch, start, stop), generators(5)[start:stop])
        for name, loss in objective.loss(model, part).items():
            sums[name] += loss.total.item()
    assert sums == pytest.approx({name: loss.total.item() for name, loss in whole.items()}, rel=1e-6)
    built = build(UnicoderConfig(), FULL)
    assert isinstance(built, Objective) and isinstance(built, OwnsModules)
    assert isinstance(built, SeveralPasses)
    network().load_state_dict(objective.network_state(dict(model.state_dict())))
