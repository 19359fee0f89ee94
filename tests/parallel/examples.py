"""Models that every strategy has to train as one process would: ours, Hugging Face's, a CNN, and an awkward
one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCAB = 96
LENGTH = 12


@dataclass(frozen=True)
class Example:
    """A model, data for it and its loss."""

    build: Callable[[], nn.Module]
    """A fresh model; random numbers come from torch's default generator."""
    rows: Callable[[int, torch.Generator], list[Any]]
    """That many rows of data, of different lengths where that makes sense."""
    loss: Callable[..., tuple[Tensor, int]]
    """Sum of the losses of some rows, and over how many predictions. Of a model that takes a share of their
    tokens, after the model and the rows also which share of how many; the sum is then of this share."""
    initialize: Callable[[nn.Module], None] | None = None
    """Fills a model born on meta, where the model can be."""


def text_rows(count: int, generator: torch.Generator) -> list[Tensor]:
    """Rows of 3 to LENGTH tokens: ranks get different numbers of them."""
    lengths = torch.randint(3, LENGTH + 1, (count,), generator=generator).tolist()
    return [torch.randint(5, VOCAB, (length,), generator=generator) for length in lengths]


def padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows right-padded to LENGTH + 1 [B, T], and which tokens are real."""
    ids = torch.zeros((len(rows), LENGTH), dtype=torch.int64)
    valid = torch.zeros((len(rows), LENGTH), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        valid[i, : len(row)] = True
    return ids, valid


def next_token_loss(logits: Tensor, ids: Tensor, valid: Tensor) -> tuple[Tensor, int]:
    labels = ids[:, 1:].masked_fill(~valid[:, 1:], -100)
    loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels.flatten(), reduction="sum")
    return loss, int((labels != -100).sum())


def _our_gpt2() -> nn.Module:
    from mainspring.nn import Transformer, TransformerConfig, initialize

    config = TransformerConfig(
        d_model=32, n_heads=4, n_layers=3, d_ff=80, vocab_size=VOCAB, max_positions=LENGTH
    )
    model = Transformer(config)
    if not next(model.parameters()).is_meta:
        initialize(model, seed=1)
    return model


def _our_deberta() -> nn.Module:
    """Parts outside the layers pass each a table with a gradient, and the last layer runs three times."""
    from mainspring.models.deberta.config import CONVOLUTION, deberta_v2
    from mainspring.nn import Transformer, initialize

    config = deberta_v2(32, 3, 4, d_ff=80, vocab_size=VOCAB, max_positions=LENGTH, conv=CONVOLUTION)
    model = Transformer(config)
    if not next(model.parameters()).is_meta:
        initialize(model, seed=1)
    return model


def _our_initialize(model: nn.Module) -> None:
    from mainspring.nn import initialize

    initialize(model, seed=1)


def _our_loss(
    model: nn.Module, rows: list[Tensor], index: int = 0, size: int = 1, z_weight: float = 0.0
) -> tuple[Tensor, int]:
    """Experts' z losses count by rows' tokens, of which ranks with shares have the same mean."""
    from mainspring.data.batch import IGNORE, causal_batch
    from mainspring.parallel.sequence import split_tokens

    ids, valid = padded(rows)
    labels = F.pad(ids[:, 1:].masked_fill(~valid[:, 1:], IGNORE), (0, 1), value=IGNORE)
    share = split_tokens(causal_batch(ids, valid=valid, labels=labels), index, size)
    assert share.labels is not None
    output = model(share)
    loss = F.cross_entropy(output.logits.float().flatten(0, 1), share.labels.flatten(), reduction="sum")
    if z_weight:
        loss = loss + z_weight * output.auxiliary[1] * valid.sum() / size
    return loss, int((share.labels != IGNORE).sum())


def _hf_gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=LENGTH,
        n_embd=32,
        n_layer=2,
        n_head=4,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return GPT2LMHeadModel(config)


def _hf_bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=VOCAB,
        max_position_embeddings=LENGTH,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForMaskedLM(config)


def _hf_loss(model: nn.Module, rows: list[Tensor]) -> tuple[Tensor, int]:
    ids, valid = padded(rows)
    logits = model(input_ids=ids, attention_mask=valid.long()).logits
    return next_token_loss(logits, ids, valid)


def _hf_deberta() -> nn.Module:
    from transformers import DebertaV2Config, DebertaV2ForMaskedLM

    config = DebertaV2Config(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=LENGTH, relative_attention=True, position_buckets=8, pos_att_type="c2p|p2c",
        norm_rel_ebd="layer_norm", share_att_key=True, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, type_vocab_size=0,
    )  # fmt: skip
    return DebertaV2ForMaskedLM(config)


def _hf_mixtral() -> nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=LENGTH,
        use_cache=False, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return MixtralForCausalLM(config)


def _hf_t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
        use_cache=False, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def _t5_loss(model: nn.Module, rows: list[Tensor]) -> tuple[Tensor, int]:
    """Each row is written again from itself."""
    ids, valid = padded(rows)
    logits = model(input_ids=ids, attention_mask=valid.long(), decoder_input_ids=ids).logits
    return next_token_loss(logits, ids, valid)


class Cnn(nn.Module):
    """Stages of strided convolutions with group norm, then a classifier; memory in channels-last order."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1))
            for _ in range(3)
        )
        self.classify = nn.Linear(8, 7)
        self.register_buffer("mean", torch.randn(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images - self.mean)
        for stage in self.stages:
            x = stage(x)
        return self.classify(x.mean((2, 3)))


def _cnn() -> nn.Module:
    return Cnn().to(memory_format=torch.channels_last)


def _image_rows(count: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
    labels = torch.randint(0, 7, (count,), generator=generator).tolist()
    return [(torch.randn(3, 16, 16, generator=generator), label) for label in labels]


def _image_loss(model: nn.Module, rows: list[tuple[Tensor, int]]) -> tuple[Tensor, int]:
    logits = model(torch.stack([image for image, _ in rows]))
    labels = torch.tensor([label for _, label in rows])
    return F.cross_entropy(logits.float(), labels, reduction="sum"), len(rows)


class Awkward(nn.Module):
    """Tied weights, a frozen part, layers that share one, a part used by some rows only, and one by none."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.layers[3].weight = self.layers[0].weight  # one parameter in two blocks
        self.layers[1].requires_grad_(False)
        self.extra = nn.Linear(16, 16)
        self.idle = nn.Linear(16, 16)
        self.head = nn.Linear(16, VOCAB, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        if bool((ids[:, 0] < 20).any()):
            x = torch.where((ids[:, :1] < 20)[..., None], x + self.extra(x), x)
        return self.head(x * self.scale)


def _awkward_loss(model: nn.Module, rows: list[Tensor]) -> tuple[Tensor, int]:
    ids, valid = padded(rows)
    return next_token_loss(model(ids), ids, valid)


def _ours(**config: Any) -> Callable[[], nn.Module]:
    """A model of ours of four layers, or of an encoder and a decoder of two."""

    def build() -> nn.Module:
        from mainspring.nn import Transformer, TransformerConfig, initialize

        both = "encoder_layers" in config
        shape = {"d_model": 32, "n_heads": 4, "n_layers": 0 if both else 4, "d_ff": 48, "vocab_size": VOCAB}
        model = Transformer(TransformerConfig(**{**shape, "max_positions": LENGTH, **config}))
        return model if next(model.parameters()).is_meta else initialize(model, seed=1)

    return build


def _experts() -> nn.Module:
    """Experts in every other layer, gated, two a token, beside a dense feed-forward."""
    from mainspring.nn.config import ExpertLayers

    experts = ExpertLayers(count=4, top_k=2, residual=True, capacity_factor=None)
    return _ours(experts=experts, activation="swiglu", n_layers=4)()


def _experts_loss(model: nn.Module, rows: list[Tensor], index: int = 0, size: int = 1) -> tuple[Tensor, int]:
    return _our_loss(model, rows, index, size, z_weight=0.1)


def _mask_decoder() -> nn.Module:
    """Tables of distances and of positions that stages far apart use, and a last layer that runs thrice."""
    from mainspring.nn.config import Absolute, Disentangled

    positions = (Absolute(place="decoder"), Disentangled())
    return _ours(norm_place="post", positions=positions)()


def _encoder_decoder() -> nn.Module:
    from mainspring.nn.config import ExpertLayers, T5Bias

    experts = ExpertLayers(count=4, capacity_factor=None)
    return _ours(encoder_layers=2, decoder_layers=2, experts=experts, positions=(T5Bias(),))()


def _rewriting_loss(model: nn.Module, rows: list[Tensor]) -> tuple[Tensor, int]:
    """Each row is written again from itself; experts' z losses count by rows' tokens."""
    from mainspring.data.batch import bidirectional_batch, causal_batch

    ids, valid = padded(rows)
    output = model(causal_batch(ids, valid=valid), source=bidirectional_batch(ids, valid=valid))
    loss, count = next_token_loss(output.logits, ids, valid)
    return loss + 0.1 * output.auxiliary[1] * valid.sum(), count


class Tied(nn.Linear):
    """A linear layer with the table of an embedding."""


def _sequence() -> nn.Module:
    """Modules one after another; the last has the first one's table, and two in between share theirs."""
    layers = [nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(4)]
    layers[3][0].weight = layers[1][0].weight
    model = nn.Sequential(nn.Embedding(VOCAB, 16), *layers, Tied(16, VOCAB, bias=False))
    model[-1].weight = model[0].weight
    return model


STAGED: dict[str, Example] = {
    "ours-deep": Example(_ours(), text_rows, _our_loss, _our_initialize),
    "ours-experts": Example(_experts, text_rows, _experts_loss, _our_initialize),
    "ours-mask-decoder": Example(_mask_decoder, text_rows, _our_loss, _our_initialize),
    "ours-encoder-decoder": Example(_encoder_decoder, text_rows, _rewriting_loss, _our_initialize),
    "sequence": Example(_sequence, text_rows, _awkward_loss),
}
"""Models that can be cut into stages; at least four."""

EXAMPLES: dict[str, Example] = {
    "ours-gpt2": Example(_our_gpt2, text_rows, _our_loss, _our_initialize),
    "ours-deberta": Example(_our_deberta, text_rows, _our_loss, _our_initialize),
    "hf-gpt2": Example(_hf_gpt2, text_rows, _hf_loss),
    "hf-bert": Example(_hf_bert, text_rows, _hf_loss),
    "hf-deberta": Example(_hf_deberta, text_rows, _hf_loss),
    "hf-mixtral": Example(_hf_mixtral, text_rows, _hf_loss),
    "hf-t5": Example(_hf_t5, text_rows, _t5_loss),
    "cnn": Example(_cnn, _image_rows, _image_loss),
    "awkward": Example(Awkward, text_rows, _awkward_loss),
}
