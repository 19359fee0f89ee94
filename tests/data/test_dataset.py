"""Token data: windows against the plain definition, damage, summary."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.data import Document, TokenData, build
from mainspring.errors import DataError
from mainspring.text import Tokenizer, train_tokenizer


@pytest.fixture
def copy(data: TokenData, tmp_path: Path) -> Path:
    """A build that may be damaged."""
    return Path(shutil.copytree(data.directory, tmp_path / "copy"))


@given(st.data())
def test_windows_are_slices(data: TokenData, draw: st.DataObject) -> None:
    stream = data.split("train")[draw.draw(st.sampled_from(["docs", "udhr"]))]
    whole = stream.window(0, stream.tokens)
    start = draw.draw(st.integers(0, stream.tokens - 1))
    length = draw.draw(st.integers(0, min(3000, stream.tokens - start)))
    window = stream.window(start, length)
    assert np.array_equal(window.ids, whole.ids[start : start + length])
    starts = np.concatenate([[0], (window.ids[:-1] == data.separator).cumsum()]) if length else []
    assert window.doc.tolist() == list(starts)


def test_windows_outside_are_errors(data: TokenData) -> None:
    stream = data.split("train")["docs"]
    for start, length in [(-1, 5), (stream.tokens, 1), (0, stream.tokens + 1)]:
        with pytest.raises(DataError, match="do not exist"):
            stream.window(start, length)
    with pytest.raises(DataError, match=r"document \d+ of \d+ does not exist"):
        stream.document(stream.documents)
    with pytest.raises(DataError, match=r"no split 'hold_out'; did you mean 'holdout'\?"):
        data.split("hold_out")


def test_separator_in_the_middle_is_the_documents_own(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Boundaries come from the offsets: letters that spell the separator are text."""
    build([Document("a<|endoftext|>b", "s", None, "0")], tokenizer, tmp_path, holdout=0.0)
    stream = TokenData.open(tmp_path).split("train")["s"]
    window = stream.window(0, stream.tokens)
    assert (stream.documents, int(window.doc.max()), int((window.ids == tokenizer.eos).sum())) == (1, 0, 1)


@pytest.mark.parametrize("end", ["bin", "idx"])
def test_truncated_files_are_found_on_opening(copy: Path, end: str) -> None:
    path = next((copy / "shards").glob(f"*.{end}"))
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=rf"{path.name}: truncated: \d+ bytes, the manifest says \d+"):
        TokenData.open(copy)


@pytest.mark.parametrize("end", ["bin", "idx"])
def test_changed_bytes_are_found_by_verifying(copy: Path, end: str, data: TokenData) -> None:
    path = next((copy / "shards").glob(f"*.{end}"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    TokenData.open(copy)
    expected = data.manifest["shards"][path.stem][f"{end}_sha256"]
    with pytest.raises(
        DataError, match=f"damaged: SHA-256 is [0-9a-f]{{64}}, the manifest says {expected}"
    ) as caught:
        TokenData.open(copy, verify=True)
    assert path.name in str(caught.value)


def test_missing_and_foreign_files_are_named(copy: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    train_tokenizer(["other text"], "bpe", 258, min_frequency=1).save(copy)
    with pytest.raises(DataError, match="not the tokenizer these shards were built with"):
        TokenData.open(copy, verify=True)
    next((copy / "shards").glob("*.bin")).unlink()
    with pytest.raises(DataError, match=r"\.bin: missing"):
        TokenData.open(copy)
    for change, message in [
        ({"version": 99}, "version 99, this release reads 1"),
        ({"format": "x"}, "not a manifest of token shards"),
        ({"splits": {}}, "incomplete"),
    ]:
        (copy / "manifest.json").write_text(json.dumps({**manifest, "shards": {}, **change}))
        with pytest.raises(DataError, match=message):
            TokenData.open(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        TokenData.open(copy)
    with pytest.raises(DataError, match=r"no readable manifest.json .* mainspring data build"):
        TokenData.open(tmp_path / "nowhere")


def test_opening_reads_no_tokens_and_keeps_no_files(data: TokenData, documents: Sequence[Document]) -> None:
    opened = [TokenData.open(data.directory) for _ in range(50)]
    assert all(o.split("train")["docs"].tokens for o in opened)


def test_summary(data: TokenData, documents: Sequence[Document]) -> None:
    summary = json.loads(json.dumps(data.describe(samples=2)))
    assert sum(part["documents"] for part in summary["splits"].values()) == len(documents)
    assert summary["splits"]["train"]["tokens_per_byte"] == pytest.approx(
        summary["splits"]["train"]["tokens"] / summary["splits"]["train"]["bytes"], abs=1e-4
    )
    assert [s["source"] for s in summary["samples"]] == ["docs", "docs", "udhr", "udhr"]
    texts = [d.text for d in documents]
    assert any(text.startswith(summary["samples"][0]["text"][:50]) for text in texts)
    size = sum(p.stat().st_size for p in (data.directory / "shards").iterdir())
    assert summary["disk_bytes"] == size
    assert set(summary["sources"]) == {"docs", "udhr"}
