"""Our models as ONNX graphs: ONNX Runtime gives what they give, at other sizes than the recorded ones."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from mainspring.data.batch import TokenBatch, bidirectional_batch, causal_batch
from mainspring.errors import UsageError
from mainspring.infer.onnx import export_onnx, quantize_weights
from mainspring.infer.onnx.quantize import codes_of, quantize_file
from mainspring.models import FAMILIES, ModelConfig, resolve
from mainspring.models.onnx import read_onnx
from mainspring.nn import Transformer, initialize
from mainspring.numerics import Integers

SHAPE = {"d_model": 32, "n_heads": 4, "n_layers": 2, "d_ff": 64, "max_positions": 48}
VOCABULARY = 91


def model_of(family: str, **more: Any) -> Transformer:
    config = resolve(ModelConfig(family=family, config={**SHAPE, **more}), vocab_size=VOCABULARY)
    model = initialize(Transformer(config), 5).eval().requires_grad_(False)
    for parameter in model.parameters():  # larger than at birth, so that masks and positions matter
        parameter.mul_(3)
    return model


def session(file: Path) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])


def feed(**tensors: Tensor) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def ids_of(rows: int, tokens: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Transformer, Path]:
    model = model_of("bert", type_vocab=2)
    (file,) = export_onnx(model, tmp_path_factory.mktemp("encoder"))
    return model, file


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Transformer, Path]:
    model = model_of("gpt2")
    (file,) = export_onnx(model, tmp_path_factory.mktemp("decoder"), causal=True)
    return model, file


@pytest.mark.parametrize(("rows", "tokens", "padding"), [(1, 1, 0), (3, 7, 3), (2, 40, 11)])
def test_an_encoder_at_several_sizes_with_padding(
    encoder: tuple[Transformer, Path], rows: int, tokens: int, padding: int
) -> None:
    model, file = encoder
    ids, mask = ids_of(rows, tokens), torch.ones(rows, tokens, dtype=torch.int64)
    mask[-1, tokens - padding :] = 0
    types = (torch.arange(tokens) > 2).long().expand(rows, tokens).contiguous()
    wanted = model(bidirectional_batch(ids, valid=mask > 0)._replace(type=types))
    found = session(file).run(
        ["last_hidden_state", "logits"], feed(input_ids=ids, attention_mask=mask, token_type_ids=types)
    )
    seen = (mask > 0).numpy()
    for one, other in zip(found, (wanted.hidden, wanted.logits), strict=True):
        np.testing.assert_allclose(one[seen], other.numpy()[seen], atol=2e-4, rtol=1e-4)


def step(run: Any, ids: Tensor, mask: Tensor, positions: Tensor, past: list[Any]) -> list[Any]:
    names = [i.name for i in run.get_inputs() if i.name.startswith("past")]
    fed = feed(input_ids=ids, attention_mask=mask, position_ids=positions)
    return run.run(None, {**fed, **dict(zip(names, past, strict=True))})


def test_a_decoder_in_one_piece_and_token_by_token(decoder: tuple[Transformer, Path]) -> None:
    """With an empty cache, with a full one, and rows of other lengths (padded on the left)."""
    model, file = decoder
    run, config = session(file), model.config
    rows, length, gap = 2, 9, 3
    ids, mask = ids_of(rows, length), torch.ones(rows, length, dtype=torch.int64)
    mask[1, :gap] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    whole = model(causal_batch(ids[:1])).logits, model(causal_batch(ids[1:, gap:])).logits
    empty = np.zeros((rows, config.n_heads, 0, config.head_width), np.float32)
    logits, *past = step(run, ids, mask, positions, [empty] * 2 * config.depth)
    for row, wanted in enumerate(whole):
        np.testing.assert_allclose(logits[row, gap * row :], wanted[0].numpy(), atol=2e-4, rtol=1e-4)
    logits, *past = step(run, ids[:, :5], mask[:, :5], positions[:, :5], [empty] * 2 * config.depth)
    for n in range(5, length):
        one = slice(n, n + 1)
        logits, *past = step(run, ids[:, one], mask[:, : n + 1], positions[:, one], past)
        for row, wanted in enumerate(whole):
            np.testing.assert_allclose(logits[row, 0], wanted[0, n - gap * row].numpy(), atol=2e-4, rtol=1e-4)
    assert past[0].shape == (rows, config.n_heads, length, config.head_width)


@pytest.mark.parametrize(
    "experts",
    [pytest.param(None, marks=pytest.mark.slow), {"count": 4, "top_k": 2}],
    ids=["dense", "experts"],
)
def test_an_encoder_decoder(experts: dict[str, int] | None, tmp_path: Path) -> None:
    """Token by token, of a source that is padded; with experts in both stacks, as Z-code M3 has them."""
    model = model_of("zcode", n_layers=0, encoder_layers=2, decoder_layers=2, experts=experts)
    kinds = [type(module) for module in model.modules()]
    files = export_onnx(model, tmp_path)
    assert [f.name for f in files] == ["encoder.onnx", "decoder.onnx"]
    assert [type(module) for module in model.modules()] == kinds, "the model is left as it was"
    source, target = ids_of(2, 6, 1), ids_of(2, 5, 2)
    mask = torch.ones_like(source)
    mask[0, 4:] = 0
    wanted = model(causal_batch(target), source=bidirectional_batch(source, valid=mask > 0)).logits
    translates(files, model, source, mask, target, wanted, 2e-4)
    for file in files:
        quantize_file(file)
        graph = onnx.load(str(file)).graph
        stored = {t.name: t for t in graph.initializer}
        multiplied = [n.input[1] for n in graph.node if n.op_type in ("MatMul", "Gemm")]
        assert not any(name in stored and len(stored[name].dims) == 2 for name in multiplied)
        gates = [t for t in stored.values() if sorted(d for d in t.dims if d > 1) == [4, 32]]
        assert len(gates) == (experts is not None)
        assert all(gate.data_type == onnx.TensorProto.FLOAT for gate in gates)
    translates(files, model, source, mask, target, wanted, 0.2 * float(wanted.std()))


def translates(
    files: tuple[Path, ...],
    model: Transformer,
    source: Tensor,
    mask: Tensor,
    target: Tensor,
    wanted: Tensor,
    near: float,
) -> None:
    """The graphs of an encoder and a decoder give the wanted logits, a token at a time."""
    reads, writes = (session(f) for f in files)
    _, *cross = reads.run(None, feed(input_ids=source, attention_mask=mask))
    config = model.config
    past = [np.zeros((2, config.n_heads, 0, config.head_width), np.float32)] * 2 * config.depth
    names = [i.name for i in writes.get_inputs()]
    crossing = [n for n in names if ".encoder." in n]
    own = [n for n in names if n.startswith("past") and n not in crossing]
    for n in range(target.shape[1]):
        fed = feed(
            input_ids=target[:, n : n + 1],
            attention_mask=torch.ones(2, n + 1, dtype=torch.int64),
            position_ids=torch.full((2, 1), n),
            encoder_attention_mask=mask,
        )
        fed |= dict(zip(crossing, cross, strict=True)) | dict(zip(own, past, strict=True))
        logits, *past = writes.run(None, fed)
        np.testing.assert_allclose(logits[:, 0], wanted[:, n].numpy(), atol=near, rtol=1e-4)


def test_int8_is_our_own(encoder: tuple[Transformer, Path]) -> None:
    """The graph's integers are those of `numerics.Integers`, and so is what comes out."""
    model, file = encoder
    weight = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    codes, scales = codes_of(weight, 0)
    quantised = Integers(8)
    torch.testing.assert_close(
        codes.float() * scales[:, None], quantised.decode(quantised.encode(weight)), rtol=1e-6, atol=1e-7
    )
    proto = quantize_weights(onnx.load(str(file)))
    assert {n.op_type for n in proto.graph.node} >= {"DequantizeLinear", "MatMul"}
    products = {n.input[1] for n in proto.graph.node if n.op_type in ("MatMul", "Gemm")}
    stored = {t.name: t for t in proto.graph.initializer}
    assert not any(name in stored and len(stored[name].dims) == 2 for name in products)
    assert sum(t.data_type == onnx.TensorProto.INT8 for t in stored.values()) >= 4 * model.config.depth
    ids = ids_of(2, 8)
    mask = torch.ones_like(ids)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    # Above this level ONNX Runtime joins a DequantizeLinear with its product and rounds activations, too.
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    run = onnxruntime.InferenceSession(
        proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    fed = feed(input_ids=ids, attention_mask=mask, token_type_ids=mask * 0)
    (hidden,) = run.run(["last_hidden_state"], fed)
    model = copy.deepcopy(model)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(quantised.decode(quantised.encode(module.weight)))
        wanted = model(bidirectional_batch(ids)).hidden
    np.testing.assert_allclose(hidden, wanted.numpy(), atol=1e-4, rtol=1e-4)


def test_what_goes_out_comes_back_in(decoder: tuple[Transformer, Path]) -> None:
    """The importer reads our own exports, cache and all, and every weight gets a gradient."""
    model, file = decoder
    graph = read_onnx(file, outputs=["logits"])
    ids = ids_of(2, 6)
    config = model.config
    past = {
        n: torch.zeros(2, config.n_heads, 0, config.head_width)
        for n in graph.module.inputs
        if n[:4] == "past"
    }
    mask = torch.ones_like(ids)
    positions = torch.arange(6).expand_as(ids)
    logits = graph.module(input_ids=ids, attention_mask=mask, position_ids=positions, **past)["logits"]
    torch.testing.assert_close(logits, model(causal_batch(ids)).logits, atol=2e-4, rtol=1e-4)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in graph.module.parameters())


