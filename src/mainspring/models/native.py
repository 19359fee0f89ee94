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
from mainspring.models.registry import FAMILIES, ModelConfig
from mainspring.models.weights import expected_shapes, refuse_differences
from mainspring.nn.config import TransformerConfig
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
) -> Path:
    """Write a model by our own names; `mainspring.json` is written last.

    Args:
        model: names the family.
        config: the model's configuration.
        state: tensors by our names, on any device.
        tokenizer_json: the tokenizer to put beside it, if any.
        out_dir: folder, made where absent.
        shard_bytes: size beyond which weights are spread over several files.

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
    write_weights({n: t.detach().cpu().contiguous() for n, t in state.items()}, out, shard_bytes)
    settings = {"family": model.family, "config": config.model_dump(mode="json", exclude_none=True)}
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
    refuse_differences(state, expected_shapes(config), f"{folder}: the weights do not fit the model")
    return Imported(family, config, state)
