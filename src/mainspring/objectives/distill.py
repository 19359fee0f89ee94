"""Distillation: a student learns to relate tokens as a teacher's layer does, and, if asked, to say the same.

Wang et al. 2020 (MiniLM, arXiv 2002.10957), equations 1 to 4, and Wang et al. 2021 (MiniLMv2, arXiv
2012.15828), equations 5 to 7: L = sum over relations of weight * 1/(R n) * sum KL(teacher || student), over R
relation heads and n tokens. Version 1 is the relations `qk` and `vv` of the teacher's last layer, with the
heads that both have; version 2 `qq`, `kk` and `vv` of a chosen layer. Either way the student's last layer
learns, of which neither the output projection nor the feed-forward takes part: the other losses reach those.

A student far smaller than its teacher learns more by way of a teacher assistant (MiniLM, 3.4): distil into
the assistant, then from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch, restart_at_documents
from mainspring.data.token_row import TokenRow, collate, rows_of
from mainspring.errors import ConfigError, UsageError
from mainspring.nn.attention import projections
from mainspring.nn.config import TransformerConfig
from mainspring.nn.masks import allow
from mainspring.nn.transformer import Output, Transformer
from mainspring.objectives.around import network_tensors
from mainspring.objectives.base import Loss, Views, check_generators, labelled
from mainspring.objectives.config import DistillConfig
from mainspring.objectives.relations import log_relation, relation_heads, summed_divergence
from mainspring.objectives.teaching import TaughtNetwork
from mainspring.objectives.words import Vocabulary


class Teacher(Protocol):
    """A trained network that another learns from."""

    @property
    def config(self) -> TransformerConfig:
        """Its configuration."""
        ...

    def read(self) -> dict[str, Tensor]:
        """Its weights by our names, on the CPU."""
        ...


class Distill:
    """A loss for each relation by its name, and `hidden`, `logits` and `text` where they have a weight.

    The view has the text as it is; its labels, which are the tokens themselves, say what counts.

    Args:
        config: settings.
        vocabulary: of the tokenizer that both networks read.
        teacher: what is learnt from; without it only weights can be told apart, nothing trained.
    """

    NAME = "distill"

    def __init__(self, config: DistillConfig, vocabulary: Vocabulary, teacher: Teacher | None = None) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self.teacher = teacher

    def assemble(self, network: Transformer) -> TaughtNetwork:
        """The network beside its teacher.

        Raises:
            ConfigError: the two cannot be compared as the settings ask.
        """
        teacher = self._known().config
        check_pair(self.config, network.config, teacher)
        return TaughtNetwork(network, teacher, self.config.teacher_layer or teacher.n_layers)

    def network_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The student's weights."""
        return network_tensors(state)

    def start(self, model: nn.Module) -> None:
        """Give the teacher its weights."""
        assert isinstance(model, TaughtNetwork)
        model.teach(self._known().read())

    def after_step(self, model: nn.Module, gather: object, applied: bool) -> None:
        """Nothing goes on: a teacher stays as it is."""

    def build(self, batch: TokenBatch, rngs: Sequence[np.random.Generator]) -> Views:
        """The text of a batch [B, T], every token of it labelled; each text begins as the tokenizer begins
        one, and what has no room then is cut off."""
        check_generators(batch, rngs)
        first = self.vocabulary.first if self.config.begin and not self.config.causal else None
        rows = rows_of(batch)
        if first is not None:
            rows = [_begun(row, first) for row in rows]
        rows = [row._replace(labels=row.ids) for row in rows]
        view = collate(rows, pad=self.vocabulary.pad, device=batch.ids.device)
        index = torch.arange(view.ids.shape[1], device=batch.ids.device).expand_as(view.ids)
        rank = index if self.config.causal else torch.zeros_like(view.ids)
        return {self.NAME: view._replace(rank=rank, probe=None)}

    def counts(self, views: Views) -> dict[str, int]:
        """Number of tokens, and of texts."""
        view = views[self.NAME]
        counts = dict.fromkeys(self._weights, int(labelled(view).sum()))
        if "text" in counts:
            counts["text"] = len(_texts(view)[0])
        return counts

    def loss(self, model: nn.Module, views: Views) -> dict[str, Loss]:
        """All losses: those of relations, `logits` in nats, `hidden` in squares, `text` 1 - cosine."""
        view, config = views[self.NAME], self.config
        counted = labelled(view)
        assert isinstance(model, TaughtNetwork)
        select = counted if config.logits_weight else torch.zeros_like(counted)
        teacher = model(view, part="teacher", select=select)
        student = model(view, part="network", select=select)
        totals = self._relations(model, teacher, student, view, counted)
        if config.hidden_weight:
            error = (student.hidden.float() - teacher.hidden.float()).square().mean(-1)
            totals["hidden"] = error.masked_fill(~counted, 0.0).sum()
        if config.logits_weight:
            totals["logits"] = summed_logit_divergence(teacher.logits, student.logits, config.temperature)
        if config.text_weight:
            ours, theirs = (_text_means(out.hidden, view) for out in (student, teacher))
            totals["text"] = (1 - F.cosine_similarity(ours, theirs, dim=-1)).sum()
        counts = self.counts(views)
        return {n: Loss(total, self._weights[n], counts[n]) for n, total in totals.items()}

    @property
    def _weights(self) -> dict[str, float]:
        config = self.config
        weights: dict[str, float] = {str(name): weight for name, weight in config.relations.items()}
        weights["hidden"] = config.hidden_weight
        weights["logits"] = config.logits_weight
        weights["text"] = config.text_weight
        return {name: weight for name, weight in weights.items() if weight}

    def _relations(
        self, model: TaughtNetwork, teacher: Output, student: Output, view: TokenBatch, counted: Tensor
    ) -> dict[str, Tensor]:
        named = [str(name) for name in self.config.relations if name in self._weights]
        if not named:
            return {}
        both = model.teacher.config, model.network.config
        heads = self.config.relation_heads or both[0].n_heads
        parts: list[dict[str, Tensor]] = []
        allowed = allow(view)
        for config, output in zip(both, (teacher, student), strict=True):
            width = config.n_heads * config.head_width // heads
            fused = projections(output.projections[0], config.head_width)
            parts.append({n: relation_heads(x, width) for n, x in zip("qkv", fused, strict=True)})
        totals: dict[str, Tensor] = {}
        for name in named:
            one, other = (
                log_relation(p[name[0]], p[name[1]], self._scale(config, heads, name), allowed)
                for p, config in zip(parts, both, strict=True)
            )
            total = summed_divergence(one, other, counted) / heads
            totals[name] = model.network.peers.total(total)
        return totals

    @staticmethod
    def _scale(config: TransformerConfig, heads: int, relation: str) -> float:
        """1 / sqrt(width); of attention distributions as the network itself has it."""
        if relation == "qk" and heads == config.n_heads and config.attention_scale is not None:
            return config.attention_scale
        return 1 / math.sqrt(config.n_heads * config.head_width / heads)

    def _known(self) -> Teacher:
        if self.teacher is None:
            raise UsageError(
                "a distillation needs its teacher: build the objective with "
                "mainspring.train.teacher.objective_of, which reads objective.teacher"
            )
        return self.teacher


