"""The examples of starting a run elsewhere: shell that parses, YAML that is well formed, options that
exist."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import get_args_parser

from mainspring import recipes
from mainspring.config import apply_overrides
from mainspring.train import Recipe

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "launch"
yaml = pytest.importorskip("yaml")


def check_command(arguments: list[str], environment: dict[str, str] | None = None) -> Any:
    """Read a torchrun command line with torchrun's own parser, and the recipe and overrides with ours."""
    parsed = get_args_parser().parse_args(arguments)
    assert parsed.module and parsed.training_script == "mainspring"
    command, recipe, *rest = parsed.training_script_args
    assert command == "train"
    target, overrides = [], []
    for word in rest:
        (target if word.startswith("--to") or not target or target[-1] == "--to" else overrides).append(word)
    assert target[0].startswith("--to")
    loaded = recipes.load(recipe, overrides)
    assert isinstance(loaded, Recipe) and apply_overrides({}, overrides)
    return parsed, loaded


def run_script(script: str, tmp_path: Path, *arguments: str, **variables: str) -> list[str]:
    """Run a script with a `torchrun` (and Slurm's commands) that only write down how they were called."""
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, body in {
        "torchrun": 'printf "%s\\n" "$@" > "$RECORD"',
        "srun": 'shift; "$@"',
        "scontrol": "echo node1; echo node2",
    }.items():
        (stubs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (stubs / name).chmod(0o755)
    record = tmp_path / "record"
    environment = {**os.environ, "PATH": f"{stubs}:{os.environ['PATH']}", "RECORD": str(record), **variables}
    subprocess.run(["bash", str(EXAMPLES / script), *arguments], env=environment, check=True, timeout=30)
    return record.read_text().splitlines()


@pytest.mark.parametrize("script", ["torchrun.sh", "slurm.sbatch"])
def test_shell_parses(script: str) -> None:
    subprocess.run(["bash", "-n", str(EXAMPLES / script)], check=True, timeout=30)


@pytest.mark.parametrize(("nodes", "data", "elastic"), [("2", 16, False), ("1:2", 8, True)])
def test_torchrun(tmp_path: Path, nodes: str, data: int, elastic: bool) -> None:
    called = run_script(
        "torchrun.sh",
        tmp_path,
        "gpt2-small",
        "/shared/runs/a",
        "train.steps=7",
        HEAD="node1:29500",
        NODES=nodes,
        RANKS="8",
    )
    parsed, recipe = check_command(called)
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.rdzv_endpoint) == (nodes, "8", "node1:29500")
    assert (recipe.plan.data, recipe.train.elastic, recipe.train.steps) == (data, elastic, 7)


def test_slurm(tmp_path: Path) -> None:
    called = run_script(
        "slurm.sbatch",
        tmp_path,
        "gpt2-small",
        "/shared/runs/a",
        SLURM_JOB_NODELIST="node[1-2]",
        SLURM_JOB_ID="12345",
        SLURM_JOB_NUM_NODES="2",
        SLURM_GPUS_ON_NODE="4",
        SLURM_CPUS_PER_TASK="32",
    )
    parsed, recipe = check_command(called)
    assert parsed.rdzv_endpoint == "node1:32345" and recipe.plan.data == 8


@pytest.mark.parametrize("file", sorted(p.name for p in (EXAMPLES / "kubernetes").glob("*.yaml")))
def test_kubernetes(file: str) -> None:
    documents = list(yaml.safe_load_all((EXAMPLES / "kubernetes" / file).read_text()))
    containers = [c for d in documents for c in _find(d, "containers")]
    assert len(containers) == 1
    parsed, recipe = check_command(containers[0]["args"])
    volumes = {v["name"] for d in documents for v in _find(d, "volumes")}
    assert {m["name"] for m in containers[0]["volumeMounts"]} == volumes
    if file == "job.yaml":
        service, job = documents
        assert parsed.rdzv_endpoint == f"{job['metadata']['name']}-0.{service['metadata']['name']}:29500"
        assert job["spec"]["completions"] == job["spec"]["parallelism"] == int(parsed.nnodes)
        assert recipe.plan.data == int(parsed.nnodes) * int(parsed.nproc_per_node)
        assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    else:
        assert recipe.train.elastic


def _find(node: Any, key: str) -> list[Any]:
    """All items of the lists called `key` in a tree."""
    if isinstance(node, list):
        return [found for child in node for found in _find(child, key)]
    if not isinstance(node, dict):
        return []
    here = node[key] if isinstance(node.get(key), list) else []
    return [*here, *(found for child in node.values() for found in _find(child, key))]


def test_the_readme_names_every_file() -> None:
    text = (EXAMPLES / "README.md").read_text()
    for file in EXAMPLES.rglob("*"):
        if file.is_file() and file.name != "README.md":
            assert file.relative_to(EXAMPLES).as_posix() in text
