"""The published activation formulas beside what autograd keeps of a plain Megatron layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mainspring.planner import published_layer_bytes


class MegatronLayer(nn.Module):
    """The layer of Korthikanti et al. 2022, figure 2, without fusion; masks of dropout are bytes."""

    def __init__(self, h, a):
        super().__init__()
        self.a = a
        self.norms = nn.ModuleList(nn.LayerNorm(h) for _ in range(2))
        self.qkv, self.out = nn.Linear(h, 3 * h), nn.Linear(h, h)
        self.up, self.down = nn.Linear(h, 4 * h), nn.Linear(4 * h, h)

    def forward(self, x):
        s, b, h = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(s, b * self.a, 3 * h // self.a).transpose(0, 1).chunk(3, -1)
        weights = ByteDropout.apply(torch.softmax(q @ k.transpose(1, 2), -1))
        y = (weights @ v).transpose(0, 1).reshape(s, b, h)
        x = x + ByteDropout.apply(self.out(y))
        return x + ByteDropout.apply(self.down(F.gelu(self.up(self.norms[1](x)))))


class ByteDropout(torch.autograd.Function):
    """Keeps its mask as one byte an element, as on a GPU."""

    @staticmethod
    def forward(ctx, x):
        mask = torch.rand_like(x) > 0.1
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx, grad):
        (mask,) = ctx.saved_tensors
        return grad * mask


def saved_bytes(layer, x):
    parameters = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(size for size, _ in storages.values())


@pytest.mark.parametrize(("s", "b", "h", "a"), [(64, 2, 128, 4), (128, 1, 256, 8), (96, 3, 192, 2)])
def test_a_plain_layer_keeps_what_was_published(s, b, h, a):
    layer = MegatronLayer(h, a).to(torch.bfloat16)
    x = torch.randn(s, b, h, dtype=torch.bfloat16, requires_grad=True)
    assert saved_bytes(layer, x) == pytest.approx(published_layer_bytes(s, b, h, a), rel=0.02)


def test_variants_follow_table_2():
    s, b, h, a, t = 2048, 4, 12288, 96, 8
    unit = s * b * h
    ratio = 5 * a * s / h
    assert published_layer_bytes(s, b, h, a) == unit * (34 + ratio)
    assert published_layer_bytes(s, b, h, a, t=t) == unit * (10 + 24 / t + ratio / t)
    assert published_layer_bytes(s, b, h, a, t=t, sequence=True) == unit * (34 + ratio) / t
    assert published_layer_bytes(s, b, h, a, t=t, kept="selective") == unit * (10 + 24 / t)
    assert published_layer_bytes(s, b, h, a, t=t, sequence=True, kept="selective") == unit * 34 / t
    assert published_layer_bytes(s, b, h, a, kept="input") == unit * 2
