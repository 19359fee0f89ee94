"""GPT-2 and BERT against transformers: logits, states in both directions, parameter counts."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
)

from mainspring.data.batch import bidirectional_batch, causal_batch
from mainspring.errors import WeightsError
from mainspring.models import FAMILIES
from mainspring.nn import Transformer, initialize

SIZES = [(32, 1, 2, 1), (48, 3, 4, 17), (64, 2, 1, 33)]
"""Width, layers, heads, tokens."""


def gpt2(width, layers, heads, **other):
    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": None}
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=97,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            n_positions=40,
            initializer_range=0.1,
            **ends,
            **other,
        )
    ).eval()


def bert(width, layers, heads, kind=BertForMaskedLM, **other):
    torch.manual_seed(0)
    return kind(
        BertConfig(
            vocab_size=97,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=3 * width,
            max_position_embeddings=40,
            initializer_range=0.1,
            **other,
        )
    ).eval()


def ours(family, theirs):
    """Our model with the weights of theirs."""
    state = theirs.state_dict()
    config = FAMILIES[family].from_hf(theirs.config.to_dict(), state.keys())
    model = Transformer(config).eval()
    model.load_state_dict(FAMILIES[family].weights.read(state, config).state)
    return model


def data(rows, length, padded):
    ids = torch.randint(97, (rows, length), generator=torch.Generator().manual_seed(length))
    lengths = torch.tensor([length, max(1, length // 2), 1])[:rows]
    return ids, (torch.arange(length) < lengths[:, None]) if padded else None


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("width", "layers", "heads", "length"), SIZES)
@torch.inference_mode()
def test_gpt2_logits(width, layers, heads, length, padded):
    theirs = gpt2(width, layers, heads)
    ids, valid = data(3, length, padded)
    want = theirs(ids, attention_mask=None if valid is None else valid.long(), output_hidden_states=True)
    got = ours("gpt2", theirs)(causal_batch(ids, valid=valid), states=True)
    where = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
    assert (got.logits - want.logits)[where].abs().max() < 1e-5
    for a, b in zip([*got.states[:-1], got.hidden], want.hidden_states, strict=True):
        torch.testing.assert_close(a[where], b[where], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForPreTraining])
@pytest.mark.parametrize(("width", "layers", "heads", "length"), SIZES)
@torch.inference_mode()
def test_bert_logits(width, layers, heads, length, kind, padded):
    theirs = bert(width, layers, heads, kind)
    ids, valid = data(3, length, padded)
    segment = torch.arange(length).gt(length // 2).long().expand_as(ids)
    want = theirs(
        ids,
        token_type_ids=segment,
        attention_mask=None if valid is None else valid.long(),
        output_hidden_states=True,
    )
    got = ours("bert", theirs)(bidirectional_batch(ids, valid=valid)._replace(type=segment), states=True)
    where = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
    logits = want.logits if kind is BertForMaskedLM else want.prediction_logits
    assert (got.logits - logits)[where].abs().max() < 1e-5
    for a, b in zip(got.states, want.hidden_states, strict=True):
        torch.testing.assert_close(a[where], b[where], atol=1e-5, rtol=1e-5)
    if kind is BertForPreTraining:
        torch.testing.assert_close(got.pair_logits, want.seq_relationship_logits, atol=1e-5, rtol=1e-5)
    else:
        assert got.pair_logits is None


VARIANTS = [
    ("gpt2", gpt2, {}),
    ("gpt2", gpt2, {"tie_word_embeddings": False}),
    ("gpt2", gpt2, {"n_inner": 50, "activation_function": "relu"}),
    ("bert", bert, {}),
    ("bert", bert, {"kind": BertForPreTraining}),
    ("bert", bert, {"tie_word_embeddings": False}),
    ("bert", bert, {"hidden_act": "gelu_new", "type_vocab_size": 1}),
]


@pytest.mark.parametrize(("family", "make", "other"), VARIANTS)
@torch.inference_mode()
def test_states_round_trip_bit_exactly(family, make, other):
    theirs = make(48, 2, 4, **other)
    model, weights = ours(family, theirs), FAMILIES[family].weights
    there = weights.write(model.state_dict(), model.config)
    for name, tensor in there.items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name
    left = {n for n in theirs.state_dict() if n not in there}
    assert left <= set(weights.aliases)  # only what is tied to a tensor that was written
    back = weights.read(there, model.config).state
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[n], t) for n, t in model.state_dict().items())
    ids = torch.randint(97, (2, 9))
    batch = causal_batch(ids) if family == "gpt2" else bidirectional_batch(ids)
    out = theirs(ids)
    want = out.logits if hasattr(out, "logits") else out.prediction_logits
    assert (model(batch).logits - want).abs().max() < 1e-5
    again = FAMILIES[family].from_hf(FAMILIES[family].to_hf(model.config), there.keys())
    assert again == model.config


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_vocabulary_round_trips(family):
    config = FAMILIES[family].presets["tiny"].replace(vocab_size=83, vocab_rows=128)
    model, weights = initialize(Transformer(config), 0), FAMILIES[family].weights
    there = weights.write(model.state_dict(), config)
    assert not any(128 in t.shape and 83 not in t.shape and "wte" in n for n, t in there.items())
    back = weights.read(there, config).state
    assert all(torch.equal(back[n], t) for n, t in model.state_dict().items())


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("preset", "published"),
    [("small", 124_439_808), ("medium", 354_823_168), ("large", 774_030_080), ("xl", 1_557_611_200)],
)
def test_gpt2_parameter_counts(preset, published):
    config = FAMILIES["gpt2"].presets[preset]
    with torch.device("meta"):
        assert count(Transformer(config)) == published
        shape = {"n_embd": config.d_model, "n_layer": config.n_layers, "n_head": config.n_heads}
        assert count(GPT2LMHeadModel(GPT2Config(**shape))) == published


@pytest.mark.parametrize(
    ("preset", "shape"),
    [
        ("base", {}),
        (
            "large",
            {
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "intermediate_size": 4096,
            },
        ),
    ],
)
def test_bert_parameter_counts(preset, shape):
    config = FAMILIES["bert"].presets[preset]
    with torch.device("meta"):
        assert count(Transformer(config)) == count(BertForMaskedLM(BertConfig(**shape)))
        whole = config.replace(pooler=True, pair_classes=2)
        assert count(Transformer(whole)) == count(BertForPreTraining(BertConfig(**shape)))


@torch.inference_mode()
def test_bare_models_names():
    """Checkpoints of a bare model leave the prefix out; a missing head is listed, and allowed where asked."""
    theirs = GPT2Model(gpt2(32, 2, 2).config)
    config = FAMILIES["gpt2"].from_hf(theirs.config.to_dict(), ())
    reading = FAMILIES["gpt2"].weights.read(theirs.state_dict(), config)
    assert torch.equal(reading.state["norm.weight"], theirs.ln_f.weight) and reading.missing == ()
    encoder = BertModel(bert(32, 1, 2).config)
    state = encoder.state_dict()
    config = FAMILIES["bert"].from_hf(encoder.config.to_dict(), state.keys())
    assert config.pooler and not config.pair_classes
    with pytest.raises(WeightsError, match="6 missing: cls.predictions.bias, cls.predictions.decoder.bias"):
        FAMILIES["bert"].weights.read(state, config)
    reading = FAMILIES["bert"].weights.read(state, config, allow_missing=True)
    assert set(reading.missing) == {
        "head.bias",
        "head.transform.weight",
        "head.transform.bias",
        "head.norm.weight",
        "head.norm.bias",
    }
    model = initialize(Transformer(config), 0).eval()
    assert set(model.load_state_dict(reading.state, strict=False).missing_keys) == set(reading.missing)
    ids = torch.randint(97, (2, 9))
    encoder.eval()
    out = encoder(ids)
    got = model(bidirectional_batch(ids))
    torch.testing.assert_close(got.hidden, out.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.summary, out.pooler_output, atol=1e-5, rtol=1e-5)
