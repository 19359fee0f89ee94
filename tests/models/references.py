"""Random tiny models of transformers, one or more for each family, and the batteries' cases."""

from __future__ import annotations

import warnings
from types import MethodType
from typing import Any

import torch
import transformers as hf
from torch import nn
from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeExperts
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from mainspring.data.batch import TokenBatch

from .battery import VOCABULARY, Case

V = VOCABULARY


def bert_like(kind: Any, settings: Any, **other: Any) -> Any:
    """A model with BERT's field names."""
    values = {
        "vocab_size": V,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 42,
        "type_vocab_size": 2,
        **other,
    }
    return kind(settings(**values))


def gpt2() -> Any:
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(
            vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=40, bos_token_id=None, eos_token_id=None
        )
    )


def xlm(**other: Any) -> Any:
    values = {"vocab_size": V, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 40}
    return hf.XLMWithLMHeadModel(hf.XLMConfig(**{**values, "n_langs": 3, "use_lang_emb": True, **other}))


def m2m_values(**other: Any) -> dict[str, Any]:
    return {
        "vocab_size": V,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 40,
        **other,
    }


def m2m(**other: Any) -> Any:
    return hf.M2M100ForConditionalGeneration(hf.M2M100Config(**m2m_values(**other)))


def nllb_moe(**other: Any) -> Any:
    values = {"encoder_layers": 4, "decoder_layers": 2, "num_experts": 3, "encoder_sparse_step": 2}
    fixed = {"decoder_sparse_step": 2, "moe_token_dropout": 0.0, "router_aux_loss_coef": 0.01}
    settings = m2m_values(**values, **fixed, **other)
    return hf.NllbMoeForConditionalGeneration(hf.NllbMoeConfig(**settings))


