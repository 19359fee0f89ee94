"""A mixture of students: the losses written out, who learns, and when the teacher falls silent."""

from __future__ import annotations

import math

import pytest
import torch

from mainspring.config import parse
from mainspring.data.batch import IGNORE, TokenBatch, causal_batch
from mainspring.errors import ConfigError, UsageError
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.objectives import (
    CausalLM,
    Evolves,
    MixtureOfStudents,
    OwnsModules,
    StudentConfig,
    build,
    network_state,
)
from objectives.pairs import FULL

EXPERTS = {"count": 4, "every": 1, "top_k": 2, "capacity_factor": None}
VOCAB = 23


def config(layers: int, **other: object) -> TransformerConfig:
    shape = {"d_model": 16, "n_heads": 2, "d_ff": 24, "vocab_size": VOCAB, "max_positions": 8}
    return TransformerConfig(**{**shape, "n_layers": layers, "experts": EXPERTS, "init_std": 0.4, **other})


class Known:
    """A teacher in memory."""

    def __init__(self, model: Transformer) -> None:
        self.config, self._state = model.config, model.state_dict()

    def read(self) -> dict[str, torch.Tensor]:
        return self._state


def made(**settings: object) -> tuple[MixtureOfStudents, torch.nn.Module, Transformer]:
    """An objective, what is trained, and the teacher that it was made with."""
    teacher = initialize(Transformer(config(4)), 5)
    wanted = parse(StudentConfig, {"teacher": "there", **settings})
    objective = MixtureOfStudents(wanted, CausalLM(), Known(teacher))
    model = initialize(objective.assemble(Transformer(config(3))), 1)
    objective.start(model)
    return objective, model.train(), teacher


def rows() -> TokenBatch:
    """Of which some tokens predict nothing."""
    ids = torch.randint(VOCAB, (3, 8), generator=torch.Generator().manual_seed(0))
    labels = ids.roll(-1, 1).masked_fill(torch.arange(8) > torch.tensor([7, 4, 6])[:, None], IGNORE)
    return causal_batch(ids, labels=labels)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_losses_are_what_is_written(temperature: float) -> None:
    objective, model, teacher = made(weight=0.7, temperature=temperature)
    batch = rows()
    views = objective.build(batch, [])
    losses = objective.loss(model, views)
    student = model.network(batch).logits.detach().double()
    said = teacher.eval()(batch).logits.detach().double()
    text = divergence = 0.0
    for b, t in (batch.labels != IGNORE).nonzero().tolist():
        q, p = student[b, t].softmax(0), (said[b, t] / temperature).softmax(0)
        text -= float(q[batch.labels[b, t]].log())
        soft = (student[b, t] / temperature).softmax(0)
        divergence += sum(
            float(one) * math.log(float(one) / float(other)) for one, other in zip(p, soft, strict=True)
        )
    count = int((batch.labels != IGNORE).sum())
    assert objective.counts(views) == {"clm": count, "teacher": count}
    assert {name: (loss.weight, loss.count) for name, loss in losses.items()} == {
        "clm": (1.0, count), "teacher": (0.7, count)
    }  # fmt: skip
    assert losses["clm"].total.item() == pytest.approx(text, rel=1e-5)
    assert losses["teacher"].total.item() == pytest.approx(temperature**2 * divergence, rel=1e-4)


def test_the_student_learns_and_the_teacher_stays() -> None:
    objective, model, teacher = made()
    losses = objective.loss(model, objective.build(rows(), []))
    sum(loss.total for loss in losses.values()).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.network.parameters() if p.ndim > 1)
    for mine, theirs in zip(model.teacher.parameters(), teacher.parameters(), strict=True):
        assert mine.grad is None and not mine.requires_grad and torch.equal(mine, theirs)
    assert not model.teacher.training and model.network.training
    kept = network_state(objective, model.state_dict())
    assert kept.keys() == Transformer(config(3)).state_dict().keys()


def test_the_teacher_is_asked_until_its_step() -> None:
    objective, model, _ = made(until=2)
    assert isinstance(objective, Evolves) and isinstance(objective, OwnsModules)
    asked = []
    model.teacher.register_forward_hook(lambda *_: asked.append(int(model.steps)))
    views = objective.build(rows(), [])
    for applied in (True, False, True):
        losses = objective.loss(model, views)
        objective.after_step(model, None, applied)
    assert asked == [0, 1] and int(model.steps) == 3
    assert losses["teacher"].total.item() == 0.0 and not losses["teacher"].total.requires_grad
    assert objective.counts(views).keys() == losses.keys()
    model.zero_grad()
    sum(loss.total * loss.weight for loss in losses.values()).backward()
    plain = Transformer(config(3)).train()
    plain.load_state_dict(model.network.state_dict())
    objective.text.loss(plain, views)["clm"].total.backward()
    for mine, alone in zip(model.network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, alone.grad)


def test_no_teacher_in_evaluation() -> None:
    objective, model, _ = made()
    losses = objective.loss(model.eval(), objective.build(rows(), []))
    assert losses["teacher"].total.item() == 0.0


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"vocab_size": 24}, "student's vocab_size is 24 and the teacher's 23"),
        ({"head": "replaced"}, "student's head is replaced and the teacher's tokens"),
        ({"n_layers": 0, "encoder_layers": 1, "decoder_layers": 1}, "encoder and decoder is True"),
    ],
)
def test_networks_that_say_other_things_are_refused(other: dict[str, object], said: str) -> None:
    objective, _, _ = made()
    with torch.device("meta"):
        student = Transformer(config(2, **other))
    with pytest.raises(ConfigError, match=said):
        objective.assemble(student)


def test_settings() -> None:
    wanted = parse(StudentConfig, {"teacher": "there", "text": {"kind": "mlm"}, "until": 5})
    objective = build(wanted, FULL)
    assert isinstance(objective, MixtureOfStudents) and objective.text.NAME == "mlm"
    with pytest.raises(UsageError, match="needs its teacher"):
        objective.assemble(Transformer(config(2)))
    with pytest.raises(ConfigError, match="weight"):
        parse(StudentConfig, {"teacher": "there", "weight": 0})
