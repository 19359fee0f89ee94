"""Parameters of every published preset, counted on the meta device, beside transformers' model of that shape.

The shapes are written out here again, from the papers' tables and the configurations that transformers
documents, so that a wrong field in a preset shows. The rounded figures are those that were published:
RoBERTa and XLM-R by fairseq, XL and XXL by Goyal et al. 2021 (table 1), ELECTRA by Clark et al. 2020 (and, to
the digit, for the encoders by keras-hub), MiniLM's 22,713,216 on its model card, T-ULRv5 and Z-code M3 by
Microsoft. Where transformers has no such model the sum is written out.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from mainspring.models import FAMILIES
from mainspring.nn import Transformer

from .battery import check_count, count


def bert_like(
    kind: Any, settings: Any, width: int, layers: int, heads: int, **other: Any
) -> Callable[[], Any]:
    values = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        **other,
    }
    return lambda: kind(settings(**values))


def roberta(width: int, layers: int, heads: int, vocabulary: int, kind: Any = hf.RobertaForMaskedLM) -> Any:
    settings = kind.config_class
    rows = {"vocab_size": vocabulary, "max_position_embeddings": 514, "type_vocab_size": 1}
    return bert_like(kind, settings, width, layers, heads, **rows)


def electra(kind: Any, width: int, layers: int, heads: int, embedding: int) -> Any:
    return bert_like(kind, hf.ElectraConfig, width, layers, heads, embedding_size=embedding)


def xlm(width: int, layers: int, heads: int, vocabulary: int, languages: int) -> Any:
    values = {"emb_dim": width, "n_layers": layers, "n_heads": heads, "vocab_size": vocabulary}
    languages_too = {"n_langs": languages, "use_lang_emb": languages > 1}
    return lambda: hf.XLMWithLMHeadModel(hf.XLMConfig(**values, **languages_too))


def bert(width: int, layers: int, heads: int, vocabulary: int, kind: Any = hf.BertModel, **other: Any) -> Any:
    return bert_like(kind, hf.BertConfig, width, layers, heads, vocab_size=vocabulary, **other)


def turing_nlg() -> Any:
    return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=50688, n_embd=4256, n_layer=78, n_head=28))


def m3() -> Any:
    return hf.M2M100ForConditionalGeneration(
        hf.M2M100Config(vocab_size=128000, encoder_layers=24, decoder_layers=12)
    )


PAGE = Path(__file__).resolve().parents[2] / "docs/models/README.md"

XLM_R, XL = hf.XLMRobertaForMaskedLM, hf.XLMRobertaXLForMaskedLM
FOUND, FILLED = hf.ElectraForPreTraining, hf.ElectraForMaskedLM

COUNTS: list[tuple[str, str, int, Callable[[], Any] | None]] = [
    ("turing_nlg", "17b", 17_178_680_064, turing_nlg),
    ("roberta", "base", 124_697_433, roberta(768, 12, 12, 50265)),  # 125M
    ("roberta", "large", 355_412_057, roberta(1024, 24, 16, 50265)),  # 355M
    ("xlm_r", "base", 278_295_186, roberta(768, 12, 12, 250002, XLM_R)),  # 270M
    ("xlm_r", "large", 560_142_482, roberta(1024, 24, 16, 250002, XLM_R)),  # 550M
    ("xlm_r_xl", "xl", 3_482_741_760, roberta(2560, 36, 32, 250880, XL)),  # 3.5B
    ("xlm_r_xl", "xxl", 10_712_994_816, roberta(4096, 48, 32, 250880, XL)),  # 10.7B
    ("infoxlm", "base", 278_295_186, roberta(768, 12, 12, 250002, XLM_R)),
    ("infoxlm", "large", 560_142_482, roberta(1024, 24, 16, 250002, XLM_R)),
    ("infoxlm", "t-ulrv2", 560_142_482, roberta(1024, 24, 16, 250002, XLM_R)),  # 550M
    ("xlm", "xnli15", 249_071_384, xlm(1024, 12, 8, 95000, 15)),  # 250M
    ("xlm", "100", 571_696_960, xlm(1280, 16, 16, 200000, 1)),  # 570M
    ("electra", "small", 13_549_057, electra(FOUND, 256, 12, 4, 128)),  # 14M
    ("electra", "small-generator", 13_546_682, electra(FILLED, 256, 12, 4, 128)),
    ("electra", "base", 109_483_009, electra(FOUND, 768, 12, 12, 768)),  # 110M
    ("electra", "base-generator", 33_740_602, electra(FILLED, 256, 12, 4, 768)),
    ("electra", "large", 335_142_913, electra(FOUND, 1024, 24, 16, 1024)),  # 335M
    ("electra", "large-generator", 51_295_290, electra(FILLED, 256, 24, 4, 1024)),
    ("unilm", "v1-base", 108_343_876, bert(768, 12, 12, 28996, hf.BertForMaskedLM, type_vocab_size=6)),
    ("unilm", "v1-large", 333_614_404, bert(1024, 24, 16, 28996, hf.BertForMaskedLM, type_vocab_size=6)),
    ("minilm", "l6-h384", 22_713_216, bert(384, 6, 12, 30522)),  # 22.7M
    ("minilm", "l12-h384", 33_360_000, bert(384, 12, 12, 30522)),  # 33M
    ("minilm", "l6-h768", 66_955_008, bert(768, 6, 12, 30522)),  # 66M
    ("minilm", "multilingual-l6-h384", 107_006_976, bert(384, 6, 12, 250037)),
    ("minilm", "multilingual-l12-h384", 117_653_760, bert(384, 12, 12, 250037)),  # 117M
    ("zcode", "m3-dense", 634_945_536, m3),  # 0.7B
]

BIAS = 32 * 12
"""UniLM v2 has a score for each bucket and head beside a BERT of its size."""
LAYER = {width: 12 * width**2 + 13 * width for width in (768, 1536)}
"""A layer has four matrices of the width squared and two of four times that, their biases, two norms."""
EXPERT = 2 * 1024 * 4096 + 4096 + 1024
"""Two matrices and their biases."""
WRITTEN: list[tuple[str, str, int, int]] = [
    # every other of 36 layers: 63 experts more, and a gate; 10B
    ("zcode_moe", "m3", 10_154_612_736, 634_945_536 + 18 * (63 * EXPERT + 64 * 1024)),
    ("unilm", "v2-base", 109_514_682, 109_514_298 + BIAS),  # 110M
    ("unilm", "v2-large", 335_174_970, 335_174_458 + 32 * 16),  # 340M
    (
        "xlm_e",
        "base",  # 279M
        278_046_505,
        # tokens, positions, segment, norm; layers with two gates and a scale a head; scores; head
        (250002 + 514 + 1 + 2) * 768 + 12 * (LAYER[768] + 2 * 65 + 12) + 32 * 12 + 768**2 + 2 * 768 + 1,
    ),
    (
        "xlm_e",
        "base-generator",
        221_593_162,
        (250002 + 514 + 1 + 2) * 768 + 4 * (LAYER[768] + 2 * 65 + 12) + 32 * 12 + 768**2 + 3 * 768 + 250002,
    ),
    (
        "xlm_e",
        "t-ulrv5",  # 2.2B
        2_131_080_673,
        (500002 + 514 + 1 + 2) * 1536 + 48 * (LAYER[1536] + 2 * 65 + 24) + 32 * 24 + 1536**2 + 2 * 1536 + 1,
    ),
]


def label(value: Any) -> str | None:
    return None if callable(value) else str(value)


@pytest.mark.parametrize(("family", "preset", "published", "reference"), COUNTS, ids=label)
def test_count_equals_transformers(family, preset, published, reference):
    check_count(family, preset, published, reference)


@pytest.mark.parametrize(("family", "preset", "published", "written"), WRITTEN, ids=label)
def test_count_equals_the_sum(family, preset, published, written):
    assert published == written
    check_count(family, preset, published, None)


@pytest.mark.parametrize(
    ("preset", "encoder"), [("small", 13_548_800), ("base", 109_482_240), ("base-generator", 33_576_960)]
)
def test_electra_encoders_equal_keras_hub(preset, encoder):
    """keras-hub publishes the parameters of ELECTRA's encoders, to which it adds BERT's pooler."""
    config = (
        FAMILIES["electra"]
        .presets[preset]
        .replace(head="none", head_transform=False, head_bias=False, pooler=True)
    )
    with torch.device("meta"):
        assert count(Transformer(config)) == encoder


def test_the_page_of_models_is_true():
    """Each row of docs/models/README.md is a preset with its shape and count, and each preset has one."""
    rows = re.findall(r"^\| (\w+) \| ([\w.-]+) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    listed = {(family, preset): rest.split(" | ") for family, preset, rest in rows if family in FAMILIES}
    for (family, preset), (layers, width, heads, parameters) in listed.items():
        config = FAMILIES[family].presets[preset]
        with torch.device("meta"):
            assert f"{count(Transformer(config)):,}" == parameters, (family, preset)
        stacks = (
            (config.encoder_layers, config.decoder_layers) if config.is_encoder_decoder else (config.depth,)
        )
        shape = "+".join(str(n) for n in stacks), str(config.d_model), str(config.n_heads)
        assert (layers, width, heads) == shape, (family, preset)
    published = {(f, p) for f, family in FAMILIES.items() for p in family.presets if not p.startswith("tiny")}
    assert {(f, p) for f, p in published - set(listed) if not f.startswith("deberta")} == set()


def test_every_published_preset_is_counted():
    counted = {(family, preset) for family, preset, *_ in [*COUNTS, *WRITTEN]}
    elsewhere = ("gpt2", "bert", "deberta")
    for name, family in FAMILIES.items():
        for preset in family.presets:
            if not preset.startswith("tiny") and not name.startswith(elsewhere):
                assert (name, preset) in counted