def nllb_moe_logits(model: Any, data: TokenBatch, source: TokenBatch | None) -> torch.Tensor:
    """transformers 5.23 takes the router's mask [tokens, experts] for the numbers of experts: everything goes
    to experts 0 and 1. Here each of its experts gets the tokens that its router gave it."""

    def as_routed(self: Any, hidden: torch.Tensor, mask: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
        return sum(probs[:, e, None] * self[f"expert_{e}"](hidden) for e in range(self.num_experts))

    for module in model.modules():
        if isinstance(module, NllbMoeExperts):
            module.forward = MethodType(as_routed, module)
    assert source is not None
    valid = None if source.valid is None else source.valid.long()
    return model(input_ids=source.ids, attention_mask=valid, decoder_input_ids=data.ids).logits


class Unilm2(nn.Module):
    """UniLM v2 of transformers' parts: a BERT whose mask carries T5's bias of positions."""

    def __init__(self) -> None:
        super().__init__()
        inner = bert_like(hf.BertForMaskedLM, hf.BertConfig)
        self.bert, self.cls, self.config = inner.bert, inner.cls, inner.config
        self.bert.rel_pos_bias = nn.Linear(32, 4, bias=False)
        self._inner = [inner]

    def tie(self) -> nn.Module:
        return self._inner[0]


def unilm2_logits(model: Unilm2, data: TokenBatch, source: TokenBatch | None) -> torch.Tensor:
    index = torch.arange(data.ids.shape[1])
    bucket = T5Attention._relative_position_bucket(
        index[None, :] - index[:, None], bidirectional=True, num_buckets=32, max_distance=128
    )
    scores = nn.functional.one_hot(bucket, 32).float() @ model.bert.rel_pos_bias.weight.t()
    mask = scores.permute(2, 0, 1)[None].expand(data.ids.shape[0], -1, -1, -1)
    if data.valid is not None:
        mask = mask.masked_fill(~data.valid[:, None, None, :], torch.finfo(torch.float32).min)
    hidden = model.bert.embeddings(input_ids=data.ids, token_type_ids=data.type)
    for layer in model.bert.encoder.layer:
        hidden = layer(hidden, mask)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    return model.cls(hidden)


class GatedSelf(nn.Module):
    """RoBERTa's self-attention names around WavLM's attention, whose output projection is the identity."""

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.query, self.key, self.value = plain.query, plain.key, plain.value
        width, heads = plain.query.in_features, plain.num_attention_heads
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, heads, 1, 1))
        self.gru_rel_pos_linear = nn.Linear(width // heads, 8)
        self.shape = width, heads

    def attend(self, hidden: torch.Tensor, valid: Any, table: torch.Tensor) -> torch.Tensor:
        width, heads = self.shape
        wavlm = WavLMAttention(width, heads, num_buckets=table.shape[0], max_distance=128).eval()
        for part, mine in (("q", self.query), ("k", self.key), ("v", self.value)):
            wavlm.get_submodule(f"{part}_proj").load_state_dict(mine.state_dict())
        wavlm.gru_rel_pos_const.copy_(self.gru_rel_pos_const)
        wavlm.gru_rel_pos_linear.load_state_dict(self.gru_rel_pos_linear.state_dict())
        wavlm.rel_attn_embed.weight.copy_(table)
        wavlm.out_proj.weight.copy_(torch.eye(width))
        wavlm.out_proj.bias.zero_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch dislikes that WavLM mixes kinds of masks
            out, *_ = wavlm(hidden, attention_mask=valid)
        return out


class XlmE(nn.Module):
    """XLM-E of transformers' parts: XLM-R with WavLM's gated attention, and either head."""

    def __init__(self, generator: bool) -> None:
        super().__init__()
        inner = roberta(hf.XLMRobertaForMaskedLM, hf.XLMRobertaConfig)
        self.roberta, self.config = inner.roberta, inner.config
        if generator:
            self.lm_head = inner.lm_head
        else:
            electra = bert_like(hf.ElectraForPreTraining, hf.ElectraConfig, embedding_size=32)
            self.discriminator_predictions = electra.discriminator_predictions
        self.roberta.encoder.rel_attn_embed = nn.Embedding(32, 4)
        for layer in self.roberta.encoder.layer:
            layer.attention.self = GatedSelf(layer.attention.self)


def one_gate_of_four(model: XlmE) -> None:
    """Ours keeps the sum of WavLM's four outputs a gate, and writes it as the first."""
    for layer in model.roberta.encoder.layer:
        linear = layer.attention.self.gru_rel_pos_linear
        for tensor in (linear.weight, linear.bias):
            tensor.view(2, 4, -1)[:, 1:] = 0


def same_bias(model: Any) -> None:
    """transformers 5 unties the copies of the head's bias with the tables."""
    model.lm_head.bias.copy_(model.lm_head.decoder.bias)


def xlm_e_logits(model: XlmE, data: TokenBatch, source: TokenBatch | None) -> torch.Tensor:
    valid = None if data.valid is None else data.valid.long()
    hidden = model.roberta.embeddings(input_ids=data.ids)
    table = model.roberta.encoder.rel_attn_embed.weight
    for layer in model.roberta.encoder.layer:
        attended = layer.attention.self.attend(hidden, valid, table)
        hidden = layer.attention.output(attended, hidden)
        hidden = layer.output(layer.intermediate(hidden), hidden)
    head = model.lm_head if hasattr(model, "lm_head") else model.discriminator_predictions
    return head(hidden)


def roberta(kind: Any, settings: Any, **other: Any) -> Any:
    return bert_like(kind, settings, **{"type_vocab_size": 1, "layer_norm_eps": 1e-5, **other})


def electra(kind: Any, **other: Any) -> Any:
    return bert_like(kind, hf.ElectraConfig, **{"embedding_size": 24, **other})


CASES = [
    Case("gpt2", gpt2, hf.GPT2LMHeadModel, causal=True),
    Case("turing_nlg", gpt2, hf.GPT2LMHeadModel, causal=True),
    Case("bert", lambda: bert_like(hf.BertForMaskedLM, hf.BertConfig), hf.BertForMaskedLM, segments=2),
    Case("minilm", lambda: bert_like(hf.BertModel, hf.BertConfig), hf.BertModel, segments=2),
    Case(
        "unilm",
        lambda: bert_like(hf.BertForMaskedLM, hf.BertConfig, type_vocab_size=6),
        hf.BertForMaskedLM,
        segments=6,
        name="unilm-v1",
    ),
    Case(
        "unilm",
        Unilm2,
        segments=2,
        values={"rel_pos_bins": 32, "max_rel_pos": 128},
        call=unilm2_logits,
        name="unilm-v2",
    ),
    Case(
        "roberta", lambda: roberta(hf.RobertaForMaskedLM, hf.RobertaConfig), hf.RobertaForMaskedLM, offset=2
    ),
    Case(
        "roberta",
        lambda: roberta(hf.RobertaForMaskedLM, hf.RobertaConfig, tie_word_embeddings=False),
        hf.RobertaForMaskedLM,
        offset=2,
        prepare=same_bias,
        name="roberta-untied",
    ),
    Case(
        "roberta",
        lambda: roberta(hf.RobertaModel, hf.RobertaConfig),
        hf.RobertaModel,
        offset=2,
        name="roberta-bare",
    ),
    *(
        Case(
            family,
            lambda: roberta(hf.XLMRobertaForMaskedLM, hf.XLMRobertaConfig),
            hf.XLMRobertaForMaskedLM,
            offset=2,
        )
        for family in ("xlm_r", "infoxlm")
    ),
    Case(
        "xlm_r_xl",
        lambda: roberta(hf.XLMRobertaXLForMaskedLM, hf.XLMRobertaXLConfig),
        hf.XLMRobertaXLForMaskedLM,
        offset=2,
    ),
    Case("xlm", xlm, hf.XLMWithLMHeadModel, languages=3),
    Case(
        "xlm",
        lambda: xlm(use_lang_emb=False, n_langs=1, gelu_activation=False, sinusoidal_embeddings=True),
        hf.XLMWithLMHeadModel,
        name="xlm-plain",
    ),
    Case(
        "xlm_e",
        lambda: XlmE(generator=False),
        offset=2,
        call=xlm_e_logits,
        prepare=one_gate_of_four,
        values={"rel_pos_bins": 32, "max_rel_pos": 128, "architectures": ["XLMEForPreTraining"]},
    ),
    Case(
        "xlm_e",
        lambda: XlmE(generator=True),
        offset=2,
        call=xlm_e_logits,
        prepare=one_gate_of_four,
        name="xlm_e-generator",
        values={"rel_pos_bins": 32, "max_rel_pos": 128, "architectures": ["XLMEForMaskedLM"]},
    ),
    Case("electra", lambda: electra(hf.ElectraForPreTraining), hf.ElectraForPreTraining, segments=2),
    Case(
        "electra",
        lambda: electra(hf.ElectraForMaskedLM, embedding_size=40),
        hf.ElectraForMaskedLM,
        segments=2,
        name="electra-generator",
    ),
    Case(
        "electra",
        lambda: electra(hf.ElectraModel, embedding_size=32),
        hf.ElectraModel,
        segments=2,
        name="electra-bare",
    ),
    Case("zcode", m2m, hf.M2M100ForConditionalGeneration, offset=2, source=True),
    Case(
        "zcode",
        lambda: m2m(scale_embedding=False, activation_function="gelu"),
        hf.M2M100ForConditionalGeneration,
        offset=2,
        source=True,
        name="zcode-plain",
    ),
    Case(
        "zcode_moe", nllb_moe, hf.NllbMoeForConditionalGeneration, offset=2, source=True, call=nllb_moe_logits
    ),
]
"""Every family, some in several forms."""
