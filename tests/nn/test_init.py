"""Initialisation: by seed and name alone, the same on one process and on shards, as published."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.init import CHUNK, Initial, declare, stable_seed
from mainspring.nn.span import Cut, Span, mark, mark_cut
from support.spawn import run_ranks

CONFIG = TransformerConfig(
    d_model=48, n_heads=3, n_layers=2, d_ff=100, vocab_size=85, vocab_rows=91, max_positions=7
)


def test_seed_and_name_decide():
    one, two, other = (initialize(Transformer(CONFIG), s).state_dict() for s in (3, 3, 4))
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name])
        assert tensor.ndim < 2 or not torch.equal(tensor, other[name])
    assert not torch.equal(one["layers.0.attention.qkv.weight"], one["layers.1.attention.qkv.weight"])


def test_a_part_starts_as_in_the_whole_with_its_name():
    model = initialize(Transformer(CONFIG), 3)
    deeper = initialize(Transformer(CONFIG.replace(n_layers=3)), 3)
    assert torch.equal(model.layers[1].attention.qkv.weight, deeper.layers[1].attention.qkv.weight)


def test_seeds_are_the_same_in_another_process():
    code = "from mainspring.nn.init import stable_seed; print(stable_seed(7, 'a.b', 2))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(printed) == stable_seed(7, "a.b", 2)


def test_values_are_as_published():
    config = CONFIG.replace(d_model=256, n_heads=4, d_ff=1024, vocab_size=2000, vocab_rows=2048, n_layers=4)
    model = initialize(Transformer(config), 0)
    block = model.layers[0]
    assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert block.attention.out.weight.std().item() == pytest.approx(0.02 / 8**0.5, rel=0.02)
    assert block.feed_forward.down.weight.std().item() == pytest.approx(0.02 / 8**0.5, rel=0.02)
    assert block.feed_forward.up.weight.mean().abs() < 1e-3
    assert (block.attention_norm.weight == 1).all() and (block.attention_norm.bias == 0).all()
    assert (block.attention.qkv.bias == 0).all()
    assert (model.embeddings.token.weight[2000:] == 0).all() and (
        model.embeddings.token.weight[:2000] != 0
    ).any(1).all()
    flat = initialize(Transformer(config.replace(scale_residual=False)), 0)
    assert flat.layers[0].attention.out.weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_large_parameters_are_cut_into_chunks_that_do_not_repeat():
    layer = nn.Linear(1024, 2 * CHUNK // 1024 + 100)
    declare(layer, Initial(std=1.0))
    weight = initialize(layer, 0).weight.detach().view(-1)
    assert not torch.equal(weight[:1000], weight[CHUNK : CHUNK + 1000])
    assert weight.std().item() == pytest.approx(1, rel=0.01)


def test_lower_precision_is_the_rounding_of_fp32():
    full = initialize(Transformer(CONFIG), 0).state_dict()
    half = initialize(Transformer(CONFIG).to(torch.bfloat16), 0).state_dict()
    assert all(torch.equal(half[name], full[name].bfloat16()) for name in full)


def shard_and_compare(rank, world):
    whole = initialize(Transformer(CONFIG), 5).state_dict()
    mesh = init_device_mesh("cpu", (world,))
    with torch.device("meta"):
        model = Transformer(CONFIG)
    for block in model.blocks():
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    initialize(model, 5)
    for name, value in model.state_dict().items():
        assert isinstance(value, DTensor)
        assert torch.equal(value.full_tensor(), whole[name]), name
    big = nn.Linear(1500, 1001, bias=False)
    want = initialize(big, 1).weight.detach().clone()
    for placement in (Shard(0), Shard(1), Replicate()):
        big.weight = nn.Parameter(distribute_tensor(torch.zeros(1001, 1500), mesh, [placement]))
        assert torch.equal(initialize(big, 1).weight.full_tensor(), want), placement
    return True


@pytest.mark.distributed
def test_shards_are_slices_of_the_whole():
    assert run_ranks(shard_and_compare, 2) == [True, True]


@pytest.mark.parametrize("name", ["layers.0.attention.qkv.weight", "layers.0.attention.out.weight"])
def test_boxes_and_runs_of_boxes_start_as_in_the_whole(name):
    config = TransformerConfig(d_model=12, n_heads=2, n_layers=1, d_ff=16, vocab_size=11)
    whole = dict(initialize(Transformer(config), seed=3).named_parameters())[name].detach()
    model = Transformer(config)
    owner = model.get_submodule(name.rpartition(".")[0])
    for dim, start, length in ((0, 4, 5), (1, 3, 6)):
        cut = Cut.whole(whole.shape).narrow(dim, start, length, "tensor")
        owner.weight = mark_cut(nn.Parameter(torch.empty(cut.sizes)), cut)
        initialize(model, seed=3)
        box = cut.of(whole)
        assert torch.equal(owner.weight, box)
        span = Span(box.shape, 7, 25)
        owner.weight = mark_cut(nn.Parameter(torch.empty(span.numel)), cut)
        mark(owner.weight, span)
        initialize(model, seed=3)
        assert torch.equal(owner.weight, box.reshape(-1)[7:25])


def test_rows_that_start_at_zero_do_so_in_boxes():
    for dim, start, length in ((0, 2, 4), (1, 1, 2)):
        table = nn.Embedding(6, 3)
        declare(table, Initial(1.0, rows=4))
        whole = initialize(table, seed=1).weight.detach().clone()
        assert not whole[4:].any() and whole[:4].all()
        cut = Cut.whole(whole.shape).narrow(dim, start, length, "tensor")
        table.weight = mark_cut(nn.Parameter(torch.empty(cut.sizes)), cut)
        assert torch.equal(initialize(table, seed=1).weight, cut.of(whole))
