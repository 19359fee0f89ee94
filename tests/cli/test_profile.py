"""`mainspring profile`: measure, cut, write, cut anew."""

from __future__ import annotations

import json
from pathlib import Path

from cli.conftest import Command


def test_a_recipe_is_measured_cut_and_cut_anew(command: Command, tmp_path: Path) -> None:
    small = ["data.seq_len=16", "model.config.d_model=32", "model.config.d_ff=64", "model.config.n_heads=2"]
    asked = ["--minibatches", 2, "--workers", 2, "--bandwidth", 100, "--to", tmp_path]
    code, words, err = command("profile", "gpt2-tiny", *small, *asked)
    assert code == 0, err
    assert "head" in words and "ms a minibatch" in words and "on 2 workers" in words
    assert (tmp_path / "profile.svg").stat().st_size > 5000
    assert "stage_id=" in (tmp_path / "graph.txt").read_text()
    for name in ("profile.json", "graph.txt"):
        again = command("profile", tmp_path / name, "--workers", "2x2", "--bandwidth", "1000x10", "--json")
        found = json.loads(again.out)
        assert sum(stage["replicas"] for stage in found["cut"]["stages"]) == 4
        assert len(found["profile"]["nodes"]) == words.count("Block") + 2


def test_wrong_input_is_told(command: Command, tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text("{}")
    code, _, err = command("profile", tmp_path / "profile.json")
    assert code == 2 and "no profile" in err
    node = {"name": "a", "forward": 1, "backward": 1, "activation_bytes": 1, "parameter_bytes": 1}
    (tmp_path / "one.json").write_text(json.dumps({"nodes": [node]}))
    code, _, err = command("profile", tmp_path / "one.json", "--workers", "2x2")
    assert code == 2 and "as in 8x4" in err
    code, _, err = command("profile", tmp_path / "one.json", "data.seq_len=8")
    assert code == 2 and "does not apply" in err
