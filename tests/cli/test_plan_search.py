"""`mainspring plan --world --device`: the search, its reasons, its check, and a run that cannot fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Command
from support.tiny_run import overrides


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


def test_states_that_the_disk_has_no_room_for_are_refused(
    command: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mainspring.planner.machine.available_disk", lambda folder: 2**16)
    run, tier = tmp_path / "run", tmp_path / "tier"
    disk = ["plan.zero=3", "plan.offload=disk", f'plan.offload_folder="{tier}"']
    code, _, err = command("train", "gpt2-tiny", *overrides(data), *disk, "--to", run)
    assert code == 2, err
    assert "on disk" in err and "optimizer" in err and "has 64.0 KiB" in err
    assert not tier.exists() and not any((run / "checkpoints").iterdir())


def test_a_world_that_the_rows_do_not_divide_by(command: Command) -> None:
    asked = ["plan", "gpt2-tiny", "--device", "h200", "train.batch_tokens=1024", "data.seq_len=64"]
    code, _, err = command(*asked, "--world", 3)
    assert code == 2
    assert "16 rows do not divide by data = 3; nearest global batch: 15 or 18 rows" in err


def test_a_device_that_nothing_fits_on(command: Command, tmp_path: Path) -> None:
    """With what lacks least and its numbers; the JSON is whole all the same."""
    more = tmp_path / "more.toml"
    more.write_text(
        "[crumb]\nflops = { fp32 = 1e12 }\nmemory = 1_000_000\nmemory_bandwidth = 1e11\n"
        "link_bandwidth = 1e10\nnetwork_bandwidth = 1e9\n"
    )
    code, words, err = command(
        "plan", "gpt2-tiny", "--world", 2, "--device", "crumb", "--devices", more, "--json"
    )
    assert code == 2 and json.loads(words)["fits"] == 0
    assert "no plan fits; the nearest is plan.data=" in err and "a rank needs" in err and "has 977 KiB" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[mine]\nmemory = 1\n", ["[mine]", "flops"]),
        ("[mine\n", ["no table of devices can be read"]),
        ("mine = 3\n", ["[mine] should be a table"]),
        ("[mine]\nflops = { fp32 = 1 }\nmemroy = 1\n", ["[mine]", "memory"]),
    ],
)
def test_a_file_of_devices_that_does_not_fit(
    command: Command, tmp_path: Path, text: str, said: list[str]
) -> None:
    more = tmp_path / "more.toml"
    more.write_text(text)
    code, _, err = command("plan", "gpt2-tiny", "--world", 2, "--device", "mine", "--devices", more)
    assert code == 2 and all(part in err for part in [str(more), *said]), err
    code, _, err = command(
        "plan", "gpt2-tiny", "--world", 2, "--device", "mine", "--devices", tmp_path / "no.toml"
    )
    assert code == 2 and "no.toml" in err
