"""GPT-2's published weight names: matrices are [in, out], queries, keys and values three blocks of one."""

from mainspring.models.transforms import FusedHeads, Transpose, VocabularyRows
from mainspring.models.weights import Rule, WeightMap

_OURS, _THEIRS = "layers.{i}", "transformer.h.{i}"
_QKV = FusedHeads(stacked=True, transposed=True)

WEIGHTS = WeightMap(
    rules=(
        Rule("embeddings.token.weight", "transformer.wte.weight", VocabularyRows()),
        Rule("embeddings.position.weight", "transformer.wpe.weight"),
        Rule(f"{_OURS}.attention_norm.weight", f"{_THEIRS}.ln_1.weight"),
        Rule(f"{_OURS}.attention_norm.bias", f"{_THEIRS}.ln_1.bias"),
        Rule(f"{_OURS}.attention.qkv.weight", f"{_THEIRS}.attn.c_attn.weight", _QKV),
        Rule(f"{_OURS}.attention.qkv.bias", f"{_THEIRS}.attn.c_attn.bias", _QKV),
        Rule(f"{_OURS}.attention.out.weight", f"{_THEIRS}.attn.c_proj.weight", Transpose()),
        Rule(f"{_OURS}.attention.out.bias", f"{_THEIRS}.attn.c_proj.bias"),
        Rule(f"{_OURS}.feed_forward_norm.weight", f"{_THEIRS}.ln_2.weight"),
        Rule(f"{_OURS}.feed_forward_norm.bias", f"{_THEIRS}.ln_2.bias"),
        Rule(f"{_OURS}.feed_forward.up.weight", f"{_THEIRS}.mlp.c_fc.weight", Transpose()),
        Rule(f"{_OURS}.feed_forward.up.bias", f"{_THEIRS}.mlp.c_fc.bias"),
        Rule(f"{_OURS}.feed_forward.down.weight", f"{_THEIRS}.mlp.c_proj.weight", Transpose()),
        Rule(f"{_OURS}.feed_forward.down.bias", f"{_THEIRS}.mlp.c_proj.bias"),
        Rule("norm.weight", "transformer.ln_f.weight"),
        Rule("norm.bias", "transformer.ln_f.bias"),
        Rule("head.table.weight", "lm_head.weight", VocabularyRows()),
    ),
    prefix="transformer.",
    aliases={"lm_head.weight": "transformer.wte.weight"},
    ignored=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),
)
"""Ours beside GPT2LMHeadModel's."""
