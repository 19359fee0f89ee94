"""A reader of a question beside a text: relevance, yes or no, where the answer stands, what to highlight.

One encoder, several tasks (MT-DNN, Liu et al. 2019, arXiv 1901.11504), over an encoder that was made to read
texts one by one. Its first layers go on reading question and text apart, so that what they give can be kept
(DeFormer, Cao et al. 2020, arXiv 2005.00697); the last read both together, with low-rank updates that learn
what the encoder never did: to compare token with token. "There is no answer" is the span of the question's
first token (Devlin et al. 2019, 4.3).

Legend: B rows, Q tokens of a question, T tokens of a text, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mainspring.config import Section
from mainspring.data.batch import bidirectional_batch
from mainspring.errors import WeightsError, few
from mainspring.finetune.low_rank import LowRankLinear, adapt, fold
from mainspring.nn.init import Initial, declare, initialize
from mainspring.nn.linear import Linear
from mainspring.nn.part import Carried, Part
from mainspring.nn.transformer import Output, Transformer

UNKNOWN = -1.0
"""In place of a label that an example does not have."""


class ReaderConfig(Section):
    """Shape of a reader over an encoder."""

    apart: int = Field(4, ge=0)
    """First layers, which read question and text apart and stay as they are."""
    rank: int = Field(16, ge=1)
    """Rank of the updates of the other layers' maps."""
    width: int = Field(128, ge=1)
    """Width of the hidden layer of the heads of a row."""


class States(NamedTuple):
    """What the first layers give of rows read one by one."""

    x: Tensor
    """[B, T, D]."""
    valid: Tensor
    """False at padding, [B, T]."""


class Reading(NamedTuple):
    """Logits."""

    relevance: Tensor
    """That the text serves the question, [B]."""
    verdict: Tensor
    """That it says yes, [B]."""
    spans: Tensor
    """Of an answer's beginning and end, [B, 1 + T, 2]; at 0 that there is none; -inf at padding."""
    highlights: Tensor
    """That a token bears on the question, [B, T]."""


class Labels(NamedTuple):
    """What readings should say."""

    relevance: Tensor
    """0 or 1, or `UNKNOWN`, [B]."""
    verdict: Tensor
    """The same, [B]."""
    spans: Tensor
    """First and last token of the answer, counted from 1; 0 for none; below 0 unknown; int64 [B, 2]."""


