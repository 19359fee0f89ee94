"""Shards in actors of a local Ray: the results of one index; a killed one is named, and comes back."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mainspring.products.search import Document, Index
from mainspring.products.search.shards import shard_of, split
from support.hashed_words import HashedWords

HERE = Path(__file__).parent
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "search" / "ray" / "search.py"
WORDS = ("spring", "river", "watch", "steel", "energy", "volcano", "meadow")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'mainspring[ray]'"
    ),
]


def documents() -> list[Document]:
    return [
        Document(
            f"d{n}",
            " ".join(WORDS[(n * k) % 7] for k in range(1, 3 + n % 30)) + f" number{n}",
            WORDS[n % 7] if n % 2 else "",
            language="en",
        )
        for n in range(60)
    ]


def environment() -> dict[str, str]:
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    return {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_a_killed_shard_is_named_and_comes_back(tmp_path: Path) -> None:
    query = "the energy of a spring in a river"
    with Index.create(tmp_path / "whole", encoder=HashedWords()) as whole:
        whole.add(documents())
        split(whole, tmp_path / "shards", 3)
        expected = whole.search(query, top=200).hits
    command = [sys.executable, str(HERE / "ray_rounds.py"), str(tmp_path / "shards"), query]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=280)
    assert ran.returncode == 0, ran.stderr
    rounds = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    for complete in (rounds[0], rounds[-1]):
        assert complete["lost"] == []
        assert [key for key, _, _ in complete["hits"]] == [hit.key for hit in expected]
        for (_, score, relevance), hit in zip(complete["hits"], expected, strict=True):
            assert score == pytest.approx(hit.score, rel=1e-5)
            assert relevance == (None if hit.relevance is None else pytest.approx(hit.relevance, rel=1e-4))
    partial = [r for r in rounds if r["lost"]]
    assert partial
    for report in partial:
        assert report["lost"] == ["shard-001"]
        left = {hit.key for hit in expected if shard_of(hit.key, 3) != 1}
        assert {key for key, _, _ in report["hits"]} == left


def test_the_example_answers(tmp_path: Path) -> None:
    with Index.create(tmp_path / "whole", encoder=None) as whole:
        whole.add(documents())
        split(whole, tmp_path / "shards", 2)
        expected = [hit.key for hit in whole.search("steel volcano", top=5).hits]
    command = [sys.executable, str(EXAMPLE), str(tmp_path / "shards"), "--address", "local", "--cores", "0.5"]
    ran = subprocess.run(
        command, input="steel volcano\nzzz\n", capture_output=True, text=True, env=environment(), timeout=280
    )
    assert ran.returncode == 0, ran.stderr
    said = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert said[0] == {"shards": ["shard-000", "shard-001"]}
    assert [hit["key"] for hit in said[1]["hits"]] == expected
    assert said[2] == {"hits": [], "lost": []}
