"""Causal LM: the summed loss is torch's, and dividing by the global count makes the split irrelevant."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.data.batch import IGNORE, TokenBatch, causal_batch
from mainspring.nn.vocabulary import WHOLE
from mainspring.nn.vocabulary import Vocabulary as TokenRows
from mainspring.objectives import CausalConfig, CausalLM, Objective, Vocabulary, build


class Output(NamedTuple):
    logits: Tensor
    vocabulary: TokenRows = WHOLE


class Toy(nn.Module):
    """A bigram model: logits depend on the token alone. Counts the logits it was asked for."""

    def __init__(self, vocab: int = 11) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab, vocab)
        self.rows = 0

    def forward(self, batch: TokenBatch, *, select: Tensor | None = None, columns: str = "all") -> Output:
        hidden = batch.ids if select is None else batch.ids[select]
        self.rows = hidden.numel()
        return Output(self.table(hidden))


def random_batch(rows: int, ignored: float) -> TokenBatch:
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(11, (rows, 7), generator=generator)
    labels = torch.randint(11, (rows, 7), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = IGNORE
    return causal_batch(ids, labels=labels)


@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_loss_is_the_sum_of_torch_cross_entropies(ignored: float) -> None:
    torch.manual_seed(0)
    model, batch, objective = Toy(), random_batch(3, ignored), CausalLM()
    views = objective.build(batch, [])
    loss = objective.loss(model, views)["clm"]
    logits = model.table(batch.ids)
    expected = torch.zeros(())
    for i, j in torch.nonzero(batch.labels != IGNORE).tolist():
        expected = expected - torch.log_softmax(logits[i, j], 0)[batch.labels[i, j]]
    torch.testing.assert_close(loss.total, expected)
    assert loss.count == int((batch.labels != IGNORE).sum()) == objective.counts(views)["clm"]


def test_logits_are_computed_only_where_there_is_a_label() -> None:
    model, batch = Toy(), random_batch(3, 0.6)
    CausalLM().loss(model, {"clm": batch})
    assert model.rows == int((batch.labels != IGNORE).sum())


def test_loss_is_fp32_under_bf16_logits() -> None:
    model = Toy().to(torch.bfloat16)
    assert CausalLM().loss(model, {"clm": random_batch(2, 0.0)})["clm"].total.dtype == torch.float32


def test_dividing_by_the_global_count_makes_the_split_irrelevant() -> None:
    torch.manual_seed(1)
    model, batch, objective = Toy(), random_batch(6, 0.5), CausalLM()
    whole = objective.loss(model, {"clm": batch})["clm"]
    (whole.total / whole.count).backward()
    one_batch = model.table.weight.grad.clone()
    model.zero_grad()
    count = whole.count
    for start, stop in [(0, 1), (1, 4), (4, 6)]:  # uneven parts with different counts
        part = TokenBatch(*(t if t is None else t[start:stop] for t in batch))
        (objective.loss(model, {"clm": part})["clm"].total / count).backward()
    torch.testing.assert_close(model.table.weight.grad, one_batch)


def test_mean_reduction_would_not_agree() -> None:
    """The test above can fail: means of uneven parts are another number."""
    torch.manual_seed(1)
    model, batch = Toy(), random_batch(6, 0.5)
    logits = model.table(batch.ids)
    mean = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE)
    parts = [F.cross_entropy(logits[i], batch.labels[i], ignore_index=IGNORE) for i in range(6)]
    assert not torch.allclose(mean, torch.stack(parts).mean())


def test_a_batch_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="no labels"):
        CausalLM().counts({"clm": causal_batch(torch.zeros(1, 3, dtype=torch.int64))})


def test_build_makes_an_objective() -> None:
    objective = build(CausalConfig(), Vocabulary.of(["a", "b"], [], None))
    assert isinstance(objective, CausalLM) and isinstance(objective, Objective)
