"""Z-code's weight names: M2M-100's and NLLB's, which transformers can load."""

from mainspring.models.bert_like import linear_or_norm
from mainspring.models.transforms import FusedHeads, VocabularyRows
from mainspring.models.weights import Rule, WeightMap


def _layer(ours: str, theirs: str) -> tuple[Rule, ...]:
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
        *linear_or_norm(f"{ours}.feed_forward.up", f"{theirs}.fc1"),
        *linear_or_norm(f"{ours}.feed_forward.down", f"{theirs}.fc2"),
        *linear_or_norm(f"{ours}.feed_forward_norm", f"{theirs}.final_layer_norm"),
    )


_CROSS = "model.decoder.layers.{i}.encoder_attn"

WEIGHTS = WeightMap(
    rules=(
        Rule("embeddings.token.weight", "model.shared.weight", VocabularyRows()),
        *_layer("encoder.{i}", "model.encoder.layers.{i}"),
        *_layer("layers.{i}", "model.decoder.layers.{i}"),
        *linear_or_norm("layers.{i}.cross.q", f"{_CROSS}.q_proj"),
        *(
            Rule(
                f"layers.{{i}}.cross.kv.{kind}",
                tuple(f"{_CROSS}.{part}_proj.{kind}" for part in "kv"),
                FusedHeads(parts=2),
            )
            for kind in ("weight", "bias")
        ),
        *linear_or_norm("layers.{i}.cross.out", f"{_CROSS}.out_proj"),
        *linear_or_norm("layers.{i}.cross_norm", f"{_CROSS}_layer_norm"),
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
"""Ours beside M2M100ForConditionalGeneration's."""
