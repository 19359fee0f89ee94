"""Write models as ONNX graphs with free numbers of rows and tokens.

torch.export records the model's own forward and torch.onnx translates it, so the graph is the model and no
second description of it. Opset 20 is the newest that every runtime in use reads whole and the first with
GELU as one operator; attention is written out in products and a softmax, which any runtime has.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mainspring.errors import UsageError, require
from mainspring.finetune.pooling import Embedder
from mainspring.infer.onnx.experts import graph_experts
from mainspring.infer.onnx.graphs import DecoderGraph, EncoderGraph, SourceGraph, TargetGraph, TaskGraph
from mainspring.infer.onnx.quantize import quantize_file
from mainspring.nn.config import TransformerConfig
from mainspring.nn.transformer import Transformer

OPSET = 20
"""Version of ONNX's operators that graphs are written in."""
ROWS, TOKENS, PAST, SOURCE = 2, 3, 4, 5
"""Sizes of what a graph is recorded with; all stay free in it."""


@dataclass(frozen=True)
class _Recording:
    """A module, and what it is recorded with."""

    module: nn.Module
    arguments: tuple[Any, ...]
    inputs: list[str]
    outputs: list[str]
    free: tuple[Any, ...]
    """Names of the free sizes of each argument."""


def export_onnx(
    model: nn.Module, to: str | Path, *, causal: bool = False, int8: bool = False, opset: int = OPSET
) -> tuple[Path, ...]:
    """Write a model as ONNX.

    Args:
        model: a `Transformer`, or over one a task model (`mainspring.finetune.heads`) or an embedder
            (`mainspring.finetune.pooling`); fp32, on the CPU.
        to: folder to write: `model.onnx`, or of an encoder-decoder `encoder.onnx` and `decoder.onnx`.
        causal: whether it writes text from left to right: then the graph takes and gives a key-value cache.
        int8: store matrices as int8 with a scale for each channel, and dequantise them in the graph (QDQ).
        opset: version of ONNX's operators.

    Returns:
        The files.

    Raises:
        UsageError: the model is spread over ranks, reads whole rows and should be causal, or does something
            that no graph can.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    require("onnx", "onnx")
    require("onnxscript", "onnx")
    folder = Path(to)
    folder.mkdir(parents=True, exist_ok=True)
    was = model.training
    model.eval()
    try:
        recordings = _recordings(model, causal)
        with graph_experts(model):
            files = tuple(_write(one, folder / name, opset) for name, one in recordings.items())
    finally:
        model.train(was)
    if int8:
        for file in files:
            quantize_file(file)
    return files


def _recordings(model: nn.Module, causal: bool) -> dict[str, _Recording]:
    """What is written, by file."""
    transformer = model if isinstance(model, Transformer) else getattr(model, "encoder", None)
    if not isinstance(transformer, Transformer):
        raise UsageError(f"a {type(model).__name__} is not written as ONNX: a Transformer or a task model is")
    config = transformer.config
    if transformer.peers.size > 1:
        raise UsageError("the model is cut over ranks; export a whole one (parallel.full_state)")
    if model is not transformer:
        given = "sentence_embedding" if isinstance(model, Embedder) else "logits"
        return {"model.onnx": _encoder(TaskGraph(model), config, [given])}
    if config.sparse is not None and (causal or config.is_encoder_decoder):
        raise UsageError(
            "sparse attention goes by the positions of tokens seen before, and a graph with a cache knows "
            "their places alone; export an encoder, or run the model here"
        )
    if config.is_encoder_decoder:
        return {"encoder.onnx": _source(transformer), "decoder.onnx": _target(transformer)}
    if causal:
        if transformer.conv is not None or config.mask_decoder:
            raise UsageError(
                "a model with a convolution or a mask decoder reads whole rows: it takes no cache"
            )
        return {"model.onnx": _decoder(transformer)}
    outputs = ["last_hidden_state"]
    outputs += ["logits"] if config.head != "none" else []
    outputs += ["pooler_output"] if config.pooler else []
    outputs += ["pair_logits"] if config.pooler and config.pair_classes else []
    return {"model.onnx": _encoder(EncoderGraph(transformer), config, outputs)}


def _encoder(module: nn.Module, config: TransformerConfig, outputs: list[str]) -> _Recording:
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.int64)
    names, arguments = ["input_ids", "attention_mask"], [ids, torch.ones_like(ids)]
    if config.type_vocab:
        names.append("token_type_ids")
        arguments.append(ids.clone())
    free = tuple({0: "batch", 1: "sequence"} for _ in arguments)
    return _Recording(module, tuple(arguments), names, outputs, free)


def _cache(config: TransformerConfig, tokens: int) -> list[Tensor]:
    shape = (ROWS, config.n_heads, tokens, config.head_width)
    return [torch.zeros(shape) for _ in range(2 * config.depth)]


def _cache_names(prefix: str, config: TransformerConfig, inner: str = "") -> list[str]:
    return [f"{prefix}.{n}{inner}.{kind}" for n in range(config.depth) for kind in ("key", "value")]


def _step(config: TransformerConfig) -> tuple[list[Tensor], list[str], list[dict[int, str]]]:
    """New tokens: arguments, their names and free sizes."""
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.int64)
    mask = torch.ones(ROWS, PAST + TOKENS, dtype=torch.int64)
    tokens = {0: "batch", 1: "sequence"}
    return (
        [ids, mask, ids + PAST],
        ["input_ids", "attention_mask", "position_ids"],
        [tokens, {0: "batch", 1: "total_sequence"}, tokens],
    )


def _decoder(model: Transformer) -> _Recording:
    config = model.config
    arguments, names, free = _step(config)
    past = [{0: "batch", 2: "past_sequence"} for _ in range(2 * config.depth)]
    return _Recording(
        DecoderGraph(model),
        (*arguments, _cache(config, PAST)),
        [*names, *_cache_names("past_key_values", config)],
        ["logits", *_cache_names("present", config)],
        (*free, past),
    )


def _source(model: Transformer) -> _Recording:
    ids = torch.zeros(ROWS, SOURCE, dtype=torch.int64)
    free = {0: "batch", 1: "encoder_sequence"}
    outputs = ["last_hidden_state", *_cache_names("present", model.config, ".encoder")]
    names = ["input_ids", "attention_mask"]
    return _Recording(SourceGraph(model), (ids, torch.ones_like(ids)), names, outputs, (free, free))


def _target(model: Transformer) -> _Recording:
    config = model.config
    arguments, names, free = _step(config)
    mask = torch.ones(ROWS, SOURCE, dtype=torch.int64)
    cross = [{0: "batch", 2: "encoder_sequence"} for _ in range(2 * config.depth)]
    past = [{0: "batch", 2: "past_sequence"} for _ in range(2 * config.depth)]
    return _Recording(
        TargetGraph(model),
        (*arguments, mask, _cache(config, SOURCE), _cache(config, PAST)),
        [
            *names,
            "encoder_attention_mask",
            *_cache_names("past_key_values", config, ".encoder"),
            *_cache_names("past_key_values", config),
        ],
        ["logits", *_cache_names("present", config)],
        (*free, {0: "batch", 1: "encoder_sequence"}, cross, past),
    )


def _write(recording: _Recording, file: Path, opset: int) -> Path:
    dynamic = torch.export.Dim.DYNAMIC
    shapes = _map(recording.free, lambda sizes: dict.fromkeys(sizes, dynamic))
    # Torch's exporter warns of itself (deprecated names, how it treats its arguments) on every call, and logs
    # what it does with each; neither is about the model.
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                recording.module,
                recording.arguments,
                dynamo=True,
                opset_version=opset,
                input_names=recording.inputs,
                output_names=recording.outputs,
                dynamic_shapes=shapes,
                verbose=False,
                external_data=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().splitlines()
        raise UsageError(
            f"{type(recording.module).__name__}: torch cannot write this model as a graph: {cause[0][:200]}"
        ) from error
    finally:
        log.setLevel(level)
    assert program is not None
    _name_sizes(program.model.graph.inputs, _flat(recording.free))
    large = sum(p.numel() * p.element_size() for p in recording.module.parameters()) > 1 << 30
    program.save(str(file), external_data=large)
    return file


def _map(free: Any, change: Callable[[dict[int, str]], Any]) -> Any:
    if isinstance(free, dict):
        return change(free)
    return type(free)(_map(one, change) for one in free)


def _flat(free: Any) -> list[dict[int, str]]:
    if isinstance(free, dict):
        return [free]
    return [sizes for one in free for sizes in _flat(one)]


def _name_sizes(inputs: Sequence[Any], free: Sequence[dict[int, str]]) -> None:
    """Give the inputs' free sizes names that a person can read."""
    ir = require("onnx_ir", "onnx")
    for value, sizes in zip(inputs, free, strict=True):
        named = [sizes.get(n, size) for n, size in enumerate(value.shape)]
        value.shape = ir.Shape(named)
