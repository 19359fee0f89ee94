"""The transformer's configuration: what is impossible is refused with the nearest legal choice."""

import pytest

from mainspring.config import load_toml, parse, to_toml
from mainspring.errors import ConfigError
from mainspring.nn import Absolute, Rotary, T5Bias, TransformerConfig

BASE = {"d_model": 64, "n_heads": 4, "n_layers": 2, "d_ff": 128, "vocab_size": 100}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_heads": 5}, "d_model = 64 does not divide by n_heads = 5; nearest legal n_heads: 4"),
        ({"n_layers": 0}, "give n_layers alone"),
        ({"encoder_layers": 2}, "encoder_layers = 2, decoder_layers = 0"),
        ({"vocab_rows": 99}, "vocab_rows = 99 is below vocab_size = 100; nearest legal value: 100"),
        ({"positions": [{"kind": "rotary"}, {"kind": "rotary"}]}, "names a scheme twice"),
        (
            {"positions": [{"kind": "rotary"}], "head_dim": 15},
            "even head_dim, not 15; nearest legal value: 16",
        ),
        ({"pair_classes": 2}, "needs pooler = true"),
        ({"activation": "gelu_tan"}, "activation = 'gelu_tan'.*did you mean 'gelu_tanh'"),
        ({"dropout": 1.0}, "dropout"),
        ({"n_layer": 3}, "unknown key; did you mean 'n_layers'"),
    ],
)
def test_impossible_values_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        parse(TransformerConfig, {**BASE, **change})


def test_derived_quantities():
    config = parse(TransformerConfig, BASE)
    assert (config.head_width, config.rows, config.depth, config.gated) == (16, 100, 2, False)
    both = parse(
        TransformerConfig, {**BASE, "n_layers": 0, "encoder_layers": 3, "decoder_layers": 1, "head_dim": 8}
    )
    assert both.is_encoder_decoder and both.depth == 1 and both.head_width == 8
    schemes = parse(TransformerConfig, {**BASE, "positions": [{"kind": "rotary"}, {"kind": "t5_bias"}]})
    assert schemes.absolute is None and schemes.rotary == Rotary() and schemes.t5_bias == T5Bias()
    assert config.absolute == Absolute()


def test_toml_round_trip(tmp_path):
    config = parse(
        TransformerConfig, {**BASE, "positions": [{"kind": "absolute", "offset": 2}, {"kind": "t5_bias"}]}
    )
    (tmp_path / "model.toml").write_text(to_toml(config))
    assert load_toml(TransformerConfig, tmp_path / "model.toml") == config
