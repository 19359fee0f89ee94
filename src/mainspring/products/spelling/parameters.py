"""What was learnt, in one safetensors file: channels by family, the ranker's weights, pairs of words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mainspring.errors import DataError
from mainspring.products.spelling.bigrams import Bigrams
from mainspring.products.spelling.channel import FAR, Channel
from mainspring.products.spelling.letters import CLASSES
from mainspring.products.spelling.rank import FEATURES, UNKNOWN, Weights

SHARED = "shared"
"""The channel of families of which no misspellings are known."""
_SPARSE = {"joined": (CLASSES,) * 3, "parted": (CLASSES,) * 3, "paired": (CLASSES,) * 4}


class Parameters(NamedTuple):
    """Everything that was learnt but the lexicons."""

    channels: Mapping[str, Channel]
    """By family, and `SHARED`."""
    weights: Weights
    bigrams: Mapping[str, Bigrams]
    """By language."""
    caution: Mapping[str, float] = MappingProxyType({})
    """By language: log odds that are added to "it is a word that the lexicon lacks", so that few words of
    clean text are changed."""

    def channel(self, family: str) -> Channel:
        """That of a family, or the shared one."""
        return self.channels.get(family, self.channels[SHARED])


def save(parameters: Parameters, path: Path, facts: Mapping[str, str]) -> None:
    """Write a file; `facts` are its metadata, under one name: the order of several is chance."""
    from safetensors.numpy import save_file

    tensors: dict[str, NDArray[Any]] = {
        "rank.candidate": parameters.weights.candidate.astype(np.float32),
        "rank.unknown": parameters.weights.unknown.astype(np.float32),
    }
    for family, channel in parameters.channels.items():
        for field, table in channel._asdict().items():
            name = f"channel.{family}.{field}"
            if field in _SPARSE:
                places = np.flatnonzero(table < FAR)
                tensors[f"{name}.places"] = places.astype(np.int32)
                tensors[f"{name}.values"] = table.ravel()[places].astype(np.float16)
            else:
                tensors[name] = table.astype(np.float16)
    for tag, bigrams in parameters.bigrams.items():
        tensors[f"bigrams.{tag}.keys"] = bigrams.keys
        tensors[f"bigrams.{tag}.values"] = bigrams.values
    for tag, caution in parameters.caution.items():
        tensors[f"caution.{tag}"] = np.array([caution], np.float32)
    save_file(tensors, path, metadata={"facts": json.dumps(dict(facts))})


def load(path: Path) -> Parameters:
    """Read a file.

    Raises:
        DataError: it is missing, damaged, or of another version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        channels: dict[str, dict[str, NDArray[np.float32]]] = {}
        for name, value in tensors.items():
            kind, *rest = name.split(".")
            if kind == "channel" and rest[-1] not in ("places", "values"):
                channels.setdefault(rest[0], {})[rest[1]] = value.astype(np.float32)
            elif kind == "channel" and rest[-1] == "places":
                table = np.full(_SPARSE[rest[1]], FAR, np.float32)
                table.ravel()[value] = tensors[f"channel.{rest[0]}.{rest[1]}.values"].astype(np.float32)
                channels.setdefault(rest[0], {})[rest[1]] = table
        weights = Weights(
            tensors["rank.candidate"].astype(np.float64), tensors["rank.unknown"].astype(np.float64)
        )
        bigrams = {
            name.split(".")[1]: Bigrams(value, tensors[name.replace(".keys", ".values")])
            for name, value in tensors.items()
            if name.startswith("bigrams.") and name.endswith(".keys")
        }
        caution = {
            name.split(".")[1]: float(value[0])
            for name, value in tensors.items()
            if name.startswith("caution.")
        }
        made = Parameters(
            {family: Channel(**tables) for family, tables in channels.items()}, weights, bigrams, caution
        )
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: the speller's parameters cannot be read ({error}); install the package anew"
        ) from error
    if weights.candidate.shape != (len(FEATURES),) or weights.unknown.shape != (len(UNKNOWN),):
        raise DataError(f"{path}: was made by another version; make it anew with 'mainspring spell train'")
    return made
