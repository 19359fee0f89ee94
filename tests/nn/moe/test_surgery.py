"""Experts pruned and joined: what is left computes what it did."""

import pytest
import torch

from mainspring.data.batch import causal_batch
from mainspring.errors import UsageError
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.moe import aggregate_experts, expert_loads, prune_experts
from mainspring.nn.moe.surgery import layers_of


def model(seed=0, **experts):
    settings = {"count": 4, "top_k": 2, **experts}
    config = TransformerConfig(
        d_model=16, n_heads=2, n_layers=4, d_ff=24, vocab_size=30, init_std=0.3, experts=settings
    )
    return initialize(Transformer(config), seed).eval()


def batches():
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        ids = torch.randint(30, (2, 9), generator=generator)
        yield causal_batch(ids, valid=torch.arange(9).expand(2, 9) < torch.tensor([[9], [4]]))


def built(state, config):
    made = Transformer(config).eval()
    made.load_state_dict(state)
    return made


def test_loads_count_the_choices_of_real_tokens():
    net = model()
    loads = expert_loads(net, (net(batch) for batch in batches()))
    assert list(loads) == ["layers.1.feed_forward", "layers.3.feed_forward"]
    assert [int(load.sum()) for load in loads.values()] == [3 * 13 * 2] * 2
    assert all(not module._forward_hooks for module in net.modules())


def test_experts_that_nobody_chose_can_go():
    net = model()
    with torch.no_grad():
        for name in ("layers.1.feed_forward", "layers.3.feed_forward"):
            gate = net.get_submodule(name).gate.weight
            gate[1], gate[3] = 0.5 * gate[0], 0.25 * gate[0]  # experts 1 and 3 say the same more softly
    loads = dict.fromkeys(layers_of(net.state_dict()), torch.tensor([9, 0, 5, 7]))
    state, config = prune_experts(net.state_dict(), net.config, loads, 3)
    small = built(state, config)
    assert config.experts.count == 3
    for ours, theirs in ((0, 0), (1, 2), (2, 3)):
        one, other = small.layers[1].feed_forward, net.layers[1].feed_forward
        assert torch.equal(one.gate.weight[ours], other.gate.weight[theirs])
        assert torch.equal(one.experts.up.weight[ours], other.experts.up.weight[theirs])
        assert torch.equal(one.experts.down.biases[ours], other.experts.down.biases[theirs])
    assert small(next(batches())).logits.isfinite().all()


def test_a_model_without_the_experts_that_validation_never_took_gives_the_same_on_it():
    """Factors are relative to those of the experts taken, so that those pruned are in nothing."""
    net = model()
    with torch.no_grad():
        for number in (1, 3):
            layer = net.layers[number]
            layer.feed_forward_norm.weight[0], layer.feed_forward_norm.bias[0] = 0, 10
            layer.feed_forward.gate.weight[[0, 2], 0] = -10.0
    loads = expert_loads(net, (net(batch) for batch in batches()))
    assert [(load > 0).tolist() for load in loads.values()] == [[False, True, False, True]] * 2
    small = built(*prune_experts(net.state_dict(), net.config, loads, 2))
    for batch in batches():
        torch.testing.assert_close(small(batch).logits, net(batch).logits, atol=1e-6, rtol=1e-5)


def test_pruning_to_all_changes_nothing_and_pyramids_stay():
    net = model(count=(3, 5))
    loads = expert_loads(net, (net(batch) for batch in batches()))
    state, config = prune_experts(net.state_dict(), net.config, loads, 5)
    assert config == net.config and all(torch.equal(t, net.state_dict()[n]) for n, t in state.items())
    _, config = prune_experts(net.state_dict(), net.config, loads, 4)
    assert config.experts.count == (3, 4)
    _, config = prune_experts(net.state_dict(), net.config, loads, 2)
    assert config.experts.count == 2


def test_aggregating_a_model_with_itself_keeps_its_function():
    net = model(top_k=1)
    state, config = aggregate_experts(net.state_dict(), net.state_dict(), net.config)
    both = built(state, config)
    assert config.experts.count == 8
    batch = next(batches())
    inside, twice = net.layers[1].feed_forward, both.layers[1].feed_forward
    x = net.embed(batch)
    # Of two equal experts the gate's probability is halved: the choice stays, its factor does not.
    torch.testing.assert_close(twice(x)[0], inside(x)[0] / 2, atol=1e-6, rtol=1e-5)


def test_aggregation_joins_experts_and_means_the_rest():
    one, two = model(0), model(1)
    state, config = aggregate_experts(one.state_dict(), two.state_dict(), one.config)
    both = built(state, config)
    up = both.layers[3].feed_forward.experts.up
    assert torch.equal(up.weight[:4], one.layers[3].feed_forward.experts.up.weight)
    assert torch.equal(up.biases[4:], two.layers[3].feed_forward.experts.up.biases)
    mean = (one.layers[0].attention.qkv.weight + two.layers[0].attention.qkv.weight) / 2
    assert torch.equal(both.layers[0].attention.qkv.weight, mean)


def test_what_cannot_be_done_is_said():
    net = model()
    dense = TransformerConfig(d_model=8, n_heads=2, n_layers=1, d_ff=8, vocab_size=9)
    with pytest.raises(UsageError, match="no layers of experts"):
        aggregate_experts({}, {}, dense)
    with pytest.raises(UsageError, match="below top_k = 2"):
        prune_experts(net.state_dict(), net.config, {}, 1)
    with pytest.raises(UsageError, match=r"layers.1.feed_forward: no load"):
        prune_experts(net.state_dict(), net.config, {}, 2)
    with pytest.raises(UsageError, match="differ in names or shapes"):
        aggregate_experts(net.state_dict(), model(count=5).state_dict(), net.config)
