"""A mixture of students: a smaller model learns from the text and, for a part of the run, from a larger one.

Rajbhandari et al. 2022 (DeepSpeed-MoE, arXiv 2201.05596), section 4.2: the student has layers of experts as
its teacher has them, an eighth fewer layers, and minimises its cross entropy on the text plus alpha times the
divergence of what it predicts from what the teacher does. A student of less capacity gains from its teacher
early and loses by it late, so the second term is left out from some step on: staged distillation.

Nothing here asks for experts: a dense student of a dense teacher is distilled alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch
from mainspring.errors import ConfigError, UsageError
from mainspring.nn.config import TransformerConfig
from mainspring.nn.transformer import Transformer
from mainspring.objectives.around import network_tensors
from mainspring.objectives.base import LabelledView, Loss, Objective, Views, labelled, labelled_loss
from mainspring.objectives.config import StudentConfig
from mainspring.objectives.cross_entropy import summed_cross_entropy
from mainspring.objectives.distill import Teacher, summed_logit_divergence
from mainspring.objectives.teaching import TaughtNetwork


class StagedStudent(TaughtNetwork):
    """A student beside its teacher, and how many steps it has made.

    Args:
        network: the student.
        teacher: configuration of the teacher.
    """

    steps: Tensor
    """Steps of the run so far, int64 [1]: it is saved with the weights."""

    def __init__(self, network: Transformer, teacher: TransformerConfig) -> None:
        super().__init__(network, teacher, teacher.n_layers)
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))


class MixtureOfStudents:
    """The loss of an objective on text, by its name, and `teacher`: the divergence from what a teacher says.

    Args:
        config: settings.
        text: the objective on text; it predicts at the labels of one view.
        teacher: what is learnt from; without it only weights can be told apart, nothing trained.
    """

    NAME = "teacher"

    def __init__(self, config: StudentConfig, text: Objective, teacher: Teacher | None = None) -> None:
        assert isinstance(text, LabelledView)
        self.config, self.text, self.teacher = config, text, teacher

    def assemble(self, network: Transformer) -> StagedStudent:
        """The network beside its teacher.

        Raises:
            ConfigError: the two do not predict the same tokens.
        """
        teacher = self._known().config
        check_students(network.config, teacher)
        return StagedStudent(network, teacher)

    def network_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The student's weights."""
        return network_tensors(state)

    def start(self, model: nn.Module) -> None:
        """Give the teacher its weights; the run begins."""
        assert isinstance(model, StagedStudent)
        model.teach(self._known().read())
        model.steps.zero_()

    def after_step(self, model: nn.Module, gather: object, applied: bool) -> None:
        """Count a step, also one that was left out, as the trainer counts."""
        assert isinstance(model, StagedStudent)
        model.steps += 1

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """The text objective's view."""
        return self.text.build(batch, rngs)

    def counts(self, views: Views) -> dict[str, int]:
        """Number of labelled tokens, for both losses."""
        counts = self.text.counts(views)
        return counts | {self.NAME: counts[self.text.NAME]}

    def loss(self, model: nn.Module, views: Views) -> dict[str, Loss]:
        """Summed cross entropy and divergence at the labels, in nats.

        From step `until` on, and in evaluation, the teacher is not asked, and its loss is 0.
        """
        assert isinstance(model, StagedStudent)
        view, name, weight = views[self.text.NAME], self.text.NAME, self.config.weight
        count = self.counts(views)[name]
        if not self.teaches(model):
            alone = labelled_loss(model, view)
            return {name: Loss(alone, 1.0, count), self.NAME: Loss(torch.zeros_like(alone), weight, count)}
        where = labelled(view)
        assert view.labels is not None
        said = model(view, part="teacher", select=where).logits
        logits = model(view, select=where).logits
        text = summed_cross_entropy(logits, view.labels[where])
        divergence = summed_logit_divergence(said, logits, self.config.temperature)
        return {name: Loss(text, 1.0, count), self.NAME: Loss(divergence, weight, count)}

    def teaches(self, model: StagedStudent) -> bool:
        """Whether the teacher is still asked."""
        return model.training and (self.config.until is None or int(model.steps) < self.config.until)

    def _known(self) -> Teacher:
        if self.teacher is None:
            raise UsageError(
                "a mixture of students needs its teacher: build the objective with "
                "mainspring.train.teacher.objective_of, which reads objective.teacher"
            )
        return self.teacher


def check_students(student: TransformerConfig, teacher: TransformerConfig) -> None:
    """Refuse two networks that do not predict the same tokens.

    Raises:
        ConfigError: names what differs, and what would do.
    """
    for one, other, what in (
        (student.is_encoder_decoder, teacher.is_encoder_decoder, "encoder and decoder"),
        (student.head, teacher.head, "head"),
        (student.vocab_size, teacher.vocab_size, "vocab_size"),
    ):
        if one != other:
            raise ConfigError(
                f"objective.kind = 'mos': the student's {what} is {one} and the teacher's {other}; a student "
                "learns what its teacher says token by token, so they need the same"
            )
    if student.is_encoder_decoder or student.head != "tokens":
        raise ConfigError(
            "objective.kind = 'mos' is for single stacks with a head of tokens (head = 'tokens')"
        )
