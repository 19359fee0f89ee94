"""TLM: the two layouts, what is hidden, and that a hidden word may be looked up in the translation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mainspring.config import parse
from mainspring.data.batch import IGNORE
from mainspring.data.pair_batch import TextPair, pair_batch
from mainspring.nn.masks import allow
from mainspring.objectives import Objective, TranslationConfig, TranslationLM, build
from objectives.pairs import CLS, FULL, MASK, SEP, network, pairs, rows_from
from objectives.test_masked import SPECIAL, generators

ONE = pair_batch([TextPair([11, 12], [21, 22, 23], 1, 2)])


def tlm(**changes: object) -> TranslationLM:
    return TranslationLM(parse(TranslationConfig, {"kind": "tlm", **changes}), FULL)


def restored(view) -> list[list[int]]:  # type: ignore[no-untyped-def]
    return torch.where(view.labels != IGNORE, view.labels, view.ids).tolist()


def test_positions_begin_again_and_four_separators_stand_around() -> None:
    view = tlm().build(ONE, generators(1))["tlm"]
    assert restored(view) == [[SEP, 11, 12, SEP, SEP, 21, 22, 23, SEP]]
    assert view.pos.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4]]
    assert view.lang.tolist() == [[1] * 4 + [2] * 5] and allow(view).all()


def test_positions_go_on_where_they_are_not_reset() -> None:
    view = tlm(reset_positions=False).build(ONE, generators(1))["tlm"]
    assert restored(view) == [[CLS, 11, 12, SEP, 21, 22, 23, SEP]]
    assert view.pos.tolist() == [list(range(8))] and view.lang.tolist() == [[1] * 4 + [2] * 4]


def test_both_sides_are_hidden_and_separators_never() -> None:
    batch = pair_batch([TextPair(range(5, 65), range(20, 80), 1, 2)] * 200)
    view = tlm().build(batch, generators(200))["tlm"]
    hidden = view.labels != IGNORE
    assert (hidden.sum(1) == 18).all() and (view.labels[hidden] >= SPECIAL).all()
    share = hidden[:, :62].sum().item() / hidden.sum().item()
    assert share == pytest.approx(0.5, abs=0.04)
    assert (view.ids[hidden] == MASK).float().mean().item() == pytest.approx(0.8, abs=0.03)


def test_several_pairs_of_a_row_do_not_see_one_another() -> None:
    packed = pair_batch([TextPair([11], [21, 22]), TextPair([13, 14], [23])], per_row=2)
    view = tlm().build(packed, generators(1))["tlm"]
    assert view.pos.tolist() == [[0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]]
    blocks = np.kron(np.eye(2), np.ones((7, 7))).astype(bool)
    assert (allow(view)[0, 0].numpy() == blocks).all()


def test_the_prediction_of_a_word_depends_on_the_translation() -> None:
    model, objective = network(), tlm(mask_share=1.0, random_share=0.0)
    view = objective.build(ONE, generators(1))["tlm"]
    (at,) = torch.nonzero(view.labels[0] != IGNORE)[0].tolist()
    other = 6 if at < 4 else 1  # a word of the other language
    changed = view.ids.clone()
    changed[0, other] += 1
    with torch.no_grad():
        before, after = model(view).logits[0, at], model(view._replace(ids=changed)).logits[0, at]
    assert not torch.equal(before, after)


def test_one_batch_equals_several() -> None:
    objective, batch, model = tlm(), pairs(6), network().double()
    whole = objective.loss(model, objective.build(batch, generators(6)))["tlm"]
    total = 0.0
    for start, stop in [(0, 2), (2, 3), (3, 6)]:
        views = objective.build(rows_from(batch, start, stop), generators(6)[start:stop])
        total += objective.loss(model, views)["tlm"].total.item()
    assert total == pytest.approx(whole.total.item(), rel=1e-6)
    assert isinstance(build(objective.config, FULL), Objective)
