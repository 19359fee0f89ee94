"""ELECTRA as values of the one transformer, and its Hugging Face config.json.

Two models are trained together: a small generator fills masks, and the discriminator finds what it replaced.
Embeddings may be narrower than the layers, or wider (a generator's are as wide as its discriminator's, so
that both can share them).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from mainspring.models.bert_like import FREE, common_from_hf, common_to_hf, is_bare, require_gelu
from mainspring.models.hf import differences
from mainspring.nn.config import TransformerConfig


def electra(d_model: int, n_layers: int, n_heads: int, **other: Any) -> TransformerConfig:
    """An ELECTRA discriminator (Clark et al. 2020, section 2 and table 6)."""
    values: dict[str, Any] = {
        "d_ff": 4 * d_model,
        "activation": "gelu",
        "vocab_size": 30522,
        "max_positions": 512,
        "type_vocab": 2,
        "embed_norm": True,
        "norm_place": "post",
        "norm_eps": 1e-12,
        "head": "replaced",
        "scale_residual": False,
        **other,
    }
    return TransformerConfig(d_model=d_model, n_layers=n_layers, n_heads=n_heads, **values)


def generator(d_model: int, n_layers: int, n_heads: int, **other: Any) -> TransformerConfig:
    """An ELECTRA generator: the same layers with a masked-language-model head."""
    head = {"head": "tokens", "head_transform": True, "head_bias": True}
    return electra(d_model, n_layers, n_heads, **{**head, **other})


PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        "tiny": electra(128, 2, 2, embed_dim=64),
        "tiny-generator": generator(64, 2, 1),
        "small": electra(256, 12, 4, embed_dim=128),
        "small-generator": generator(256, 12, 4, embed_dim=128),
        "base": electra(768, 12, 12),
        "base-generator": generator(256, 12, 4, embed_dim=768),
        "large": electra(1024, 24, 16),
        "large-generator": generator(256, 24, 4, embed_dim=1024),
    }
)
"""Published discriminators (14, 109 and 335 million parameters) and generators, after tiny ones.

The small generator is the published one, which is as large as its discriminator; the paper's is a quarter."""


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """config.json of an ELECTRA.

    Raises:
        WeightsError: the configuration has parts that ELECTRA has not; each is named.
    """
    make = generator if config.head == "tokens" else electra
    differences(config, make(config.d_model, config.depth, config.n_heads), (*FREE, "embed_dim"), "ELECTRA")
    require_gelu(config, "ELECTRA")
    classes = {"none": "ElectraModel", "replaced": "ElectraForPreTraining", "tokens": "ElectraForMaskedLM"}
    return {
        "architectures": [classes[config.head]],
        "model_type": "electra",
        "embedding_size": config.embed_width,
        **common_to_hf(config, "ELECTRA"),
        "position_embedding_type": "absolute",
        "pad_token_id": 0,
    }


def from_hf(values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
    """The configuration that an ELECTRA's config.json and the names of its weights describe.

    A generator is told by its architecture, or by weights of its head.

    Raises:
        WeightsError: it asks for a variant that this transformer does not have.
    """
    fields = common_from_hf(values, names)
    width = values.get("embedding_size", 128)
    fields["embed_dim"] = None if width == fields["d_model"] else width
    architecture = str((values.get("architectures") or [""])[0])
    fills = architecture.endswith("MaskedLM") or any(n.startswith("generator_") for n in names)
    if fills:
        config = generator(**fields)
        require_gelu(config, "ELECTRA")
        return config
    bare = is_bare(values, names, "discriminator_predictions.")
    return electra(**fields, head="none" if bare else "replaced")