class Tagging(nn.Module):
    """What a task model is: an encoder, and logits of a batch."""

    def __init__(self, encoder: Transformer) -> None:
        super().__init__()
        self.encoder, self.score = encoder, nn.Linear(encoder.config.d_model, 3)

    def forward(self, batch: TokenBatch) -> Tensor:
        logits: Tensor = self.score(self.encoder(batch).hidden)
        return logits


@pytest.mark.slow
def test_a_task_head(tmp_path: Path) -> None:
    model = Tagging(model_of("bert", type_vocab=2)).eval().requires_grad_(False)
    (file,) = export_onnx(model, tmp_path)
    ids, mask = ids_of(3, 8), torch.ones(3, 8, dtype=torch.int64)
    (logits,) = session(file).run(
        ["logits"], feed(input_ids=ids, attention_mask=mask, token_type_ids=mask * 0)
    )
    np.testing.assert_allclose(logits, model(bidirectional_batch(ids)).numpy(), atol=2e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if not family.causal])
def test_every_family_that_reads(family: str, tmp_path: Path) -> None:
    """Its smallest preset, narrower: with relative positions, convolutions and masks of its own."""
    preset = next(iter(FAMILIES[family].presets))
    config = resolve(ModelConfig(family=family, preset=preset), vocab_size=VOCABULARY)
    depth = {"encoder_layers": 1, "decoder_layers": 1} if config.is_encoder_decoder else {"n_layers": 2}
    narrow = {"d_model": 32, "n_heads": 4, "d_ff": 64, "max_positions": 48, "head_dim": None}
    config = config.replace(**narrow, **depth)
    model = initialize(Transformer(config), 5).eval().requires_grad_(False)
    files = export_onnx(model, tmp_path)
    if config.is_encoder_decoder:
        assert len(files) == 2
        return
    run = session(files[0])
    ids, mask = ids_of(2, 9), torch.ones(2, 9, dtype=torch.int64)
    mask[1, 6:] = 0
    fed = feed(input_ids=ids, attention_mask=mask)
    if config.type_vocab:
        fed["token_type_ids"] = np.zeros((2, 9), np.int64)
    (hidden,) = run.run(["last_hidden_state"], fed)
    wanted = model(bidirectional_batch(ids, valid=mask > 0)).hidden.numpy()
    seen = (mask > 0).numpy()
    np.testing.assert_allclose(hidden[seen], wanted[seen], atol=1e-4, rtol=1e-4)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a Linear is not written as ONNX"):
        export_onnx(nn.Linear(2, 2), tmp_path)


def test_sparse_attention(tmp_path: Path) -> None:
    """A graph has the layout as a mask of all pairs; without a cache, for that does not know positions."""
    model = model_of("bert", sparse={"kind": "bigbird", "block": 4, "per_head": True})
    (file,) = export_onnx(model, tmp_path)
    ids, mask = ids_of(2, 37), torch.ones(2, 37, dtype=torch.int64)
    mask[1, 30:] = 0
    wanted = model(bidirectional_batch(ids, valid=mask > 0))
    (found,) = session(file).run(["last_hidden_state"], feed(input_ids=ids, attention_mask=mask))
    seen = (mask > 0).numpy()
    np.testing.assert_allclose(found[seen], wanted.hidden.numpy()[seen], atol=2e-4, rtol=1e-4)
    causal = model_of("gpt2", sparse={"kind": "sliding_window", "attention": "unidirectional"})
    with pytest.raises(UsageError, match="goes by the positions of tokens seen before"):
        export_onnx(causal, tmp_path, causal=True)
