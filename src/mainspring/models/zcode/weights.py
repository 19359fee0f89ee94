"""Z-code's weight names: M2M-100's and NLLB's, with experts NLLB-MoE's, which transformers can load."""

from collections.abc import Callable

from mainspring.models.bert_like import linear_or_norm
from mainspring.models.transforms import FusedHeads, StackedExperts, VocabularyRows
from mainspring.models.weights import Rule, WeightMap


def _attention(ours: str, theirs: str) -> tuple[Rule, ...]:
    return (
        *(
            Rule(
                f"{ours}.attention.qkv.{kind}",
                tuple(f"{theirs}.self_attn.{part}_proj.{kind}" for part in "qkv"),
                FusedHeads(),
            )
            for kind in ("weight", "bias")
        ),
        *linear_or_norm(f"{ours}.attention.out", f"{theirs}.self_attn.out_proj"),
        *linear_or_norm(f"{ours}.attention_norm", f"{theirs}.self_attn_layer_norm"),
    )


def _dense(ours: str, theirs: str) -> tuple[Rule, ...]:
    return (
        *linear_or_norm(f"{ours}.feed_forward.up", f"{theirs}.fc1"),
        *linear_or_norm(f"{ours}.feed_forward.down", f"{theirs}.fc2"),
        *linear_or_norm(f"{ours}.feed_forward_norm", f"{theirs}.final_layer_norm"),
    )


def _dense_or_experts(ours: str, theirs: str) -> tuple[Rule, ...]:
    return (
        *linear_or_norm(f"{ours}.feed_forward.up", f"{theirs}.ffn.fc1"),
        *linear_or_norm(f"{ours}.feed_forward.down", f"{theirs}.ffn.fc2"),
        Rule(f"{ours}.feed_forward.gate.weight", f"{theirs}.ffn.router.classifier.weight"),
        *(
            Rule(
                f"{ours}.feed_forward.experts.{part}.{kind}",
                f"{theirs}.ffn.experts.expert_{{e}}.{name}.{kind}",
                StackedExperts(),
            )
            for part, name in (("up", "fc1"), ("down", "fc2"))
            for kind in ("weight", "bias")
        ),
        *linear_or_norm(f"{ours}.feed_forward_norm", f"{theirs}.ff_layer_norm"),
    )


def _weights(feed_forward: Callable[[str, str], tuple[Rule, ...]], cross: str) -> WeightMap:
    theirs = f"model.decoder.layers.{{i}}.{cross}"
    return WeightMap(
        rules=(
            Rule("embeddings.token.weight", "model.shared.weight", VocabularyRows()),
            *_attention("encoder.{i}", "model.encoder.layers.{i}"),
            *feed_forward("encoder.{i}", "model.encoder.layers.{i}"),
            *_attention("layers.{i}", "model.decoder.layers.{i}"),
            *feed_forward("layers.{i}", "model.decoder.layers.{i}"),
            *linear_or_norm("layers.{i}.cross.q", f"{theirs}.q_proj"),
            *(
                Rule(
                    f"layers.{{i}}.cross.kv.{kind}",
                    tuple(f"{theirs}.{part}_proj.{kind}" for part in "kv"),
                    FusedHeads(parts=2),
                )
                for kind in ("weight", "bias")
            ),
            *linear_or_norm("layers.{i}.cross.out", f"{theirs}.out_proj"),
            *linear_or_norm("layers.{i}.cross_norm", f"{theirs}_layer_norm"),
            *linear_or_norm("encoder_norm", "model.encoder.layer_norm"),
            *linear_or_norm("norm", "model.decoder.layer_norm"),
        ),
        prefix="model.",
        aliases={
            "model.encoder.embed_tokens.weight": "model.shared.weight",
            "model.decoder.embed_tokens.weight": "model.shared.weight",
            "lm_head.weight": "model.shared.weight",
        },
        ignored=(r"model\.(en|de)coder\.embed_positions\.weights?",),
    )


WEIGHTS = _weights(_dense, "encoder_attn")
"""Ours beside M2M100ForConditionalGeneration's."""
WEIGHTS_OF_EXPERTS = _weights(_dense_or_experts, "cross_attention")
"""Ours beside NllbMoeForConditionalGeneration's."""
