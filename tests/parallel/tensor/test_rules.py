"""Modules that know nothing of ranks, cut by rules of their paths: transformers' GPT-2 and BERT."""

from __future__ import annotations

import pytest
import torch

from mainspring import parallel
from mainspring.errors import PlanError
from mainspring.nn.span import cut_of
from mainspring.parallel import Plan
from parallel.examples import EXAMPLES
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

GPT2 = {
    "*.mlp.c_fc": "column",
    "*.mlp.c_proj": "row",
    "transformer.wte": "vocabulary",
    "lm_head": "vocabulary",
}
BERT = {
    "*.attention.self.query": "column",
    "*.attention.self.key": "column",
    "*.attention.self.value": "column",
    "*.attention.output.dense": "row",
    "*.intermediate.dense": "column",
    "bert.encoder.layer.*.output.dense": "row",
    "bert.embeddings.word_embeddings": "vocabulary",
    "cls.predictions.decoder": "vocabulary",
}
BERT_LAYER = 3 * 2 + 1 + 2 + 1


def errors(rank, world, name, rules):
    example = EXAMPLES[name]
    rows = example.rows(6, torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    one = example.build()
    want, count = example.loss(one, rows)
    (want / count).backward()
    torch.manual_seed(rank)  # other values on each rank: the first one's count
    model = parallel.apply(example.build(), Plan(tensor=world), rules=rules)
    loss, _ = example.loss(model, rows)
    (loss / count).backward()
    found = {"loss": float((loss - want).detach().abs() / want.detach())}
    for (key, mine), theirs in zip(model.named_parameters(), one.parameters(), strict=True):
        cut = cut_of(mine)
        found[key] = float((mine.grad - (theirs.grad if cut is None else cut.of(theirs.grad))).abs().max())
    return found, sum(cut_of(p) is not None for p in model.parameters())


MODELS = {"hf-gpt2": (GPT2, 2 * 3 + 1), "hf-bert": (BERT, 2 * BERT_LAYER + 2)}
"""Rules, and the number of parameters that they cut."""


def everything(rank, world):
    return {name: errors(rank, world, name, rules) for name, (rules, _) in MODELS.items()}, refusals(
        rank, world
    )


@pytest.fixture(scope="module")
def ranks():
    return run_ranks(everything, 2)


@pytest.mark.parametrize("name", list(MODELS))
def test_as_one_process(ranks, name):
    for found, _ in ranks:
        differences, number = found[name]
        assert max(differences.values()) < 1e-5, differences
        assert number == MODELS[name][1]


def refusals(rank, world):
    said = []
    for rules, plan in (
        ({}, {}),
        ({"h.*.nothing": "row"}, {}),
        ({"*.ln_1": "column"}, {}),
        (GPT2, {"tensor_sequence": True}),
    ):
        with pytest.raises(PlanError) as caught:
            parallel.apply(EXAMPLES["hf-gpt2"].build(), Plan(tensor=world, **plan), rules=rules)
        said.append(str(caught.value))
    return said


def test_what_cannot_be_cut_is_refused(ranks):
    nothing, nowhere, norm, tokens = ranks[0][1]
    assert "give rules" in nothing and "no module" in nowhere
    assert "ln_1" in norm and "LayerNorm" in norm
    assert "tensor_sequence = false" in tokens
