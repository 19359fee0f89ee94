"""DeBERTa: parity with transformers, the traps of its layouts, the mask decoder, every published size."""

import json

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from mainspring.data.batch import bidirectional_batch
from mainspring.errors import WeightsError
from mainspring.models import FAMILIES, ModelConfig
from mainspring.models.deberta.config import deberta_v2, discriminator
from mainspring.models.hub import export_hf, import_hf
from mainspring.nn import Absolute, Disentangled, Transformer
from mainspring.nn.attention import projections
from models.battery import (
    VOCABULARY,
    Case,
    check_hub,
    check_learns,
    check_parity,
    check_refusals,
    check_round_trip,
    ours,
    random_reference,
)

TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "legacy": False,
}
V3 = {"position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"}


def v1(name, kind=hf.DebertaForMaskedLM, **other):
    return Case("deberta", lambda: kind(hf.DebertaConfig(**{**TINY, **other})), kind, name=name)


def v2(name, kind=hf.DebertaV2ForMaskedLM, **other):
    return Case("deberta_v2", lambda: kind(hf.DebertaV2Config(**{**TINY, **other})), kind, name=name)


CASES = [
    v1("v1"),
    v1("v1-near", max_relative_positions=9),
    v1("v1-p2c", pos_att_type=["p2c"], type_vocab_size=2),
    v1("v1-bare", hf.DebertaModel, pos_att_type=["c2p"]),
    v2("v3", **V3),
    v2("v3-bare", hf.DebertaV2Model, **V3),
    v2("v2-conv", **V3, conv_kernel_size=3, conv_act="gelu"),
    v2("v2-tanh", **V3, conv_kernel_size=5),
    v2("v2-own-projections", position_buckets=12, max_relative_positions=30),
    v2("v2-no-buckets", share_att_key=True, position_biased_input=True, pos_att_type=["p2c"]),
]


