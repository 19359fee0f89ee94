"""What enters the first layer: each kind of embedding by its formula, and what cannot be is told."""

import math

import pytest
import torch

from mainspring.config import parse
from mainspring.data.batch import bidirectional_batch
from mainspring.errors import ConfigError
from mainspring.nn import Absolute, Transformer, TransformerConfig, initialize
from mainspring.nn.config import Sinusoidal

BASE = {"d_model": 8, "n_heads": 2, "n_layers": 1, "d_ff": 16, "vocab_size": 20}


def model(**other):
    return initialize(Transformer(TransformerConfig(**{**BASE, **other})), 0).eval()


def batch():
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    return bidirectional_batch(ids)._replace(pos=torch.tensor([[0, 1, 2, 2, 7]]))


def test_waves_are_the_formula():
    net = model(positions=(Sinusoidal(offset=2),), scale_embeddings=True)
    got = net.embed(batch())
    for t, (token, position) in enumerate(zip(batch().ids[0], batch().pos[0], strict=True)):
        for i in range(4):
            angle = (int(position) + 2) * 10000 ** (-i / 3)
            base = net.embeddings.token.weight[token] * math.sqrt(8)
            assert abs(got[0, t, i] - (base[i] + math.sin(angle))) < 1e-5
            assert abs(got[0, t, 4 + i] - (base[4 + i] + math.cos(angle))) < 1e-5
    assert not any("position" in name for name in net.state_dict())
    far = batch()._replace(pos=batch().pos + 10**5)  # waves have no last position
    assert net(far).logits.isfinite().all()


def test_languages_and_offset():
    net = model(languages=3, positions=(Absolute(offset=2),), max_positions=8)
    data = batch()._replace(lang=torch.tensor([[0, 1, 2, 0, 1]]))
    parts = net.embeddings
    want = parts.token.weight[data.ids] + parts.position.weight[data.pos + 2]
    torch.testing.assert_close(net.embed(data), want + parts.language.weight[data.lang])
    torch.testing.assert_close(net.embed(batch()), want + parts.language.weight[0])
    assert parts.position.weight.shape == (10, 8)


@torch.inference_mode()
def test_narrow_embeddings_are_projected():
    net = model(embed_dim=4, embed_norm=True, head_transform=True)
    assert net.embeddings.token.weight.shape == (20, 4) and net.embeddings.project.weight.shape == (8, 4)
    out = net(batch())
    h = net.head.norm(torch.nn.functional.gelu(net.head.transform(out.hidden)))
    torch.testing.assert_close(out.logits, h @ net.embeddings.token.weight.t())
    wide = model(embed_dim=8)
    assert wide.embeddings.project is None


def test_heads():
    assert model(head="replaced")(batch()).logits.shape == (1, 5, 1)
    net = model(head="none")
    out = net(batch(), select=batch().ids > 1)
    assert out.logits.shape == (3, 0) and out.hidden.shape == (1, 5, 8)
    assert not any(name.startswith("head") for name in net.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": 4}, "the head needs head_transform = true"),
        ({"positions": [{"kind": "absolute"}, {"kind": "sinusoidal"}]}, "give one of them"),
        ({"positions": [{"kind": "sinusoidal"}], "d_model": 7, "n_heads": 1}, "nearest legal value: 8"),
        ({"positions": [{"kind": "t5_bias", "gate": "input"}], "head_dim": 8}, "gate by the query"),
    ],
)
def test_what_cannot_be_is_told(change, message):
    with pytest.raises(ConfigError, match=message):
        parse(TransformerConfig, {**BASE, **change})
