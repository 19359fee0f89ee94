"""Block formats against exact arithmetic, torchao's stored results, and what the definitions promise."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.errors import ConfigError, UsageError
from mainspring.numerics import FORMATS, Integers, Msfp, format_named, straight_through
from mainspring.numerics.bits import pack_bits, unpack_bits

VECTORS = json.loads((Path(__file__).parent / "torchao_vectors.json").read_text())
EVERY = sorted(FORMATS)
SHAPES = [((64,), 0), ((3, 50), -1), ((50, 3), 0), ((2, 33, 4), 1), ((0, 7), 1)]


def wide(*shape: int, seed: int = 0, spread: int = 20) -> torch.Tensor:
    """Numbers of very different sizes, some of them 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    x = x * torch.exp2(torch.randint(-spread, spread, shape, generator=generator).float())
    return torch.where(torch.rand(shape, generator=generator) < 0.1, 0.0, x)


def msfp_by_fractions(values: list[float], bits: int) -> list[float]:
    """MSFP of one box, by its definition, in exact arithmetic."""
    magnitude = bits - 9
    largest = max(abs(Fraction(v)) for v in values)
    if largest < Fraction(2) ** -126:
        return [0.0 for _ in values]
    exponent = max(e for e in range(-126, 128) if Fraction(2) ** e <= largest)
    step = Fraction(2) ** (exponent - magnitude + 1)
    out = []
    for value in values:
        exact = Fraction(value) if abs(value) >= 2.0**-126 else Fraction(0)
        size = min(round(abs(exact) / step), 2**magnitude - 1)  # Fraction rounds ties to even
        out.append(float(size * step * (-1 if exact < 0 else 1)))
    return out


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=16),
    st.integers(11, 16),
)
def test_msfp_is_its_definition_in_exact_arithmetic(values, bits):
    got = Msfp(bits).quantize(torch.tensor(values))
    assert got.tolist() == msfp_by_fractions(values, bits)


@pytest.mark.parametrize("name", [n for n in VECTORS if n.startswith("mx")])
def test_mx_is_what_torchao_makes_of_it(name):
    """torchao 0.18.0, `to_mx` with its floor mode, on torch 2.13."""
    x = torch.tensor(VECTORS["x"]).view(VECTORS["shape"])
    encoded = format_named(name).encode(x)
    boxes = x.view(-1, 32)
    full = [i for i, box in enumerate(boxes) if box.any()]  # of a box of zeros the scale says nothing
    got, want = encoded.scales.tolist(), VECTORS[name]["scales"]
    assert [got[i] for i in full] == [want[i] for i in full]
    assert format_named(name).decode(encoded).flatten().tolist() == VECTORS[name]["values"]


def test_mxint8_is_its_definition():
    x = wide(6, 64)
    for box, got in zip(x.view(-1, 32), FORMATS["mxint8"].quantize(x).view(-1, 32), strict=True):
        scale = 2.0 ** np.floor(np.log2(float(box.abs().max())))
        want = np.clip(np.rint(box.double().numpy() / scale * 64), -127, 127) / 64 * scale
        assert np.array_equal(got.numpy(), want.astype(np.float32))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group", [None, 5, 32])
