"""A packed model is there at once: what loading it imports, and how long both take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mainspring.infer.opening import pack_model
from support.toy import export_toy

LOAD = """
import json, sys, time
start = time.process_time()
import torch
before, began = set(sys.modules), time.process_time()
from mainspring.infer import Engine
imported = time.process_time()
engine = Engine.load(sys.argv[1], precision=sys.argv[2])
done = time.process_time()
names = sorted(set(sys.modules) - before)
engine.generate(["the cat"])
print(json.dumps({"torch": began - start, "ours": done - began, "modules": names}))
"""
HEAVY = (
    "torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.distributed.fsdp",
    "torch.distributed.checkpoint", "torch.distributed.pipelining", "torch.nn.attention.flex_attention",
    "onnx", "onnxscript", "fastapi", "uvicorn", "typer", "rich", "tantivy", "sklearn", "matplotlib",
    "mainspring.planner", "mainspring.train.trainer", "mainspring.parallel.api", "mainspring.products",
)  # fmt: skip
"""What a model that is packed is run without."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with packed weights; the kernels have been built."""
    folder = export_toy(tmp_path_factory.mktemp("start") / "toy")
    pack_model(folder, "fp32")
    pack_model(folder, "int8")
    return folder


def started(toy: Path, precision: str) -> dict[str, Any]:
    command = [sys.executable, "-c", LOAD, str(toy), precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_loading_takes_moments_and_imports_what_it_needs(toy: Path, precision: str) -> None:
    found = started(toy, precision)
    assert not [name for name in found["modules"] if name.startswith(HEAVY)]
    # Seconds of the processor, beside what torch itself takes to import, on whatever machine this is: half.
    assert found["ours"] < found["torch"]
