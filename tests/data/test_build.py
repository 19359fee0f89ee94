"""Building token shards: what is in them, that equal text gives equal files, that crashes leave no half."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mainspring.config import parse
from mainspring.data import (
    BuildConfig,
    Document,
    SourceConfig,
    TokenData,
    build,
    build_from,
    shards,
    source_of,
)
from mainspring.data import build as package_build
from mainspring.data.build import Progress
from mainspring.errors import ConfigError, DataError, TokenizerError
from mainspring.text import NormalizeConfig, Tokenizer, TokenizerSpec, normalize, train_tokenizer

build_module = __import__("sys").modules[package_build.__module__]


def texts_of(data: TokenData, split: str) -> list[str]:
    tokenizer = data.tokenizer
    found = []
    for stream in data.split(split).values():
        for index in range(stream.documents):
            ids = stream.document(index)
            assert ids[-1] == data.separator
            found.append(tokenizer.decode(ids[:-1].tolist()))
    return found


def files(place: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(place.rglob("*")) if p.is_file()
    }


def test_every_document_comes_back(documents: Sequence[Document], data: TokenData) -> None:
    found = Counter(texts_of(data, "train") + texts_of(data, "holdout"))
    assert found == Counter(normalize(d.text, NormalizeConfig()) for d in documents)


def test_streams_hold_the_documents_in_order(documents: Sequence[Document], data: TokenData) -> None:
    held = set(texts_of(data, "holdout"))
    expected = [t for d in documents if (t := normalize(d.text, NormalizeConfig())) not in held]
    assert texts_of(data, "train") == expected


def test_counts_agree_everywhere(documents: Sequence[Document], data: TokenData) -> None:
    for split in ("train", "holdout"):
        for stream in data.split(split).values():
            window = stream.window(0, stream.tokens)
            assert (window.ids == data.separator).sum() == stream.documents
            assert data.tokenizer.token_bytes(window.ids) == stream.bytes
    total = sum(info.documents[s] for info in data.sources.values() for s in info.documents)
    assert total == len(documents)
    assert data.sources["udhr"].tokens["train"] == data.split("train")["udhr"].tokens


def test_same_text_gives_the_same_files(
    documents: Sequence[Document], tokenizer: Tokenizer, data: TokenData, tmp_path: Path
) -> None:
    build(documents, tokenizer, tmp_path, holdout=0.1)
    assert files(tmp_path) == files(data.directory)
    (tmp_path / "shards" / "leftover.tmp").write_bytes(b"from a crash")
    build(documents, tokenizer, tmp_path, holdout=0.1)
    assert files(tmp_path) == files(data.directory)


def test_names_are_hashes_of_content(data: TokenData) -> None:
    assert data.manifest["shards"]
    for name, entry in data.manifest["shards"].items():
        parts = [
            hashlib.sha256((data.directory / "shards" / f"{name}.{end}").read_bytes())
            for end in ("bin", "idx")
        ]
        assert [part.hexdigest() for part in parts] == [entry["bin_sha256"], entry["idx_sha256"]]
        assert hashlib.sha256(parts[0].digest() + parts[1].digest()).hexdigest()[:32] == name


def test_a_new_build_replaces_the_old(
    documents: Sequence[Document], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    build(documents[:20], tokenizer, tmp_path)
    before = set((tmp_path / "shards").iterdir())
    report = build(documents[:30], tokenizer, tmp_path)
    after = set((tmp_path / "shards").iterdir())
    assert not before & after
    assert len(after) == 2 * report.shards
    TokenData.open(tmp_path, verify=True)


def test_small_shards_hold_the_same_streams(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    data: TokenData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build_module, "SHARD_TOKENS", 5_000)
    report = build(documents, tokenizer, tmp_path, holdout=0.1)
    assert report.shards > 10
    split = TokenData.open(tmp_path, verify=True)
    for part, name in itertools.product(("train", "holdout"), ("docs", "udhr")):
        ours, whole = split.split(part)[name], data.split(part)[name]
        assert (ours.tokens, ours.documents, ours.bytes) == (whole.tokens, whole.documents, whole.bytes)
        for start in range(0, ours.tokens - 700, 997):
            one, other = ours.window(start, 700), whole.window(start, 700)
            assert np.array_equal(one.ids, other.ids)
            assert np.array_equal(one.doc, other.doc)
        assert np.array_equal(ours.document(ours.documents - 1), whole.document(ours.documents - 1))


def test_a_crash_leaves_the_previous_build(
    documents: Sequence[Document], tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(documents[:20], tokenizer, tmp_path)
    kept = texts_of(TokenData.open(tmp_path, verify=True), "train")
    monkeypatch.setattr(build_module, "SHARD_TOKENS", 3_000)
    real, calls = shards.write_shard, iter(range(100))

    def failing(*arguments: object) -> object:
        if next(calls) == 2:
            raise OSError("disk full")
        return real(*arguments)

    monkeypatch.setattr(shards, "write_shard", failing)
    with pytest.raises(OSError, match="disk full"):
        build(documents, tokenizer, tmp_path)
    assert texts_of(TokenData.open(tmp_path, verify=True), "train") == kept
    assert not list(tmp_path.rglob("*.tmp"))


def test_holdout_goes_by_text(documents: Sequence[Document], tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Copies are on one side, order does not matter, and a larger share holds the smaller one."""
    doubled = [*documents, *(d._replace(source="copy") for d in reversed(documents))]
    build(doubled, tokenizer, tmp_path / "a", holdout=0.3)
    both = TokenData.open(tmp_path / "a")
    held = texts_of(both, "holdout")
    assert all(count == 2 for count in Counter(held).values())
    assert not set(held) & set(texts_of(both, "train"))
    assert 0.15 < len(held) / len(doubled) < 0.45
    build(documents, tokenizer, tmp_path / "b", holdout=0.1)
    assert set(texts_of(TokenData.open(tmp_path / "b"), "holdout")) < set(held)


