"""How many UTF-8 bytes of text each vocabulary entry stands for, so that losses can be stated in bits per
byte."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def byte_lengths(
    vocab: Mapping[str, int], special: Set[int], definition: Mapping[str, Any]
) -> NDArray[np.int32]:
    """Bytes of text for each id, [largest id + 1].

    Args:
        vocab: token spelling to id.
        special: ids that stand for no text.
        definition: the parsed `tokenizer.json`, which says how tokens are spelt.
    """
    table = np.zeros(max(vocab.values(), default=-1) + 1, dtype=np.int32)
    added = {entry["id"] for entry in definition.get("added_tokens") or ()}
    if uses_bytes(definition):
        for token, index in vocab.items():  # byte-level: one letter of the spelling is one byte of the text
            table[index] = len(token.encode("utf-8", "surrogatepass")) if index in added else len(token)
    elif definition["model"]["type"] == "WordPiece":
        prefix = definition["model"].get("continuing_subword_prefix") or "##"
        for token, index in vocab.items():
            inside = token.startswith(prefix)
            table[index] = len(token.removeprefix(prefix).encode()) if inside else 1 + len(token.encode())
    else:
        for token, index in vocab.items():
            single = _BYTE_TOKEN.fullmatch(token) is not None
            table[index] = 1 if single else len(token.replace("▁", " ").encode("utf-8", "surrogatepass"))
    table[list(special)] = 0
    return table


def uses_bytes(definition: Mapping[str, Any]) -> bool:
    """Whether tokens are spelt in GPT-2's byte alphabet."""
    return "ByteLevel" in component_types(definition.get("pre_tokenizer")) | component_types(
        definition.get("decoder")
    )


def component_types(component: Mapping[str, Any] | None) -> set[str]:
    """Types of a pre-tokenizer, normalizer or decoder and of the parts of a sequence of them."""
    if component is None:
        return set()
    parts = [part for key in ("pretokenizers", "normalizers", "decoders") for part in component.get(key, ())]
    return {component["type"]}.union(*(component_types(part) for part in parts))
