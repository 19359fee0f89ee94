"""A whole step in C++ gives what the modules give, in any cache, whatever rows are in it."""

import copy
import shutil

import pytest
import torch

from mainspring.data.batch import TokenBatch, causal_batch
from mainspring.infer.quantized import quantize_model
from mainspring.infer.quantized.native import DecodeStep, native_kernels
from mainspring.infer.runner import CachedRunner, PlainRunner
from mainspring.nn import KVCache, Transformer, TransformerConfig, initialize

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
SHAPE = TransformerConfig(
    d_model=72, n_heads=3, n_layers=2, d_ff=160, vocab_size=131, vocab_rows=144, max_positions=64,
    activation="gelu_tanh", init_std=0.2,
)  # fmt: skip
OTHERS = {
    "plain": {},
    "rms, relu, no biases": {"norm": "rms", "activation": "relu", "bias": False},
    "untied, erf, wide heads": {"tied": False, "activation": "gelu", "head_dim": 40, "head_bias": True},
    "no positions": {"positions": ()},
}


def made(precision: str, **changes: object) -> Transformer:
    config = SHAPE.model_copy(update=changes)
    model = initialize(Transformer(config), seed=0).eval().requires_grad_(False)
    return quantize_model(model, precision, kernels=native_kernels())


def check(differences: list[float]) -> None:
    """Sums in another order differ in the last bits, which now and then round a token to another integer."""
    assert sorted(differences)[len(differences) // 2] < 2e-5 and max(differences) < 0.15


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("precision", ["int8", "int4"])
@torch.inference_mode()
def test_steps_are_the_modules(precision: str, changes: dict[str, object]) -> None:
    model = made(precision, **changes)
    step = DecodeStep.of(model)
    assert step is not None
    ids = torch.randint(0, 131, (3, 12), generator=torch.Generator().manual_seed(0))
    wanted = model(causal_batch(ids)).logits
    cache = KVCache(model.config, rows=3, capacity=16)
    model(causal_batch(ids[:, :5]), cache=cache)
    slots = torch.tensor([2, 0, 1])
    differences: list[float] = []
    for t in range(5, 12):
        at = torch.full((3, 1), t)
        x = model.embeddings(TokenBatch(ids[slots, t][:, None], pos=at, rank=at))[:, 0]
        keys, values = [s.keys for s in cache.layers], [s.values for s in cache.layers]
        logits = step(x, keys, values, slots, at[:, 0])
        differences += ((logits - wanted[slots, t]).abs().amax(-1) / wanted.std()).tolist()
    check(differences)


@torch.inference_mode()
def test_rows_of_different_length_in_a_cache_of_other_strides() -> None:
    model = made("int8")
    step = DecodeStep.of(model)
    assert step is not None
    ids = torch.randint(0, 131, (2, 10), generator=torch.Generator().manual_seed(1))
    wanted = model(causal_batch(ids)).logits
    storage = torch.zeros(2, 2, 5, 12, 3, 24)  # layers, keys and values, slots, tokens, heads, width
    keys, values = ([layer[part].transpose(1, 2) for layer in storage] for part in (0, 1))
    slots, begins = torch.tensor([4, 1]), torch.tensor([0, 3])
    differences: list[float] = []
    for t in range(10):
        rows = [r for r in (0, 1) if t >= begins[r]]
        at = (t - begins)[rows]
        x = model.embeddings(TokenBatch(ids[rows, at][:, None], pos=at[:, None], rank=at[:, None]))[:, 0]
        logits = step(x, keys, values, slots[rows], at)
        differences += ((logits - wanted[rows, at]).abs().amax(-1) / wanted.std()).tolist()
    check(differences)
    assert not storage[:, :, [0, 2, 3]].any()


@pytest.mark.parametrize(
    "changes", [{"norm_place": "post"}, {"activation": "swiglu"}, {"key_bias": False}], ids=str
)
def test_other_shapes_go_through_the_modules(changes: dict[str, object]) -> None:
    assert DecodeStep.of(made("int8", **changes)) is None


def test_copies_share_the_kernels() -> None:
    model = made("int8")
    assert DecodeStep.of(copy.deepcopy(model)) is not None


def test_other_precisions_go_through_the_modules() -> None:
    assert DecodeStep.of(made("int8-weight")) is None
    assert DecodeStep.of(made("fp32")) is None


@pytest.mark.parametrize("precision", ["int8", "int4"])
@torch.inference_mode()
def test_the_runner_takes_the_step_and_writes_the_same(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, watched = made(precision), made(precision)
    prompts = [[5, 9, 3], [7, 7, 7, 1, 2, 3, 4], [11]]
    cached, plain = CachedRunner(watched, 131), PlainRunner(model, 131)
    differences: list[float] = []
    first = [cached.prefill(prompts, 10), plain.prefill(prompts, 10)]
    monkeypatch.setattr(watched, "forward", None)  # from here on the modules are not to be used
    tokens = [int(logits[-1].argmax()) for logits in first[1]]
    for turn in range(6):
        if turn == 3:
            for runner in (cached, plain):
                runner.select([2, 0, 0])
            tokens = [tokens[2], tokens[0], (tokens[0] + 1) % 131]
        got, wanted = cached.step(tokens), plain.step(tokens)
        differences += ((got - wanted).abs().amax(-1) / wanted.std()).tolist()
        tokens = wanted.argmax(-1).tolist()
    check(differences)
