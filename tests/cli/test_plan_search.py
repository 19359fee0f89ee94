"""`mainspring plan --world --device`: the search, its reasons, its check, and a run that cannot fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Command


def test_turing_nlg_over_256_gpus(command: Command) -> None:
    code, words, _ = command("plan", "turing-nlg-17b", "--world", 256, "--device", "v100-32g", "--explain")
    assert code == 0
    assert "best: plan.data=" in words and "plan.pipeline_schedule=zero_bubble" in words
    assert "best of those that run today: plan.data=" in words
    assert "heads do not divide" in words and "a rank needs" in words
    for kind in ("parameters", "gradients", "optimizer", "activations", "buffers", "fragmentation"):
        assert kind in words


def test_as_json_every_candidate_has_its_numbers(command: Command, tmp_path: Path) -> None:
    more = tmp_path / "more.toml"
    more.write_text(
        "[tiny]\nflops = { fp32 = 1e12 }\nmemory = 300_000_000\nmemory_bandwidth = 1e11\n"
        "link_bandwidth = 1e10\nnetwork_bandwidth = 1e9\nreserved = 0\n"
    )
    asked = ["plan", "gpt2-tiny", "--world", 4, "--device", "tiny", "--devices", more, "--json", "--explain"]
    found = json.loads(command(*asked, "train.batch_tokens=16384", "data.seq_len=256").out)
    assert found["world"] == 4 and found["fits"] > 0 and found["pareto"]
    assert len(found["reasons"]) == found["rejected"] > 0
    assert all(one["reason"] for one in found["reasons"])
    assert all(sum(one["device_bytes"].values()) <= 300_000_000 for one in found["pareto"])


@pytest.mark.parametrize("name", ["electra-tiny", "infoxlm-tiny", "zcode-tiny"])
def test_recipes_of_several_networks(command: Command, name: str) -> None:
    code, words, err = command("plan", name, "--world", 2, "--device", "h100-80g")
    assert code == 0, err
    assert "best:" in words


def test_an_unknown_device_names_the_nearest(command: Command) -> None:
    code, _, err = command("plan", "gpt2-tiny", "--world", 2, "--device", "h100-80")
    assert code == 2 and "h100-80g" in err


def test_a_run_that_cannot_fit_is_refused_before_it_allocates(
    command: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the numbers and a plan that would fit; nothing is killed."""
    wide = ["model.config.d_model=65536", "model.config.d_ff=262144", "model.config.n_layers=64"]
    run = tmp_path / "run"
    code, _, err = command("train", "gpt2-tiny", f"data.path={data}", "data.seq_len=32", *wide, "--to", run)
    assert code == 2, err
    assert "a rank that computes one row" in err and "optimizer" in err and "TiB" in err
    assert not (run / "checkpoints").exists() or not any((run / "checkpoints").iterdir())
