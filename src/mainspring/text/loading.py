"""Finding a tokenizer on disk in the forms that checkpoints carry it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from mainspring.errors import TokenizerError
from mainspring.text.token_bytes import component_types

_ROLE_KEYS = {f"{role}_token": role for role in ("eos", "pad", "mask", "cls", "sep", "unk", "bos")}


def load(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer at `path` (a file or a directory) and the roles of its special tokens as far as files
    state them.

    Raises:
        TokenizerError: nothing loadable is there, or it is damaged.
    """
    if not path.exists():
        raise TokenizerError(
            f"{path}: no such file or directory; a tokenizer is a tokenizer.json or its directory"
        )
    if path.is_file():
        return _load_file(path), {}
    if (found := _find(path, "tokenizer.json")) is not None:
        inner = _load_file(found)
        return inner, _stated_roles(path, inner)
    vocab, merges = _find(path, "vocab.json"), _find(path, "merges.txt")
    if vocab is not None and merges is not None:
        inner = gpt2(vocab, merges)
        return inner, _stated_roles(path, inner)
    if (words := _find(path, "vocab.txt")) is not None:
        inner = bert(words)
        return inner, _stated_roles(path, inner)
    raise TokenizerError(
        f"{path}: holds no tokenizer.json, no vocab.json with merges.txt, and no vocab.txt; "
        "convert other formats with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    )


def gpt2(vocab: Path, merges: Path) -> tokenizers.Tokenizer:
    """GPT-2's byte-level BPE from its two files (Radford et al. 2019)."""
    try:
        words = json.loads(_read(vocab))
        lines = [line for line in _read(merges).splitlines() if line and not line.startswith("#version")]
        if bad := [line for line in lines if line.count(" ") != 1]:
            raise ValueError(f"merge {bad[0]!r} is not two tokens separated by a space")
        pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
        inner = tokenizers.Tokenizer(models.BPE(vocab=words, merges=pairs))
    except Exception as error:
        raise TokenizerError(f"{vocab} with {merges}: not GPT-2's files ({error})") from error
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    if "<|endoftext|>" in words:
        inner.add_special_tokens([AddedToken("<|endoftext|>", normalized=False, special=True)])
    return inner


def bert(vocab: Path, *, lowercase: bool | None = None) -> tokenizers.Tokenizer:
    """BERT's WordPiece from `vocab.txt` (Devlin et al. 2019); cased where the vocabulary has capital
    letters."""
    words = {line: index for index, line in enumerate(_read(vocab).splitlines())}
    if "[UNK]" not in words:
        raise TokenizerError(f"{vocab}: no [UNK] entry, so this is not a WordPiece vocabulary")
    lower = (
        not any(w != w.lower() for w in words if not w.startswith("[")) if lowercase is None else lowercase
    )
    inner = tokenizers.Tokenizer(models.WordPiece(vocab=words, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=lower)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens([w for w in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if w in words])
    if "[CLS]" in words and "[SEP]" in words:
        inner.post_processor = bert_template(words["[CLS]"], words["[SEP]"])
    return inner


def bert_template(cls: int, sep: int) -> processors.TemplateProcessing:
    """[CLS] A [SEP], and [CLS] A [SEP] B [SEP] with segment 1 for B."""
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )


def is_plain_byte_level(definition: Mapping[str, Any]) -> bool:
    """Whether ids are those of GPT-2's pattern on bytes: no normaliser, no prefix, so that words are
    independent."""
    pre = definition.get("pre_tokenizer") or {}
    return (
        definition["model"]["type"] == "BPE"
        and not component_types(definition.get("normalizer"))
        and pre.get("type") == "ByteLevel"
        and not pre.get("add_prefix_space")
        and bool(pre.get("use_regex", True))
    )


def _load_file(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(_read(path))
    except TokenizerError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{path}: not a tokenizer.json ({error})") from error


def _stated_roles(directory: Path, inner: tokenizers.Tokenizer) -> dict[str, str]:
    roles: dict[str, str] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (found := _find(directory, name)) is None:
            continue
        try:
            stated = json.loads(_read(found))
        except ValueError as error:
            raise TokenizerError(f"{found}: not JSON ({error})") from error
        for key, role in _ROLE_KEYS.items():
            token = stated.get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and inner.token_to_id(token) is not None:
                roles[role] = token
    return roles


def _find(directory: Path, name: str) -> Path | None:
    return next((p for p in (directory / name, directory / f"{name}.gz") if p.is_file()), None)


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: cannot be read ({error})") from error