def test_integers_are_within_half_a_step_and_exact_at_the_ends(bits, group):
    x = wide(3, 40, spread=2)
    got = Integers(bits, group).quantize(x)
    for row, out in zip(x, got, strict=True):
        for box, part in zip(row.split(group or 40), out.split(group or 40), strict=True):
            step = box.abs().max() / (2 ** (bits - 1) - 1)
            assert (part - box).abs().max() <= step * 0.5 * (1 + 1e-5)
            assert part[box.abs().argmax()] == pytest.approx(float(box[box.abs().argmax()]), rel=1e-6)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("shape", "dim"), [((64,), 0), ((3, 50), -1), ((50, 3), 0), ((2, 33, 4), 1), ((0, 7), 1)]
)
def test_bytes_say_what_values_do(name, shape, dim):
    form = FORMATS[name]
    x = wide(*shape)
    encoded = form.encode(x, dim)
    values = form.quantize(x, dim)
    assert torch.equal(form.decode(encoded), values)
    again = form.quantize(values, dim)
    if not name.startswith("int"):  # a real scale is rounded, powers of two are not
        assert torch.equal(again, values)
    boxes = x.numel() // max(shape[dim], 1) * -(-shape[dim] // (form.box or max(shape[dim], 1)))
    assert encoded.scales.numel() == boxes
    assert encoded.codes.numel() == -(-boxes * (form.box or shape[dim]) * form.element_bits // 8)


def test_bits_an_element():
    """The published densities: MSFP16 8.5, MSFP12 4.5, MSFP11 3.5 bits; MX adds 8 bits in 32."""
    assert [FORMATS[n].bits for n in ("msfp16", "msfp12", "msfp11")] == [8.5, 4.5, 3.5]
    assert [FORMATS[n].bits for n in ("mxfp8_e4m3", "mxfp6_e2m3", "mxfp4", "mxint8")] == [
        8.25,
        6.25,
        4.25,
        8.25,
    ]
    assert (FORMATS["int8"].bits, FORMATS["int4-g32"].bits) == (8, 5)


@pytest.mark.parametrize("name", EVERY)
def test_zeros_stay_and_what_is_not_finite_spoils_its_box_alone(name):
    form = FORMATS[name]
    box = form.box or 8
    x = wide(3, 2 * box, seed=4)
    x[0] = 0.0
    x[1, 1], x[2, box] = torch.nan, torch.inf
    got = form.decode(form.encode(x))
    assert torch.equal(got[0], torch.zeros(2 * box))
    if form.box:
        assert got[1, :box].isnan().all() and got[2, box:].isnan().all()
        clean = torch.stack([x[1, box:], x[2, :box]])
        assert torch.equal(torch.stack([got[1, box:], got[2, :box]]), form.quantize(clean))
    else:
        assert got[1:].isnan().all()


@pytest.mark.parametrize("name", [n for n in EVERY if not n.startswith("int")])
def test_the_ends_of_fp32(name):
    form = FORMATS[name]
    huge = torch.full((form.box,), torch.finfo(torch.float32).max)
    got = form.quantize(huge)
    assert got.isfinite().all() and (got > 0.74 * huge).all()
    subnormal = torch.full((form.box,), 1e-40)
    assert not form.quantize(subnormal).any()
    tiny = torch.full((form.box,), 2.0**-126)
    assert torch.equal(form.quantize(tiny), tiny) or name == "mxfp8_e5m2"


def test_a_bumped_exponent_keeps_what_rounds_up():
    x = torch.tensor([1.99, -0.5])
    assert Msfp(12).quantize(x).tolist() == [1.75, -0.5]
    assert Msfp(12, overflow="bump").quantize(x).tolist() == [2.0, -0.5]


def test_each_bit_is_six_decibels():
    x = torch.randn(1 << 15, generator=torch.Generator().manual_seed(2))
    noise = [float((Msfp(bits).quantize(x) - x).square().mean()) for bits in range(12, 17)]
    ratios = [10 * np.log10(a / b) for a, b in pairwise(noise)]
    assert all(5.5 < ratio < 6.6 for ratio in ratios)


@pytest.mark.parametrize("name", ["msfp12", "mxfp4", "mxfp8_e5m2", "msfp16", "mxint8"])
def test_values_are_exact_in_bfloat16(name):
    values = FORMATS[name].quantize(wide(8, 64))
    assert torch.equal(values.bfloat16().float(), values)
    assert FORMATS[name].quantize(wide(8, 64).bfloat16()).dtype == torch.bfloat16


def test_stochastic_rounding_has_no_bias_and_a_seed():
    x = torch.randn(16, generator=torch.Generator().manual_seed(3))
    form = Msfp(12)
    draws = torch.stack(
        [
            form.quantize(x, rounding="stochastic", generator=torch.Generator().manual_seed(s))
            for s in range(2000)
        ]
    )
    step = 2.0 ** (np.floor(np.log2(float(x.abs().max()))) - 2)
    inside = x.abs() < 7 * step  # the largest may saturate
    assert ((draws.mean(0) - x).abs() < 5 * step / 2 / 2000**0.5)[inside].all()
    one, two = (
        form.quantize(x, rounding="stochastic", generator=torch.Generator().manual_seed(9)) for _ in range(2)
    )
    assert torch.equal(one, two)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(0, 50), st.randoms())
def test_packing_comes_back(bits, count, random):
    codes = torch.tensor([random.randrange(2**bits) for _ in range(count)], dtype=torch.uint8)
    packed = pack_bits(codes, bits)
    assert len(packed) == -(-count * bits // 8)
    number = sum(int(code) << (bits * i) for i, code in enumerate(codes))
    assert packed.tolist() == list(number.to_bytes(len(packed), "little"))
    assert torch.equal(unpack_bits(packed, bits, count), codes)


def test_gradients_go_straight_through():
    x = torch.randn(4, 32, requires_grad=True)
    out = straight_through(x, FORMATS["msfp12"])
    assert torch.equal(out, FORMATS["msfp12"].quantize(x)) and not torch.equal(out, x)
    weight = torch.randn(4, 32)
    (out * weight).sum().backward()
    assert torch.equal(x.grad, weight)


def test_names():
    assert format_named("int4-g64").box == 64 and format_named("int3").element_bits == 3
    with pytest.raises(ConfigError, match="msfp17.*msfp12"):
        format_named("msfp17")
    with pytest.raises(UsageError, match="int64"):
        FORMATS["msfp12"].quantize(torch.arange(16))
    for wrong in (lambda: Msfp(17), lambda: Msfp(12, box=0), lambda: Integers(9), lambda: Integers(4, 0)):
        with pytest.raises(UsageError):
            wrong()
