"""What was trained for search over an encoder: a reader, and the curves that make its logits probabilities.

Heads lie in a folder: `heads.safetensors` (fp16) beside `heads.json`, which says over which encoder, by which
recipe, on which data under which licences, and how good they are. Those of the default encoder come with the
package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mainspring.config import Section, parse
from mainspring.errors import UsageError, WeightsError
from mainspring.finetune.reader import Reader, ReaderConfig
from mainspring.finetune.text_reader import TextReader
from mainspring.products.search.encoder import DEFAULT, ModelEncoder
from mainspring.recipes.search.curves import AnswerCurve, VerdictCurve

WEIGHTS, SETTINGS = "heads.safetensors", "heads.json"
"""What a folder of heads holds."""
SHIPPED: Mapping[str, str] = {DEFAULT: "minilm"}
"""Folders of the package that hold heads, by the encoder's name."""


class RankerCurve(Section):
    """Probability that a document serves a query: the curve that `rank.BiEncoderRanker` has."""

    sentence: float = 0.0
    """Weight of the best sentence's cosine beside the best passage's."""
    lexical: float = 0.3
    """Weight of BM25 over that of the candidate with the greatest."""
    slope: float = 9.0
    """Of the curve."""
    middle: float = 0.55
    """Sum at which the probability is one half."""


class HeadsSettings(Section):
    """What the file beside the weights says."""

    encoder: str
    """Name of the encoder."""
    reader: ReaderConfig = ReaderConfig()
    ranker: RankerCurve = RankerCurve()
    answer: AnswerCurve = AnswerCurve()
    verdict: VerdictCurve = VerdictCurve()
    recipe: dict[str, Any] = {}
    """The recipe, whole."""
    data: tuple[dict[str, str], ...] = ()
    """What was learnt from: name, source, licence, use."""
    metrics: dict[str, Any] = {}
    """What was measured, and on what."""


class Heads(NamedTuple):
    """Heads, ready for use."""

    settings: HeadsSettings
    reader: TextReader


def shipped(encoder: str) -> Path | None:
    """The folder of the package that has heads for an encoder; None where it has none."""
    name = SHIPPED.get(encoder)
    folder = None if name is None else Path(str(files("mainspring.products.search") / "shipped" / name))
    return folder if folder is not None and (folder / WEIGHTS).is_file() else None


def load(folder: Path, encoder: ModelEncoder) -> Heads:
    """Heads from their folder, over an encoder.

    Raises:
        UsageError: there are none, or they were trained over another encoder.
        WeightsError: a file is damaged, or the heads do not fit.
    """
    try:
        values = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        state = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder}: no heads are here ({WEIGHTS} and {SETTINGS}); train some: mainspring search train"
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{folder}: the heads are damaged ({error}); train them anew") from error
    settings = parse(HeadsSettings, values, source=str(folder / SETTINGS))
    if settings.encoder != encoder.name:
        raise UsageError(
            f"{folder}: these heads stand on the encoder {settings.encoder!r}, and this index has "
            f"{encoder.name!r}; train heads for it: mainspring search train --encoder FOLDER"
        )
    reader = Reader(encoder.model, settings.reader, seed=0)
    reader.load_trained({name: tensor.to(torch.float32) for name, tensor in state.items()})
    return Heads(settings, TextReader(reader.folded(), encoder.tokenizer))


def save(folder: Path, reader: Reader, settings: HeadsSettings) -> None:
    """Write heads into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.to(torch.float16).contiguous() for name, tensor in reader.trained().items()}
    unfinished = folder / f"{WEIGHTS}.tmp"
    save_file(state, unfinished, metadata={"format": "pt"})
    unfinished.replace(folder / WEIGHTS)
    save_settings(folder, settings)


def save_settings(folder: Path, settings: HeadsSettings) -> None:
    """Write what lies beside the weights."""
    content = json.dumps(settings.model_dump(mode="json"), indent=1, ensure_ascii=False)
    (folder / SETTINGS).write_text(content + "\n", encoding="utf-8")
