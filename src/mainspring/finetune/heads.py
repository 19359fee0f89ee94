"""Task heads over the one transformer: classes of a row, tags of its tokens, a span in it, a score of a pair.

Devlin et al. 2019 (arXiv 1810.04805), section 4 and figure 4; a pair's score is the cross-encoder of
Nogueira and Cho 2019 (arXiv 1901.04085). The families differ in names of weights and in one activation only
(`finetune.published`). A `TaskModel` is a plain module over any single-stack `Transformer`: it trains with
any loop, and a plan can be applied to it.

Legend: B rows, T tokens, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from mainspring.config import Section
from mainspring.data.batch import TokenBatch
from mainspring.errors import ConfigError
from mainspring.models.weights import expected_shapes
from mainspring.nn.config import TransformerConfig
from mainspring.nn.init import Initial, declare
from mainspring.nn.linear import Linear
from mainspring.nn.transformer import Transformer

Task = Literal["classify", "tag", "span", "score"]


class HeadConfig(Section):
    """A task head."""

    task: Task
    """classify: one of several classes for a row; tag: for each token; span: where an answer begins and ends;
    score: one number for a row, such as how well a pair belongs together."""
    labels: tuple[str, ...] = ()
    """Names of the classes (classify, tag)."""
    several: bool = False
    """Whether several classes may hold at once (classify): each has a probability of its own."""
    dense: bool = True
    """A dense layer and activation before the classes (classify, score)."""
    activation: Literal["tanh", "gelu"] = "tanh"
    """Activation of the dense layer."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Probability of dropping an element of what the last map reads."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = self.task in ("classify", "tag")
        if named and len(self.labels) < 2:
            raise ValueError(
                f"task = {self.task!r} needs two labels or more, not {list(self.labels)}; one number is "
                f"task = 'score'"
            )
        if not named and self.labels:
            raise ValueError(f"task = {self.task!r} has no labels; leave {list(self.labels)} out")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels: {list(self.labels)} names one twice")
        return self

    @property
    def classes(self) -> int:
        """Columns of the logits."""
        return {"span": 2, "score": 1}.get(self.task, len(self.labels))


class RowHead(nn.Module):
    """Classes of a row, read from its first token."""

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.dense = Linear(width, width) if config.dense else None
        self.activation = torch.tanh if config.activation == "tanh" else F.gelu
        self.score = Linear(width, config.classes)

    def forward(self, first: Tensor) -> Tensor:
        """first [B, D] -> [B, C]."""
        if self.dense is not None:
            first = self.activation(self.dense(first))
        logits: Tensor = self.score(F.dropout(first, self.dropout, self.training))
        return logits


class TokenHead(nn.Module):
    """Classes of each token; of a span, how likely it begins and ends there."""

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.score = Linear(width, config.classes)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [B, T, D] -> [B, T, C]."""
        logits: Tensor = self.score(F.dropout(hidden, self.dropout, self.training))
        return logits


class TaskModel(nn.Module):
    """An encoder and a task head.

    Parameters get their values from `nn.init.initialize`, from weights (`finetune.published`), or the
    encoder's alone from a pretrained model (`over`).

    >>> from mainspring.data.batch import bidirectional_batch
    >>> from mainspring.nn import TransformerConfig, initialize
    >>> config = TransformerConfig(d_model=8, n_heads=2, n_layers=1, d_ff=32, vocab_size=11)
    >>> model = initialize(TaskModel(config, HeadConfig(task="classify", labels=("no", "yes"))), seed=0)
    >>> model(bidirectional_batch(torch.tensor([[1, 2, 3]]))).shape
    torch.Size([1, 2])
    """

    def __init__(self, config: TransformerConfig, head: HeadConfig) -> None:
        """`config` may have heads of pretraining, which are left out.

        Raises:
            ConfigError: it has an encoder and a decoder.
        """
        super().__init__()
        self.head_config = head
        self.encoder = Transformer(encoder_config(config))
        width = config.d_model
        self.reads_row = head.task in ("classify", "score")
        self.head = RowHead(width, head) if self.reads_row else TokenHead(width, head)
        for module in self.head.modules():
            declare(module, Initial(config.init_std))

    @classmethod
    def over(cls, config: TransformerConfig, state: Mapping[str, Tensor], head: HeadConfig) -> TaskModel:
        """A head to be trained (call `initialize` on `.head`) over a pretrained model.

        Args:
            config: of the pretrained model.
            state: its tensors by our names; those of its own heads are left out. They are copied.
            head: the task.
        """
        model = cls(config, head)
        shapes = expected_shapes(model.encoder.config)
        model.encoder.load_state_dict({name: state[name] for name in shapes})
        return model

    def forward(self, batch: TokenBatch) -> Tensor:
        """Logits in the dtype of computation: [B, C] of rows, [B, T, C] of tokens ([B, T, 2] of spans)."""
        return self.read(self.encoder(batch).hidden)

    def read(self, hidden: Tensor) -> Tensor:
        """Logits of the encoder's output [B, T, D]."""
        logits: Tensor = self.head(self.encoder.spread.first(hidden)[:, 0] if self.reads_row else hidden)
        return logits

    def blocks(self) -> list[nn.Module]:
        """The layers: units of sharding and recomputation."""
        return self.encoder.blocks()


def encoder_config(config: TransformerConfig) -> TransformerConfig:
    """The configuration without heads of pretraining.

    Raises:
        ConfigError: it has an encoder and a decoder.
    """
    if config.is_encoder_decoder:
        raise ConfigError(
            f"a task head stands on a single stack, and this model has {config.encoder_layers} encoder and "
            f"{config.decoder_layers} decoder layers; take an encoder"
        )
    return config.replace(
        head="none",
        head_transform=False,
        head_context=False,
        head_bias=False,
        tied=True,
        pooler=False,
        pair_classes=0,
    )
