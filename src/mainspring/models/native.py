"""Models as they are here: safetensors by our own names, and `mainspring.json` that describes them.

Every model can be written so, also those that no published layout can express.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mainspring.config import parse
from mainspring.errors import WeightsError, suggest
from mainspring.models.files import read_json, read_weights, write_json, write_weights
from mainspring.models.hub import Imported
from mainspring.models.narrow import described, stored, taken_out
from mainspring.models.registry import FAMILIES, ModelConfig
from mainspring.models.weights import expected_shapes, refuse_differences
from mainspring.nn.config import TransformerConfig
from mainspring.numerics import Encoded, Format
from mainspring.text.tokenizer import Tokenizer

SETTINGS = "mainspring.json"


def export_native(
    model: ModelConfig,
    config: TransformerConfig,
    state: Mapping[str, Tensor],
    tokenizer_json: Path | None,
    out_dir: str | Path,
    *,
    shard_bytes: int = 5 * 10**9,
    encoded: Mapping[str, Encoded] | None = None,
    formats: Mapping[str, str] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model by our own names; `mainspring.json` is written last.

    Args:
        model: names the family.
        config: the model's configuration.
        state: tensors by our names, on any device.
        tokenizer_json: the tokenizer to put beside it, if any.
        out_dir: folder, made where absent.
        shard_bytes: size beyond which weights are spread over several files.
        encoded: parameters whose bytes in a narrow format are stored in place of their values.
        formats: names of their formats.
        notes: more for `mainspring.json`.

    Returns:
        The folder.

    Raises:
        WeightsError: the state is not the model's.
    """
    refuse_differences(state, expected_shapes(config), "the state is not this model's")
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    if tokenizer_json is not None:
        Tokenizer.load(tokenizer_json).save(out / "tokenizer.json")
    narrow = encoded or {}
    tensors = stored(state, narrow)
    write_weights({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, out, shard_bytes)
    settings: dict[str, Any] = {
        "family": model.family,
        "config": config.model_dump(mode="json", exclude_none=True),
    }
    if narrow:
        settings["encoded"] = described(narrow, formats or {})
    settings |= notes or {}
    write_json(out / SETTINGS, settings)
    return out


def import_native(path: str | Path) -> Imported:
    """Read a model by our own names.

    Raises:
        WeightsError: the folder has no `mainspring.json` or no safetensors, a file is damaged, the family is
            unknown, or names and shapes differ from the model's.
        ConfigError: the configuration cannot be.
    """
    folder = Path(path)
    settings: dict[str, Any] = read_json(folder / SETTINGS)
    family = str(settings.get("family"))
    if family not in FAMILIES:
        raise WeightsError(f"{folder / SETTINGS}: no family {family!r}; {suggest(family, FAMILIES)}")
    config = parse(TransformerConfig, settings.get("config", {}), source=str(folder / SETTINGS))
    state = read_weights(folder)
    for name, (one, form) in taken_out(state, settings.get("encoded", {}), str(folder)).items():
        state[name] = form.decode(one)
    refuse_differences(state, expected_shapes(config), f"{folder}: the weights do not fit the model")
    return Imported(family, config, state)


def read_encoded(path: str | Path) -> dict[str, tuple[Encoded, Format]]:
    """The bytes and formats of the parameters of a model that are stored in narrow formats.

    Raises:
        WeightsError: the folder has no `mainspring.json`, or a file is damaged.
    """
    folder = Path(path)
    said = read_json(folder / SETTINGS).get("encoded", {})
    return taken_out(read_weights(folder), said, str(folder)) if said else {}