@pytest.mark.parametrize("holdout", [0.001, 0.999])
def test_few_documents_still_have_both_sides(tokenizer: Tokenizer, tmp_path: Path, holdout: float) -> None:
    few = [Document(f"document number {i}", "s", None, str(i)) for i in range(3)]
    report = build(few, tokenizer, tmp_path, holdout=holdout)
    assert report.documents == {"train": 2, "holdout": 1}
    assert not report.warnings


def test_one_document_is_warned_about(tokenizer: Tokenizer, tmp_path: Path) -> None:
    report = build([Document("alone", "s", None, "0")], tokenizer, tmp_path)
    assert report.documents == {"train": 1, "holdout": 0}  # though its hash is among the lowest 2 %
    assert "nothing is held out" in report.warnings[0]
    assert build([Document("alone", "s", None, "0")], tokenizer, tmp_path, holdout=0.0).warnings == []


def test_large_vocabularies_take_four_bytes(documents: Sequence[Document], tmp_path: Path) -> None:
    import tokenizers

    vocab = {f"t{i}": i for i in range(70_000)} | {"[UNK]": 70_000, "</s>": 70_001}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    build([Document("t69999 t3", "s", None, "0")], Tokenizer(inner), tmp_path, holdout=0.0)
    data = TokenData.open(tmp_path)
    assert data.manifest["dtype"] == "uint32"
    assert data.split("train")["s"].window(0, 3).ids.tolist() == [69_999, 3, 70_001]


def test_tokenizer_is_trained_on_a_sample(documents: Sequence[Document], tmp_path: Path) -> None:
    stages: list[Progress] = []
    spec = TokenizerSpec(vocab_size=500, sample_bytes=100_000)
    report = build(documents, spec, tmp_path, progress=stages.append)
    assert TokenData.open(tmp_path, verify=True).tokenizer.vocab_size == report.vocab_size == 500
    assert {p.stage for p in stages} >= {"sample", "tokenizer", "encode"}
    trained_on = next(p for p in stages if p.stage == "tokenizer")
    assert 50_000 < trained_on.bytes <= 100_000
    assert report.tokenizer_seconds > 0