def _begun(row: TokenRow, first: int) -> TokenRow:
    """A row of texts with the token `first` before each that does not begin with it, as long as it was."""
    starts = np.flatnonzero(np.r_[True, row.doc[1:] != row.doc[:-1]] & (row.ids != first))
    begun = TokenRow._make(np.insert(field, starts, field[starts]) for field in row)
    places = starts + np.arange(len(starts))
    begun.ids[places] = first
    begun.pos[:] = restart_at_documents(torch.from_numpy(begun.doc)[None])[0].numpy()
    return begun.take(slice(row.length))


def check_pair(config: DistillConfig, student: TransformerConfig, teacher: TransformerConfig) -> None:
    """Refuse two networks that cannot be compared as the settings ask.

    Raises:
        ConfigError: names the field, both values and what would do.
    """
    if student.is_encoder_decoder or teacher.is_encoder_decoder:
        raise ConfigError("objective.kind = 'distill' compares single stacks; give n_layers in both models")
    if config.teacher_layer is not None and config.teacher_layer > teacher.n_layers:
        raise ConfigError(
            f"objective.teacher_layer = {config.teacher_layer}: the teacher has {teacher.n_layers} layers; "
            f"nearest legal value: {teacher.n_layers}"
        )
    if student.vocab_size != teacher.vocab_size and config.logits_weight:
        raise ConfigError(
            f"objective.logits_weight: the student has {student.vocab_size} tokens and the teacher "
            f"{teacher.vocab_size}; they need the same"
        )
    if config.logits_weight and (student.head != "tokens" or teacher.head != "tokens"):
        raise ConfigError(
            f"objective.logits_weight: the student's head is {student.head!r} and the teacher's "
            f"{teacher.head!r}; both have to be 'tokens'"
        )
    if (config.hidden_weight or config.text_weight) and student.d_model != teacher.d_model:
        raise ConfigError(
            f"objective.hidden_weight and text_weight compare hidden states of one width; the student has "
            f"{student.d_model} and the teacher {teacher.d_model}: set both to 0, or give it the same d_model"
        )
    if not config.relations:
        return
    heads = config.relation_heads or teacher.n_heads
    for name, one in (("student", student), ("teacher", teacher)):
        width = one.n_heads * one.head_width
        if width % heads:
            near = max(h for h in range(1, heads + 1) if width % h == 0)
            raise ConfigError(
                f"objective.relation_heads = {heads}: the {name}'s {one.n_heads} heads of {one.head_width} "
                f"cannot be cut into so many; nearest legal value: {near}"
            )


def summed_logit_divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Sum over rows of T^2 KL(softmax(teacher / T) || softmax(student / T)): fp32 scalar.

    Hinton et al. 2015 (arXiv 1503.02531), section 2; T^2 keeps gradients' size as T changes. Logits [N, V].
    """
    one = torch.log_softmax(teacher.float() / temperature, dim=-1)
    other = torch.log_softmax(student.float() / temperature, dim=-1)
    return F.kl_div(other, one, reduction="sum", log_target=True) * temperature**2


def _texts(view: TokenBatch) -> tuple[Tensor, Tensor]:
    """Texts with a label: their keys, and for each labelled token the number of its text."""
    counted = labelled(view)
    doc = torch.zeros_like(view.ids) if view.doc is None else view.doc
    rows = torch.arange(doc.shape[0], device=doc.device)[:, None]
    keys = rows * (int(doc.max()) + 1 if doc.numel() else 1) + doc
    found: tuple[Tensor, Tensor] = torch.unique(keys[counted], return_inverse=True)
    return found


def _text_means(hidden: Tensor, view: TokenBatch) -> Tensor:
    """Mean over the labelled tokens of each text: hidden [B, T, D] -> fp32 [texts, D]."""
    keys, number = _texts(view)
    picked = hidden[labelled(view)].float()
    sums = torch.zeros(len(keys), hidden.shape[-1], device=hidden.device)
    sums = sums.index_add(0, number, picked)
    counts = torch.bincount(number, minlength=len(keys))
    return sums / counts[:, None]
