"""Graphs for tests: ONNX's own cases for every operator, graphs exported from torch, and how to compare."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mainspring.models.onnx.types import of_array


class Case(NamedTuple):
    """A graph of one operator, with inputs and the outputs that ONNX gives for them."""

    name: str
    model: Any
    data: list[tuple[list[Any], list[Any]]]
    rtol: float
    atol: float


def node_cases() -> list[Case]:
    """All cases of `onnx.backend.test`: their inputs are made here, which takes some seconds."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    return [Case(c.name, c.model, c.data_sets, c.rtol, c.atol) for c in found]


def as_torch(value: Any) -> Any:
    """What a case gives, as a graph takes it."""
    import onnx

    if value is None:
        return None
    if isinstance(value, list | tuple):
        return [as_torch(one) for one in value]
    if isinstance(value, onnx.SequenceProto | onnx.OptionalProto):
        value = onnx.numpy_helper.to_list(value) if isinstance(value, onnx.SequenceProto) else None
        return None if value is None else [as_torch(one) for one in value]
    if hasattr(value, "SerializeToString"):
        value = onnx.numpy_helper.to_array(value)
    return of_array(np.asarray(value))


def assert_equal(found: Any, wanted: Any, rtol: float, atol: float) -> None:
    """Compare shapes, types and values."""
    if wanted is None:
        assert found is None
        return
    if isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_equal(one, other, rtol, atol)
        return
    target = as_torch(wanted)
    assert found.shape == target.shape, f"{list(found.shape)} for {list(target.shape)}"
    assert found.dtype == target.dtype, f"{found.dtype} for {target.dtype}"
    wide = torch.complex128 if found.is_complex() else torch.float64
    # A rounding or two at the size of 1.
    atol = max(atol, {torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(found.dtype, 0.0))
    torch.testing.assert_close(
        found.detach().to(wide), target.to(wide), rtol=rtol, atol=max(atol, 1e-6), equal_nan=True
    )


def run_case(case: Case) -> None:
    """Run a case and compare.

    Raises:
        UsageError: an operator of it is not supported.
    """
    from mainspring.models.onnx import read_onnx

    outputs = [value.name for value in case.model.graph.output]
    module = read_onnx(case.model, outputs=outputs).module
    names = [value.name for value in case.model.graph.input]
    for inputs, wanted in case.data:
        given = {n: as_torch(v) for n, v in zip(names, inputs, strict=False) if n in module.inputs}
        found = module(**given)
        for name, target in zip(outputs, wanted, strict=True):
            assert_equal(found[name], target, case.rtol, case.atol)


def export_torch(model: nn.Module, arguments: tuple[Tensor, ...], to: Path, opset: int, **names: Any) -> Path:
    """Export a torch module; by torch's older exporter below opset 18, which the newer one begins at."""
    model.eval()
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, arguments, str(to), opset_version=opset, dynamo=opset >= 18, verbose=False, **names
        )
    return to


def runtime(file: Path | bytes, feeds: dict[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
    """What ONNX Runtime gives for a graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    source = file if isinstance(file, bytes) else str(file)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    arrays = {n: v.detach().numpy() if isinstance(v, Tensor) else v for n, v in feeds.items()}
    found: list[Any] = session.run(list(outputs) if outputs else None, arrays)
    return found
