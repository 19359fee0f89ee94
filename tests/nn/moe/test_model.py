"""Layers of experts inside the one transformer and its configuration."""

import pytest
import torch

from mainspring.data.batch import bidirectional_batch, causal_batch
from mainspring.errors import ConfigError
from mainspring.nn import KVCache, Transformer, TransformerConfig, initialize
from mainspring.nn.moe import ExpertFeedForward

BASE = {"d_model": 16, "n_heads": 2, "d_ff": 24, "vocab_size": 30}


def config(layers=4, **experts):
    return TransformerConfig(**BASE, n_layers=layers, experts={"count": 4, **experts})


@pytest.mark.parametrize(
    ("settings", "layers"),
    [({}, [1, 3]), ({"every": 1}, [0, 1, 2, 3]), ({"every": 3, "offset": 1}, [1]), ({"offset": 0}, [0, 2])],
)
def test_which_layers_have_experts(settings, layers):
    net = Transformer(config(**settings))
    found = [i for i, b in enumerate(net.layers) if isinstance(b.feed_forward, ExpertFeedForward)]
    assert found == layers


def test_a_pyramid_counts_the_encoder_first():
    shape = TransformerConfig(**BASE, encoder_layers=4, decoder_layers=2, experts={"count": (2, 3, 5)})
    assert shape.experts_by_layer == ((0, 2, 0, 3), (0, 5))
    net = Transformer(shape)
    assert net.encoder[3].feed_forward.gate.weight.shape[0] == 3
    assert net.layers[1].feed_forward.gate.weight.shape[0] == 5


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"count": 1, "top_k": 2}, "at least top_k = 2"),
        ({"offset": 2}, "offset = 2 is not below every = 2; nearest legal value: 1"),
        ({"every": 9}, "nearest legal value: 4"),
        ({"count": (2, 3, 4)}, "count has 3 numbers and 2 layers have experts"),
    ],
)
def test_impossible_settings_are_refused(settings, told):
    from mainspring.config import parse

    with pytest.raises(ConfigError, match=told):
        parse(TransformerConfig, {**BASE, "n_layers": 4, "experts": {"count": 4, **settings}})


def test_auxiliary_losses_are_summed_over_layers_of_both_stacks():
    shape = TransformerConfig(
        **BASE, encoder_layers=2, decoder_layers=2, experts={"count": 4, "every": 1}, init_std=0.2
    )
    net, seen = initialize(Transformer(shape), 0), []
    for block in [*net.encoder, *net.layers]:
        block.feed_forward.register_forward_hook(lambda m, a, out: seen.append(out[1]))
    ids = torch.randint(30, (2, 7), generator=torch.Generator().manual_seed(0))
    out = net(causal_batch(ids), source=bidirectional_batch(ids))
    assert len(seen) == 4
    torch.testing.assert_close(out.auxiliary, torch.stack(seen).sum(0))
    dense = TransformerConfig(**BASE, n_layers=1)
    assert Transformer(dense).eval()(causal_batch(ids)).auxiliary is None


def test_a_token_without_room_goes_on_by_the_residual():
    """It leaves the layer as it left attention; the others do not."""
    net = initialize(Transformer(config(every=1, capacity_factor=0.5, min_capacity=1, keep="first")), 0)
    layer = net.layers[1]
    found = {}
    layer.feed_forward.register_forward_hook(lambda m, a, out: found.update(gives=out[0]))
    layer.feed_forward_norm.register_forward_pre_hook(lambda m, a: found.update(stream=a[0]))
    layer.register_forward_hook(lambda m, a, out: found.update(out=out.x))
    net(causal_batch(torch.randint(30, (2, 12), generator=torch.Generator().manual_seed(0))))
    lost = (found["gives"] == 0).all(-1)
    assert lost.any() and not lost.all()
    assert torch.equal(found["out"][lost], found["stream"][lost])
    assert not torch.isclose(found["out"], found["stream"]).all(-1)[~lost].any()


@pytest.mark.parametrize("settings", [{}, {"residual": True, "top_k": 2, "noise": "jitter"}])
def test_recomputed_layers_give_the_same_gradients(settings):
    net = initialize(Transformer(config(min_capacity=1, **settings)), 0)
    batch = causal_batch(torch.randint(30, (3, 9), generator=torch.Generator().manual_seed(0)))

    def run(remat):
        net.remat = remat
        torch.manual_seed(0)
        out = net(batch)
        (out.logits.square().sum() + out.auxiliary.sum()).backward()
        grads = [p.grad for p in net.parameters()]
        net.zero_grad(set_to_none=True)
        return grads

    assert all(torch.equal(a, b) for a, b in zip(run(False), run(True), strict=True))


def test_biases_start_at_zero_and_experts_differ():
    net = initialize(Transformer(config()), 0)
    experts = net.layers[1].feed_forward.experts
    assert (experts.up.bias == 0).all()
    assert not torch.equal(experts.up.weight[0], experts.up.weight[1])
    assert experts.down.weight.std() < experts.up.weight.std()  # narrower into the residual stream


@torch.inference_mode()
def test_token_by_token_with_a_cache():
    net = initialize(Transformer(config(top_k=2)), 0).eval()
    ids = torch.randint(30, (2, 8), generator=torch.Generator().manual_seed(0))
    whole = causal_batch(ids)
    cache = KVCache(net.config, 2, 8, torch.float32, "cpu")
    steps = [
        net(whole._replace(ids=ids[:, t : t + 1], pos=whole.pos[:, t : t + 1], rank=whole.rank[:, t : t + 1]),
            cache=cache).logits
        for t in range(8)
    ]  # fmt: skip
    torch.testing.assert_close(torch.cat(steps, 1), net(whole).logits, atol=1e-5, rtol=1e-5)
