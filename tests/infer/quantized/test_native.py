"""The compiled tier: integer sums equal the portable ones bit for bit, on every path that can run here."""

import shutil
import warnings
from pathlib import Path

import pytest
import torch

from mainspring.infer.quantized.integers import fill, round_to_int4, round_to_int8
from mainspring.infer.quantized.kernels import PORTABLE, int4_sums, int8_sums_by_fp32, round_tokens
from mainspring.infer.quantized.native import Native, best_kernels, native_kernels
from mainspring.infer.quantized.native import build as building
from mainspring.infer.quantized.native.build import PATHS, Instructions, build, choose, processor_features

RUNNABLE = [path for path in PATHS if path.needs <= processor_features()]
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


@pytest.fixture(scope="module", params=RUNNABLE, ids=lambda path: path.name)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Native:
    import ctypes

    path: Instructions = request.param
    return Native(ctypes.CDLL(str(build(path, building.cache_folder()))), path)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("tokens", "outputs", "inputs"), [(1, 7, 64), (5, 40, 100), (6, 9, 3072)])
def test_integer_sums_are_the_portable_ones(kernels: Native, tokens: int, outputs: int, inputs: int) -> None:
    x, weight = drawn(tokens, inputs), drawn(outputs, inputs, seed=1)
    values, _ = round_to_int8(weight)
    wanted, _ = round_tokens(fill(x))
    integers, sums = kernels.sums(x, values)
    assert torch.equal(integers, wanted)
    assert torch.equal(sums, int8_sums_by_fp32(wanted, values))
    packed, _ = round_to_int4(weight)
    wanted, _ = round_tokens(fill(x).view(tokens, -1, 64))
    integers, sums = kernels.sums(x, packed)
    assert torch.equal(integers, wanted.flatten(1))
    assert torch.equal(sums, int4_sums(integers, packed))


def test_the_largest_integers_do_not_saturate(kernels: Native) -> None:
    x = torch.full((2, 4096), 3.0)
    x[1] *= -1
    for sign in (1, -1):
        values = torch.full((3, 4096), sign * 127, dtype=torch.int8)
        _, sums = kernels.sums(x, values)
        assert sums[0].tolist() == [sign * 127 * 127 * 4096] * 3
        assert sums[1].tolist() == [-sign * 127 * 127 * 4096] * 3
    codes = torch.full((1, 2048), 0x0F, dtype=torch.uint8)  # 7 and -8
    assert kernels.sums(x, codes)[1][0].unique().tolist() == [127 * 32 * (7 - 8)]


@pytest.mark.parametrize("activation", [None, "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize(("tokens", "outputs", "inputs"), [(1, 50, 96), (7, 31, 128), (130, 200, 64)])
def test_layers_are_the_portable_ones(
    kernels: Native, activation: str | None, tokens: int, outputs: int, inputs: int
) -> None:
    x, weight, bias = drawn(tokens, inputs), drawn(outputs, inputs, seed=1), drawn(outputs, seed=2)
    values, scales = round_to_int8(weight)
    integers, token_scales = round_tokens(fill(x))
    exact = int8_sums_by_fp32(integers, values).double() * token_scales * scales + bias
    packed, block_scales = round_to_int4(weight)
    blocks, by_block = round_tokens(fill(x).view(tokens, -1, 64))
    sums = int4_sums(blocks.flatten(1), packed).double()
    exact4 = (sums * by_block.view(tokens, 1, -1) * block_scales).sum(-1) + bias
    for got, wanted in (
        (kernels.int8(x, values, scales, bias, activation), exact),
        (kernels.int4(x, packed, block_scales, bias, activation), exact4),
    ):
        if activation is not None:
            gelu = {"gelu": "none", "gelu_tanh": "tanh"}
            relu = activation == "relu"
            wanted = wanted.relu() if relu else torch.nn.functional.gelu(wanted, approximate=gelu[activation])
        torch.testing.assert_close(got.double(), wanted, rtol=2e-5, atol=2e-5)


def test_bad_tokens_are_marked_and_others_are_not_touched(kernels: Native) -> None:
    x, weight = drawn(4, 64), drawn(8, 64, seed=1)
    x[0, 3], x[1, 5], x[2] = torch.nan, -torch.inf, 0.0
    values, scales = round_to_int8(weight)
    out = kernels.int8(x, values, scales, None)
    assert out[:2].isnan().all() and (out[2] == 0).all() and out[3].isfinite().all()
    packed, block_scales = round_to_int4(weight)
    assert kernels.int4(x, packed, block_scales, None)[:2].isnan().all()


def test_other_dtypes_and_empty_batches(kernels: Native) -> None:
    values, scales = round_to_int8(drawn(8, 64))
    x = drawn(3, 5, 64, seed=1).bfloat16()
    got = kernels.int8(x, values, scales, None)
    assert got.dtype == torch.bfloat16 and got.shape == (3, 5, 8)
    torch.testing.assert_close(got, PORTABLE.int8(x, values, scales, None), rtol=1e-2, atol=1e-2)
    assert kernels.int8(x[:0], values, scales, None).shape == (0, 5, 8)


def test_the_processor_decides_the_path() -> None:
    by_name = {path.name: path for path in PATHS}
    zen3 = by_name["avx2"].needs
    assert choose(frozenset()).name == "scalar"
    assert choose(zen3 - {"fma"}).name == "scalar"
    assert choose(zen3).name == "avx2"
    assert choose(zen3 | {"avx512f", "avx512_vnni"}).name == "avx2"  # without byte and short vectors
    assert choose(zen3 | {"avx_vnni"}).name == "avx-vnni"
    assert choose(by_name["avx512-vnni"].needs | {"avx_vnni"}).name == "avx512-vnni"


@pytest.mark.parametrize("path", [p for p in PATHS if p not in RUNNABLE], ids=lambda path: path.name)
def test_what_cannot_run_here_is_compiled_all_the_same(path: Instructions) -> None:
    assert build(path, building.cache_folder()).stat().st_size > 10_000


def test_no_compiler_is_a_warning_and_the_portable_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    native_kernels.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.warns(RuntimeWarning, match=r"there is no g\+\+"):
        assert best_kernels() is PORTABLE


def test_a_folder_that_others_write_to_is_not_trusted(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(OSError, match="safe place"):
        build(PATHS[-1], tmp_path)


def test_a_broken_compiler_says_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Instructions("odd", ("-march=no-such",), frozenset())
    folder = tmp_path / "kernels"
    with pytest.raises(OSError, match="no-such"):
        build(odd, folder)
    assert not list(folder.iterdir())


@pytest.mark.slow
def test_torch_compile_sees_one_operator(kernels: Native) -> None:
    if kernels.name != RUNNABLE[0].name:
        pytest.skip("the operator takes the best path")
    values, scales = round_to_int8(drawn(32, 64))
    compiled = torch.compile(lambda x: torch.relu(kernels.int8(x, values, scales, None)), fullgraph=True)
    x = drawn(5, 64, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        got = compiled(x)
    torch.testing.assert_close(got, torch.relu(kernels.int8(x, values, scales, None)))
