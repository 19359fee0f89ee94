"""Recipes name models: families, presets, changes, the tokenizer's vocabulary."""

import pytest
import torch
import torch.nn.functional as F

from mainspring.config import parse
from mainspring.data.batch import bidirectional_batch, causal_batch
from mainspring.errors import ConfigError
from mainspring.models import FAMILIES, ModelConfig, resolve
from mainspring.nn import Transformer, initialize


def test_vocabulary_is_the_tokenizers_padded():
    config = resolve(ModelConfig(family="gpt2", preset="small"), 50257)
    assert (config.vocab_size, config.rows, config.d_model) == (50257, 50304, 768)
    config = resolve(ModelConfig(family="gpt2", preset="small", config={"vocab_rows": 50257}), 50257)
    assert config == FAMILIES["gpt2"].presets["small"].replace(vocab_rows=50257)
    assert resolve(ModelConfig(family="gpt2", preset="tiny"), 128).rows == 128
    with pytest.raises(ConfigError, match="vocab_size = 100 does not hold the tokenizer's 101 tokens"):
        resolve(ModelConfig(family="gpt2", preset="tiny", config={"vocab_size": 100}), 101)


def test_fields_change_a_preset_or_say_everything():
    changed = resolve(ModelConfig(family="bert", preset="tiny", config={"n_layers": 5, "dropout": 0.1}), 64)
    assert changed.n_layers == 5 and changed.dropout == 0.1 and changed.embed_norm
    alone = ModelConfig(family="gpt2", config={"d_model": 32, "n_heads": 2, "n_layers": 1, "d_ff": 64})
    assert resolve(alone, 10).d_model == 32
    with pytest.raises(ConfigError, match="d_model: required"):
        resolve(ModelConfig(family="gpt2"), 10)
    with pytest.raises(ConfigError, match="model.config: n_layer: unknown key; did you mean 'n_layers'"):
        resolve(ModelConfig(family="gpt2", preset="tiny", config={"n_layer": 5}), 64)
    rotary = ModelConfig(
        family="gpt2", preset="tiny", config={"positions": [{"kind": "rotary", "base": 500.0}]}
    )
    assert resolve(rotary, 64).rotary.base == 500.0


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ConfigError, match="family = 'gtp2'.* did you mean 'gpt2'"):
        parse(ModelConfig, {"family": "gtp2"})
    with pytest.raises(ConfigError, match="preset = 'smal'.* did you mean 'small'"):
        parse(ModelConfig, {"family": "gpt2", "preset": "smal"})


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_tiny_twin_learns(family):
    config = resolve(ModelConfig(family=family, preset="tiny"), 40)
    model = initialize(Transformer(config), 0)
    ids = torch.arange(24).expand(4, 24) % 7 + torch.arange(4)[:, None]
    build = causal_batch if family == "gpt2" else bidirectional_batch
    hidden = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    shown = ids if family == "gpt2" else ids.masked_fill(hidden, 39)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        logits = model(build(shown)).logits
        loss = (
            F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            if family == "gpt2"
            else F.cross_entropy(logits[hidden], ids[hidden])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
