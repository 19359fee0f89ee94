"""The families, and how a recipe names a model of one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

from pydantic import Field, model_validator

from mainspring.config import Section, parse
from mainspring.errors import ConfigError, suggest
from mainspring.models import (
    bert,
    deberta,
    electra,
    gpt2,
    infoxlm,
    minilm,
    roberta,
    turing_nlg,
    unilm,
    xlm,
    xlm_e,
    xlm_r,
    xlm_r_xl,
    zcode,
)
from mainspring.models.family import Family
from mainspring.nn.config import TransformerConfig

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "gpt2": Family("gpt2", gpt2.PRESETS, gpt2.WEIGHTS, "gpt2", gpt2.to_hf, gpt2.from_hf, causal=True),
        "bert": Family("bert", bert.PRESETS, bert.WEIGHTS, "bert", bert.to_hf, bert.from_hf),
        "roberta": Family(
            "roberta", roberta.PRESETS, roberta.WEIGHTS, "roberta", roberta.to_hf, roberta.from_hf
        ),
        "xlm_r": Family("xlm_r", xlm_r.PRESETS, xlm_r.WEIGHTS, "xlm-roberta", xlm_r.to_hf, xlm_r.from_hf),
        "xlm_r_xl": Family(
            "xlm_r_xl", xlm_r_xl.PRESETS, xlm_r_xl.WEIGHTS, "xlm-roberta-xl", xlm_r_xl.to_hf, xlm_r_xl.from_hf
        ),
        "xlm": Family("xlm", xlm.PRESETS, xlm.WEIGHTS, "xlm", xlm.to_hf, xlm.from_hf),
        "xlm_e": Family("xlm_e", xlm_e.PRESETS, xlm_e.WEIGHTS, "xlm-e", xlm_e.to_hf, xlm_e.from_hf),
        "deberta": Family(
            "deberta",
            deberta.PRESETS_V1,
            deberta.WEIGHTS_V1,
            "deberta",
            deberta.to_hf_v1,
            deberta.from_hf_v1,
            deberta.upgrade,
        ),
        "deberta_v2": Family(
            "deberta_v2",
            deberta.PRESETS_V2,
            deberta.WEIGHTS_V2,
            "deberta-v2",
            deberta.to_hf_v2,
            deberta.from_hf_v2,
            deberta.upgrade,
        ),
        "electra": Family(
            "electra", electra.PRESETS, electra.WEIGHTS, "electra", electra.to_hf, electra.from_hf
        ),
        "unilm": Family(
            "unilm", unilm.PRESETS, unilm.WEIGHTS, "unilm", unilm.to_hf, unilm.from_hf, upgrade=unilm.upgrade
        ),
        "zcode": Family("zcode", zcode.PRESETS, zcode.WEIGHTS, "m2m_100", zcode.to_hf, zcode.from_hf),
        "zcode_moe": Family(
            "zcode_moe",
            zcode.experts.PRESETS,
            zcode.WEIGHTS_OF_EXPERTS,
            "nllb-moe",
            zcode.experts.to_hf,
            zcode.experts.from_hf,
        ),
        "turing_nlg": Family(
            "turing_nlg",
            turing_nlg.PRESETS,
            turing_nlg.WEIGHTS,
            "gpt2",
            turing_nlg.to_hf,
            turing_nlg.from_hf,
            causal=True,
        ),
        "infoxlm": Family(
            "infoxlm", infoxlm.PRESETS, infoxlm.WEIGHTS, "xlm-roberta", infoxlm.to_hf, infoxlm.from_hf
        ),
        "minilm": Family("minilm", minilm.PRESETS, minilm.WEIGHTS, "bert", minilm.to_hf, minilm.from_hf),
    }
)
"""Every family by name. Of those that share a published layout, the first is what an import takes it for."""

VOCABULARY_MULTIPLE = 64
"""Rows of the embedding table are padded to a multiple of this, which suits matrix kernels."""


class ModelConfig(Section):
    """A model of a recipe: a preset of a family, with fields of its configuration changed."""

    family: str
    """Name of the family."""
    preset: str | None = None
    """Name of one of its presets (None: `config` says everything)."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fields of `TransformerConfig` that differ from the preset's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.family not in FAMILIES:
            raise ValueError(f"family = {self.family!r}: no such family; {suggest(self.family, FAMILIES)}")
        presets = FAMILIES[self.family].presets
        if self.preset is not None and self.preset not in presets:
            raise ValueError(
                f"preset = {self.preset!r}: {self.family} has none such; {suggest(self.preset, presets)}"
            )
        return self


def resolve(model: ModelConfig, vocab_size: int) -> TransformerConfig:
    """The configuration of a recipe's model, for a tokenizer's vocabulary.

    The embedding table is padded to a multiple of 64 rows unless `vocab_rows` is given.

    Args:
        model: family, preset and changes.
        vocab_size: number of tokens of the tokenizer.

    Raises:
        ConfigError: a field is unknown or its value impossible, or the vocabulary given is too small.
    """
    family = FAMILIES[model.family]
    base = (
        {}
        if model.preset is None
        else family.presets[model.preset].model_dump(mode="json", exclude_none=True)
    )
    values = {**base, "vocab_size": vocab_size, **model.config}
    if not isinstance(values["vocab_size"], int) or values["vocab_size"] < vocab_size:
        raise ConfigError(
            f"model.config.vocab_size = {values['vocab_size']!r} does not hold the tokenizer's "
            f"{vocab_size} tokens; leave it out, or give at least {vocab_size}"
        )
    rows = -(-values["vocab_size"] // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    return parse(TransformerConfig, {"vocab_rows": rows, **values}, source="model.config")