class _RowHead(nn.Module):
    """One logit of a row, from its first state and the mean of its text's."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.dense = Linear(2 * dim, width)
        self.score = Linear(width, 1)
        for layer in (self.dense, self.score):
            declare(layer, Initial(layer.in_features**-0.5))

    def forward(self, row: Tensor) -> Tensor:
        """[B, 2 D] -> [B]."""
        logits: Tensor = self.score(F.gelu(self.dense(row)))
        return logits.squeeze(-1)


class Reader(nn.Module):
    """Heads over an encoder whose last layers read question and text together.

    The encoder is left as it is: its first layers are shared, its last ones copied.

    >>> from mainspring.nn import Transformer, TransformerConfig, initialize
    >>> config = TransformerConfig(d_model=8, n_heads=2, n_layers=2, d_ff=16, vocab_size=11)
    >>> reader = Reader(initialize(Transformer(config), seed=0), ReaderConfig(apart=1, rank=2), seed=1)
    >>> ids, valid = torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.bool)
    >>> states = reader.apart(ids, valid)
    >>> reader(states, states).spans.shape
    torch.Size([1, 4, 2])
    """

    def __init__(self, encoder: Transformer, config: ReaderConfig, *, seed: int) -> None:
        """Build a reader that has learnt nothing.

        Args:
            encoder: a single stack without heads; frozen by this.
            config: the reader's shape.
            seed: of what is drawn.

        Raises:
            WeightsError: the encoder has no layer left to read both with.
        """
        super().__init__()
        layers = len(encoder.layers)
        if config.apart >= layers:
            raise WeightsError(
                f"apart = {config.apart}: the encoder has {layers} layers, and one at least has to read "
                f"question and text together; set apart to {layers - 1} at most"
            )
        self.config, self.layers = config, layers
        encoder.requires_grad_(False)
        same = [encoder.embeddings, *encoder.layers[: config.apart]]
        self.encoder = copy.deepcopy(encoder, {id(module): module for module in same})
        generator = torch.Generator().manual_seed(seed)
        for layer in self.encoder.layers[config.apart :]:
            adapt(layer, config.rank, generator)
        dim = encoder.config.d_model
        self.sides = nn.Parameter(torch.zeros(2, dim))
        """Added to states of questions and of texts where they meet."""
        self.relevance = _RowHead(dim, config.width)
        self.verdict = _RowHead(dim, config.width)
        self.tokens = Linear(dim, 3)
        declare(self.tokens, Initial(dim**-0.5))
        for head in (self.relevance, self.verdict, self.tokens):
            initialize(head, seed)
        for layer in self.encoder.layers[config.apart :]:
            for module in layer.modules():
                if isinstance(module, LowRankLinear) and module.bias is not None:
                    module.bias.requires_grad_(True)
                elif isinstance(module, nn.LayerNorm):
                    module.requires_grad_(True)

    def apart(self, ids: Tensor, valid: Tensor) -> States:
        """What the first layers give of rows: ids and valid [B, T]."""
        batch = bidirectional_batch(ids, valid=None if bool(valid.all()) else valid)
        if self.config.apart == 0:
            return States(self.encoder.embed(batch), valid)
        carried = self.encoder(batch, part=Part(0, self.config.apart, self.layers))
        assert isinstance(carried, Carried) and carried.x is not None
        return States(carried.x, valid)

    def forward(self, questions: States, texts: States) -> Reading:
        """Read B questions, each beside a text."""
        x = torch.cat([questions.x + self.sides[0], texts.x + self.sides[1]], 1)
        valid = torch.cat([questions.valid, texts.valid], 1)
        batch = bidirectional_batch(torch.zeros_like(valid, dtype=torch.int64), valid=valid)
        part = Part(self.config.apart, self.layers, self.layers)
        output = self.encoder(batch, part=part, carried=Carried(x))
        assert isinstance(output, Output)
        length = questions.x.shape[1]
        first, text = output.hidden[:, :1], output.hidden[:, length:]
        weights = texts.valid[..., None].to(text.dtype)
        mean = (text * weights).sum(1) / weights.sum(1).clamp_min(1.0)
        row = torch.cat([first[:, 0], mean], -1)
        tokens = self.tokens(torch.cat([first, text], 1))
        places = F.pad(texts.valid, (1, 0), value=True)
        spans = tokens[..., :2].masked_fill(~places[..., None], -torch.inf)
        return Reading(self.relevance(row), self.verdict(row), spans, tokens[:, 1:, 2])

    def trained(self) -> dict[str, Tensor]:
        """What training changes: updates, biases and norms of the last layers, and the heads."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    def load_trained(self, state: Mapping[str, Tensor]) -> Self:
        """Take over what another reader of this shape was trained to.

        Raises:
            WeightsError: names or shapes are others.
        """
        own = {name: p for name, p in self.named_parameters() if p.requires_grad}
        wrong = sorted(set(own) ^ set(state)) or [n for n, p in own.items() if p.shape != state[n].shape]
        if wrong:
            raise WeightsError(
                f"these heads belong to another encoder or another shape: {few(wrong)} differ; "
                "train heads for this encoder: mainspring search train"
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])
        return self

    def folded(self) -> Self:
        """This reader for use: nothing can be trained, and updates cost nothing any more."""
        for layer in self.encoder.layers[self.config.apart :]:
            fold(layer)
        return self.requires_grad_(False).eval()


def losses(reading: Reading, labels: Labels) -> dict[str, Tensor]:
    """Mean loss of each task over the rows that have a label for it; tasks that no row has are left out.

    Cross entropy of span ends as in Devlin et al. 2019; the others are logistic. Tokens of the answer are
    what is to be highlighted.
    """
    found: dict[str, Tensor] = {}
    for name in ("relevance", "verdict"):
        label, logits = getattr(labels, name), getattr(reading, name)
        known = label != UNKNOWN
        if bool(known.any()):
            found[name] = F.binary_cross_entropy_with_logits(logits[known], label[known])
    known = labels.spans[:, 0] >= 0
    if bool(known.any()):
        ends = [F.cross_entropy(reading.spans[known, :, i], labels.spans[known, i]) for i in (0, 1)]
        found["span"] = (ends[0] + ends[1]) / 2
    answered = labels.spans[:, 0] > 0
    if bool(answered.any()):
        found["highlight"] = _highlight_loss(
            reading.highlights[answered], reading.spans[answered, 1:, 0] > -torch.inf, labels.spans[answered]
        )
    return found


def _highlight_loss(logits: Tensor, valid: Tensor, spans: Tensor) -> Tensor:
    """Logistic loss over tokens, [N, T]; the few that are to be highlighted weigh as much as the others."""
    place = torch.arange(1, logits.shape[1] + 1, device=logits.device)
    inside = (place >= spans[:, :1]) & (place <= spans[:, 1:])
    each = F.binary_cross_entropy_with_logits(logits, inside.to(logits.dtype), reduction="none")
    means = [(each * m).sum(1) / m.sum(1).clamp_min(1) for m in (inside & valid, ~inside & valid)]
    return (means[0] + means[1]).mean() / 2