def test_sources_from_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(
            json.dumps({"text": f"line {i} of text", "l": ["eng", "fra"][i % 2]}) + "\n" for i in range(40)
        )
        + "{\n"
    )
    (tmp_path / "b.txt").write_text("\n".join(f"paragraph {i}\n" for i in range(30)))
    config = parse(
        BuildConfig,
        {
            "sources": [
                {"name": "a", "path": str(tmp_path / "a.jsonl"), "lang_field": "l", "split_languages": True},
                {"name": "b", "path": str(tmp_path / "b.txt"), "documents": "paragraph", "lang": "en"},
            ],
            "tokenizer": {"kind": "bpe", "vocab_size": 300},
            "holdout": 0.2,
        },
    )
    report = build_from(config, tmp_path / "out")
    data = TokenData.open(tmp_path / "out", verify=True)
    assert list(data.split("train")) == ["a/en", "a/fr", "b"]
    assert {n: (s.source, s.lang) for n, s in data.split("train").items()}["a/fr"] == ("a", "fr")
    assert data.sources["a"].langs == ("en", "fr")
    assert sum(report.documents.values()) == 70
    assert report.faults == 1
    assert report.sources["a"].examples[0].line == 41
    assert data.manifest["read"]["a"]["faults"] == 1
    again = build_from(config.replace(tokenizer=str(tmp_path / "out")), tmp_path / "second")
    assert again.tokenizer_seconds == 0
    assert files(tmp_path / "second") == files(tmp_path / "out")


def test_sources_larger_than_the_replay_are_read_again(
    documents: Sequence[Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TokenizerSpec(vocab_size=400, sample_bytes=4096)
    build(documents, spec, tmp_path / "a")
    monkeypatch.setattr(build_module, "REPLAY", 1000)
    monkeypatch.setattr(build_module, "SCAN", 1000)
    report = build(documents, spec, tmp_path / "b")
    assert (
        sum(report.documents.values()) == len(documents) == sum(r.documents for r in report.sources.values())
    )


def test_what_cannot_be_built_is_an_error(tokenizer: Tokenizer, tmp_path: Path) -> None:
    document = Document("text", "s", None, "0")
    with pytest.raises(DataError, match="no sources"):
        build([], tokenizer, tmp_path)
    with pytest.raises(DataError, match="two sources are called 's'"):
        build([("s", [document]), SourceConfig(name="s", path=str(tmp_path))], tokenizer, tmp_path)
    with pytest.raises(DataError, match="no document was found in s"):
        build([document._replace(text=" \n ")], tokenizer, tmp_path / "x")
    with pytest.raises(DataError, match="holdout = 1.0"):
        build([document], tokenizer, tmp_path, holdout=1.0)
    inner = train_tokenizer(["words and words"], "wordpiece", 60)
    import tokenizers

    bare = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    assert inner.separator is not None
    with pytest.raises(TokenizerError, match="no token that ends a document"):
        build([document], Tokenizer(bare), tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_empty_source_is_warned_about(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    sources = [
        source_of(str(tmp_path / "empty.txt")),
        ("s", [Document("a", "", None, "0"), Document("b", "", None, "1")]),
    ]
    report = build(sources, tokenizer, tmp_path / "out", holdout=0.0)
    assert report.warnings == ["source 'empty' gave no document"]


def test_names_of_sources_given_by_hand() -> None:
    assert source_of("/some/where/my corpus.jsonl.gz").name == "my-corpus"
    assert source_of("embedded:udhr").name == "udhr"
    assert source_of("日本.txt").name == "text"
    assert source_of("a.txt", "mine", documents="line").name == "mine"
    with pytest.raises(ConfigError, match="did you mean 'embedded:udhr'"):
        source_of("embedded:udrh")
