"""WeightMap: what does not fit is refused with names and shapes; old and tied names are understood."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import WeightsError
from mainspring.models import FAMILIES
from mainspring.models.transforms import FusedHeads, Transpose, VocabularyRows
from mainspring.models.weights import expected_shapes
from mainspring.nn import Transformer, TransformerConfig, initialize

GPT2 = FAMILIES["gpt2"].weights
CONFIG = (
    FAMILIES["gpt2"].presets["tiny"].replace(d_model=16, d_ff=64, n_layers=1, vocab_size=20, max_positions=8)
)


@pytest.fixture
def published():
    return GPT2.write(initialize(Transformer(CONFIG), 0).state_dict(), CONFIG)


def test_all_that_differs_is_listed(published):
    del published["transformer.ln_f.bias"]
    published["transformer.h.0.extra"] = torch.zeros(1)
    published["transformer.wte.weight"] = torch.zeros(19, 16)
    with pytest.raises(WeightsError) as caught:
        GPT2.read(published, CONFIG)
    message = str(caught.value)
    assert "1 missing: transformer.ln_f.bias" in message
    assert "1 unexpected: transformer.h.0.extra" in message
    assert "1 of another shape: transformer.wte.weight is [19, 16], not [20, 16]" in message


def test_another_depth_is_refused(published):
    with pytest.raises(WeightsError, match="12 missing: transformer.h.1.attn.c_attn.weight"):
        GPT2.read(published, CONFIG.replace(n_layers=2))
    two = GPT2.write(
        initialize(Transformer(CONFIG.replace(n_layers=2)), 0).state_dict(), CONFIG.replace(n_layers=2)
    )
    with pytest.raises(WeightsError, match="12 unexpected"):
        GPT2.read(two, CONFIG)


def test_our_own_state_is_checked_too():
    state = Transformer(CONFIG).state_dict()
    state["norm.weight"] = torch.zeros(3)
    state["other"] = state.pop("norm.bias")
    with pytest.raises(
        WeightsError, match=r"missing: norm.bias; 1 unexpected: other; .* norm.weight is \[3\], not \[16\]"
    ):
        GPT2.write(state, CONFIG)


def test_a_model_of_another_family_has_no_counterpart():
    config = CONFIG.replace(positions=[{"kind": "t5_bias"}])
    with pytest.raises(WeightsError, match="bias.table.weight has no counterpart"):
        GPT2.write(Transformer(config).state_dict(), config)


def test_constant_buffers_are_passed_over(published):
    extra = {"h.0.attn.bias": torch.ones(1, 1, 8, 8), "transformer.h.0.attn.masked_bias": torch.zeros(())}
    assert GPT2.read({**published, **extra}, CONFIG).state.keys() == expected_shapes(CONFIG).keys()


def test_tied_copies_may_stand_for_each_other_and_must_agree(published):
    table = published["transformer.wte.weight"]
    assert GPT2.read({**published, "lm_head.weight": table.clone()}, CONFIG)
    del published["transformer.wte.weight"]
    assert torch.equal(
        GPT2.read({**published, "lm_head.weight": table}, CONFIG).state["embeddings.token.weight"], table
    )
    with pytest.raises(WeightsError, match="lm_head.weight differs from transformer.wte.weight"):
        GPT2.read({**published, "transformer.wte.weight": table, "lm_head.weight": table + 1}, CONFIG)


def test_old_names_of_norms():
    config = FAMILIES["bert"].presets["tiny"].replace(vocab_size=20, max_positions=8)
    there = FAMILIES["bert"].weights.write(initialize(Transformer(config), 0).state_dict(), config)
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in there.items()
    }
    assert any("gamma" in n for n in old)
    state = FAMILIES["bert"].weights.read(old, config).state
    assert all(
        torch.equal(state[n], t) for n, t in FAMILIES["bert"].weights.read(there, config).state.items()
    )


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(2, 3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_fused_heads_are_inverted_and_placed(heads, width, d_model, parts, stacked, transposed, vector):
    config = TransformerConfig(
        d_model=d_model, n_heads=heads, head_dim=width, n_layers=1, d_ff=1, vocab_size=1
    )
    transform = FusedHeads(parts, stacked, transposed)
    rest = () if vector else (d_model,)
    ours = torch.randn(heads * parts * width, *rest)
    theirs = transform.write(ours, config)
    assert torch.equal(transform.read(theirs, config), ours)
    if not stacked and not transposed:
        for part, tensor in enumerate(theirs):
            for head in range(heads):
                row = ours[(head * parts + part) * width]
                assert torch.equal(tensor[head * width], row)


def test_simple_transforms():
    config = CONFIG.replace(vocab_size=5, vocab_rows=8)
    table = torch.randn(5, 3)
    padded = VocabularyRows().read([table], config)
    assert (
        padded.shape == (8, 3)
        and (padded[5:] == 0).all()
        and torch.equal(VocabularyRows().write(padded, config)[0], table)
    )
    assert torch.equal(Transpose().read([table], config), table.t())
    assert torch.equal(Transpose().write(table, config)[0], table.t())
