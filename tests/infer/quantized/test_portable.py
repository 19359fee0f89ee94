"""Portable kernels beside integers of numpy and products in fp64."""

import numpy as np
import pytest
import torch

from mainspring.errors import UsageError
from mainspring.infer.quantized.integers import fill, pack_int4, round_to_int4, unpack_int4
from mainspring.infer.quantized.kernels import (
    PORTABLE,
    int4_sums,
    int4_weight,
    int8_sums,
    int8_sums_by_fp32,
    round_tokens,
)


def integers(low: int, high: int, *shape: int) -> torch.Tensor:
    return torch.randint(low, high + 1, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("tokens", "outputs", "inputs"), [(1, 24, 64), (5, 40, 128), (33, 17, 3072)])
def test_integer_sums_are_exact(tokens: int, outputs: int, inputs: int) -> None:
    x, w = integers(-127, 127, tokens, inputs), integers(-127, 127, outputs, inputs)
    exact = x.numpy().astype(np.int64) @ w.numpy().astype(np.int64).T
    assert np.array_equal(int8_sums(x, w).numpy(), exact)
    assert np.array_equal(int8_sums_by_fp32(x, w).numpy(), exact)
    four = integers(-8, 7, outputs, inputs)
    sums = int4_sums(x, pack_int4(four)).sum(-1)
    assert np.array_equal(sums.numpy(), x.numpy().astype(np.int64) @ four.numpy().astype(np.int64).T)


def test_int4_packs_every_value_and_reads_it_back() -> None:
    values = integers(-8, 7, 9, 192)
    assert torch.equal(unpack_int4(pack_int4(values)), values)
    first = pack_int4(values)[0, :32].int()
    assert torch.equal((first & 15) - 8, values[0, :32].int())
    assert torch.equal((first >> 4) - 8, values[0, 32:64].int())


def test_int4_scales_lose_less_than_the_largest_value_gives() -> None:
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(0))
    packed, scales = round_to_int4(weight)
    error = (int4_weight(packed, scales) - weight).square().sum()
    groups = weight.view(-1, 64)
    plain = groups.abs().amax(-1, keepdim=True) / 7
    assert error < ((groups / plain).round() * plain - groups).square().sum()
    with pytest.raises(UsageError, match="nearest legal value: 64"):
        round_to_int4(weight, 48)


def test_tokens_are_rounded_to_the_nearest_and_bad_ones_are_marked() -> None:
    x = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    x[1], x[2, 3], x[3, 4] = 0.0, torch.nan, torch.inf
    values, scales = round_tokens(fill(x))
    assert values.shape == (6, 64) and not values[:, 50:].any()
    good = [0, 4, 5]
    assert ((values[good, :50] * scales[good] - x[good]).abs() <= scales[good] * 0.501).all()
    assert values[good].abs().amax() == 127 and scales[1] == 0
    assert scales[2].isnan() and scales[3].isnan()


@pytest.mark.parametrize("activation", [None, "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_are_what_their_integers_say(activation: str | None, dtype: torch.dtype) -> None:
    x = torch.randn(2, 6, 100, generator=torch.Generator().manual_seed(0)).to(dtype)
    bias = torch.randn(24, generator=torch.Generator().manual_seed(1))
    w, scales = integers(-127, 127, 24, 100), torch.rand(24, generator=torch.Generator().manual_seed(2))
    tokens, token_scales = round_tokens(x)
    exact = (tokens.double() * token_scales.double()) @ (w.double() * scales.double()[:, None]).T + bias
    if activation is not None:
        name, approximate = ([*activation.split("_"), "none"])[:2]
        exact = exact.relu() if name == "relu" else torch.nn.functional.gelu(exact, approximate=approximate)
    got = PORTABLE.int8(x, fill(w), scales, bias, activation)
    assert got.dtype == dtype and got.shape == (2, 6, 24)
    torch.testing.assert_close(got.double(), exact, rtol=1e-4 if dtype == torch.float32 else 1e-2, atol=2e-2)
    few = PORTABLE.int8(x[0, :3], fill(w), scales, bias, activation)  # sums in bf16, where that is faster
    spread = float(exact.std())
    torch.testing.assert_close(few.double(), exact[0, :3], rtol=2e-2, atol=2e-2 * spread)