@pytest.mark.parametrize("padded", ["", "right", "left"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity(case, padded):
    check_parity(case, padded)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_states_round_trip(case):
    check_round_trip(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_hub(case, tmp_path):
    check_hub(case, tmp_path)


@pytest.mark.parametrize("case", CASES[::4], ids=str)
def test_wrong_checkpoints_are_refused(case):
    check_refusals(case)


@pytest.mark.parametrize("family", ["deberta", "deberta_v2"])
def test_tiny_twin_learns(family):
    check_learns(family)


@torch.inference_mode()
@pytest.mark.parametrize("make", [hf.DebertaForMaskedLM, hf.DebertaV2ForMaskedLM])
def test_first_names_of_the_head(make, tmp_path):
    """transformers' old head, `cls.predictions`, reads to the same logits."""
    reference = make(make.config_class(**{**TINY, "legacy": True})).eval()
    with torch.no_grad():
        for p in reference.parameters():
            p.normal_(0, 0.2)
    reference.save_pretrained(tmp_path)
    assert any(name.startswith("cls.") for name in load_file(tmp_path / "model.safetensors"))
    imported = import_hf(tmp_path)
    model = Transformer(imported.config).eval()
    model.load_state_dict(imported.state)
    data = bidirectional_batch(torch.randint(0, VOCABULARY, (2, 9)))
    torch.testing.assert_close(model(data).logits, reference(data.ids).logits, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_lengths_beyond_the_middle_bucket():
    """Distances far beyond the exact buckets and beyond the table, where rows are clamped."""
    case = v2("long", **{**V3, "max_position_embeddings": 24})
    reference = random_reference(case)
    model = ours(case, reference)
    for length in (4, 5, 9, 23, 24, 70, 130):
        data = bidirectional_batch(torch.randint(0, VOCABULARY, (2, length)))
        want = reference.deberta.encoder(model.embed(data), torch.ones(2, length)).last_hidden_state
        torch.testing.assert_close(model(data).hidden, want, atol=2e-5, rtol=1e-5)


def test_log_buckets_are_those_of_transformers():
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    from mainspring.nn.disentangled import bucket

    distance = torch.arange(-700, 701)
    for buckets, most in ((256, 512), (32, 512), (8, 40), (256, 1024), (64, 128)):
        want = make_log_bucket_position(distance, buckets, most).long()
        assert torch.equal(bucket(distance, buckets, most), want), (buckets, most)


# The traps of the published layouts.


@torch.inference_mode()
def test_v1_projection_is_interleaved_by_head():
    """Regression: rows of v1's in_proj go head by head (query, key, value), not all queries first."""
    case = CASES[0]
    reference = random_reference(case)
    model = ours(case, reference)
    self_attention = reference.deberta.encoder.layer[0].attention.self
    x = torch.randn(1, 3, 32)
    theirs = self_attention.transpose_for_scores(self_attention.in_proj(x)).chunk(3, dim=-1)
    biases = (self_attention.q_bias, None, self_attention.v_bias)
    own = projections(model.layers[0].attention.project(x), 8)
    for mine, other, bias in zip(own, theirs, biases, strict=True):
        want = other if bias is None else other + bias.view(4, 1, 8)
        torch.testing.assert_close(mine.transpose(1, 2), want)
    assert model.layers[0].attention.qkv.bias is None


@torch.inference_mode()
def test_p2c_index_on_the_model():
    """Regression: with the paper's row(j, i) in the third term the output would be another."""
    case = v2("p2c", **{**V3, "pos_att_type": ["p2c"]})
    reference = random_reference(case)
    model = ours(case, reference)
    data = bidirectional_batch(torch.randint(0, VOCABULARY, (1, 12)))
    want = reference(data.ids).logits
    torch.testing.assert_close(model(data).logits, want, atol=1e-5, rtol=1e-5)
    table = model.distances.table.weight
    table.copy_(torch.cat([table[:1], table[1:].flip(0)]))  # row(j, i): distances of the other sign
    assert (model(data).logits - want).abs().max() > 1e-2


# What transformers drops.


def enhanced_mask_decoder(reference, ids, table):
    """The published code's decoder: the last layer twice, over what entered it, with raw positions added."""
    deberta = reference.deberta
    hidden = deberta(ids, output_hidden_states=True).hidden_states[-2]
    mask = torch.ones(ids.shape[0], 1, ids.shape[1], ids.shape[1])
    relative = deberta.encoder.get_rel_pos(hidden)
    vectors = deberta.encoder.get_rel_embedding()
    queries = hidden + table[: ids.shape[1]]
    for _ in range(2):
        queries, _ = deberta.encoder.layer[-1](
            hidden, mask, query_states=queries, relative_pos=relative, rel_embeddings=vectors
        )
    head = reference.lm_predictions.lm_head
    transformed = head.LayerNorm(torch.nn.functional.gelu(head.dense(queries)))
    return transformed @ deberta.embeddings.word_embeddings.weight.T + head.bias


@torch.inference_mode()
def test_mask_decoder_against_reference(tmp_path):
    """A checkpoint with `position_embeddings`, as published, has a mask decoder, and keeps it both ways."""
    case = v2("emd", **V3, conv_kernel_size=3, conv_act="gelu")
    reference = random_reference(case)
    reference.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    table = torch.randn(TINY["max_position_embeddings"], 32)
    name = "deberta.embeddings.position_embeddings.weight"
    save_file({**weights, name: table}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    imported = import_hf(tmp_path)
    assert imported.config.mask_decoder
    model = Transformer(imported.config).eval()
    model.load_state_dict(imported.state)
    ids = torch.randint(0, VOCABULARY, (2, 11))
    want = enhanced_mask_decoder(reference, ids, table)
    out = model(bidirectional_batch(ids))
    torch.testing.assert_close(out.logits, want, atol=1e-5, rtol=1e-5)
    assert (out.logits - reference(ids).logits).abs().max() > 1e-2
    torch.testing.assert_close(out.hidden, reference.deberta(ids).last_hidden_state, atol=1e-5, rtol=1e-5)
    select = torch.zeros(2, 11, dtype=torch.bool)
    select[0, 3] = select[1, 8] = True
    torch.testing.assert_close(
        model(bidirectional_batch(ids), select=select).logits, want[select], atol=1e-5, rtol=1e-5
    )
    config = imported.config
    export_hf(ModelConfig(family="deberta_v2"), config, model.state_dict(), None, tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[name], table)
    assert import_hf(tmp_path / "out").config == config


def test_v1_mask_decoder_reads_positions_as_data():
    """Positions of the decoder are the tokens', so that packed documents decode as they do alone."""
    config = FAMILIES["deberta"].presets["tiny"].replace(vocab_size=30)
    model = Transformer(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.2)
    ids = torch.randint(0, 30, (1, 9))
    packed = model(bidirectional_batch(ids, doc=torch.tensor([[0] * 4 + [1] * 5]))).logits
    alone = model(bidirectional_batch(ids[:, 4:])).logits
    torch.testing.assert_close(packed[:, 4:], alone, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_replaced_token_head_of_a_published_v3(tmp_path):
    """`mask_predictions`, which transformers ignores: norm(first + token), dense, gelu, score."""
    case = v2("rtd", **V3)
    reference = random_reference(case)
    reference.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    shapes = {
        "dense.weight": (32, 32),
        "dense.bias": (32,),
        "LayerNorm.weight": (32,),
        "LayerNorm.bias": (32,),
        "classifier.weight": (1, 32),
        "classifier.bias": (1,),
    }
    head = {f"mask_predictions.{n}": torch.randn(s) for n, s in shapes.items()}
    save_file({**weights, **head}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    imported = import_hf(tmp_path)
    assert imported.config.head == "replaced"
    model = Transformer(imported.config).eval()
    model.load_state_dict(imported.state)
    ids = torch.randint(0, VOCABULARY, (2, 7))
    hidden = reference.deberta(ids).last_hidden_state
    part = {n.removeprefix("mask_predictions."): t for n, t in head.items()}
    x = torch.nn.functional.layer_norm(
        hidden[:, :1] + hidden, (32,), part["LayerNorm.weight"], part["LayerNorm.bias"], 1e-7
    )
    x = torch.nn.functional.gelu(x @ part["dense.weight"].T + part["dense.bias"])
    want = x @ part["classifier.weight"].T + part["classifier.bias"]
    torch.testing.assert_close(model(bidirectional_batch(ids)).logits, want, atol=1e-5, rtol=1e-5)
    export_hf(ModelConfig(family="deberta_v2"), imported.config, model.state_dict(), None, tmp_path / "out")
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(again[n], t) for n, t in head.items())
    assert import_hf(tmp_path / "out").config == imported.config


@torch.inference_mode()
def test_pooler_of_a_classifier():
    """ContextPooler, which fine-tuned checkpoints have: a dense layer and gelu over the first token."""
    reference = hf.DebertaV2ForSequenceClassification(hf.DebertaV2Config(**TINY, **V3, num_labels=3)).eval()
    state = {n: t for n, t in reference.state_dict().items() if not n.startswith("classifier")}
    family = FAMILIES["deberta_v2"]
    config = family.from_hf(reference.config.to_dict(), state.keys())
    assert config.pooler and config.head == "none" and config.pooler_activation == "gelu"
    model = Transformer(config).eval()
    model.load_state_dict(family.weights.read(state, config).state)
    ids = torch.randint(0, VOCABULARY, (2, 7))
    summary = model(bidirectional_batch(ids)).summary
    torch.testing.assert_close(reference.classifier(summary), reference(ids).logits, atol=1e-5, rtol=1e-5)


# What cannot be.


def test_variants_that_are_refused():
    family = FAMILIES["deberta_v2"]
    plain = {**TINY, **V3}
    for change, message in (
        ({"relative_attention": False}, "relative_attention = False"),
        ({"pos_att_type": ["p2p"]}, "pos_att_type"),
        ({"norm_rel_ebd": "batch"}, "norm_rel_ebd"),
        ({"conv_kernel_size": 3, "conv_groups": 2}, "conv_groups = 2"),
        ({"embedding_size": 16}, "embedding_size = 16"),
    ):
        with pytest.raises(WeightsError, match=message):
            family.from_hf({**plain, **change}, ())
    with pytest.raises(WeightsError, match="talking_head"):
        FAMILIES["deberta"].from_hf({**TINY, "talking_head": True}, ())
    with pytest.raises(WeightsError, match="not a DeBERTa-v2: norm_place"):
        family.to_hf(deberta_v2(32, 1, 2, positions=(Disentangled(),)).replace(norm_place="pre"))
    with pytest.raises(WeightsError, match="DeBERTa-v2 may have"):
        FAMILIES["deberta"].to_hf(FAMILIES["deberta"].presets["tiny"].replace(conv={"kernel": 3}))
    with pytest.raises(WeightsError, match="biases in its projections"):
        family.to_hf(deberta_v2(32, 1, 2, positions=(Disentangled(shared=False, key_bias=False),)))
    with pytest.raises(WeightsError, match="disentangled positions"):
        family.to_hf(deberta_v2(32, 1, 2, positions=(Absolute(),)))
    with pytest.raises(WeightsError, match="head_context"):
        family.to_hf(discriminator(32, 1, 2, head_context=False))
    with pytest.raises(WeightsError, match="has them only then"):
        family.to_hf(deberta_v2(32, 1, 2, head_bias=False))


def test_exported_configuration_is_what_transformers_reads():
    """Every preset's config.json builds transformers' model with the same names and shapes."""
    for family, kind in (("deberta", hf.DebertaForMaskedLM), ("deberta_v2", hf.DebertaV2ForMaskedLM)):
        for name, config in FAMILIES[family].presets.items():
            if config.head != "tokens" or config.n_layers > 12:
                continue
            values = json.loads(json.dumps(FAMILIES[family].to_hf(config)))
            with torch.device("meta"):
                theirs = kind(kind.config_class(**values)).state_dict()
                mine = Transformer(config).state_dict()
            written = FAMILIES[family].weights.write(mine, config)
            dropped = {"deberta.embeddings.position_embeddings.weight"}
            assert {n: t.shape for n, t in theirs.items()} == {
                n: t.shape for n, t in written.items() if n not in dropped
            }, name


# Sizes: spec/language-models.md 2.6, in millions; and transformers' bare encoder, to the parameter.

SIZES = [
    ("deberta", "base", 138.6, 100.0),
    ("deberta", "large", 405.2, 353.7),
    ("deberta", "xlarge", 757.8, 706.3),
    ("deberta_v2", "v2-xlarge", 884.6, 687.8),
    ("deberta_v2", "v2-xxlarge", 1564.5, 1367.8),
    ("deberta_v2", "v3-xsmall", 70.7, 21.5),
    ("deberta_v2", "v3-small", 141.3, 42.9),
    ("deberta_v2", "v3-base", 183.8, 85.4),
    ("deberta_v2", "v3-large", 434.0, 302.8),
    ("deberta_v2", "mdeberta-v3-base", 278.2, 85.4),
]


@pytest.mark.parametrize(("family", "preset", "total", "without_words"), SIZES)
def test_published_sizes(family, preset, total, without_words):
    config = FAMILIES[family].presets[preset]
    scheme = config.disentangled
    bare = config.replace(
        head="none", head_transform=False, head_bias=False, positions=[scheme.model_dump(mode="json")]
    )
    kind = hf.DebertaModel if family == "deberta" else hf.DebertaV2Model
    values = FAMILIES[family].to_hf(bare)
    with torch.device("meta"):
        model = Transformer(bare)
        reference = kind(kind.config_class(**values))
    count = sum(p.numel() for p in model.parameters())
    words = model.embeddings.token.weight.numel()
    assert abs(count / 1e6 - total) < 0.06 and abs((count - words) / 1e6 - without_words) < 0.06
    assert count == sum(p.numel() for p in reference.parameters())


def test_one_and_a_half_billion():
    """The published 1.5 B model, to the parameter, with its mask decoder's positions and its head."""
    config = FAMILIES["deberta_v2"].presets["v2-xxlarge"]
    head = 1536 * 1536 + 3 * 1536 + 128100
    with torch.device("meta"):
        count = sum(p.numel() for p in Transformer(config).parameters())
    assert count == 1_564_549_632 + 512 * 1536 + head
