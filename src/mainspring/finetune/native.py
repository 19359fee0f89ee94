"""Task models and embedders by our own names: safetensors and `mainspring_task.json`.

Every one can be written so, also those that no published layout can express.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from mainspring.config import Section, parse
from mainspring.errors import WeightsError, few
from mainspring.finetune.heads import HeadConfig, TaskModel
from mainspring.finetune.pooling import EmbedConfig, Embedder
from mainspring.models.files import read_json, read_weights, write_json, write_weights
from mainspring.models.narrow import described, stored, taken_out
from mainspring.nn.config import TransformerConfig
from mainspring.numerics import Encoded
from mainspring.text.tokenizer import Tokenizer

SETTINGS = "mainspring_task.json"


class TaskSettings(Section):
    """What the file holds."""

    family: str = ""
    """Name of the encoder's family, where it has one."""
    config: TransformerConfig
    """The encoder."""
    head: HeadConfig | None = None
    """Its head, of a task model."""
    embed: EmbedConfig | None = None
    """How rows become vectors, of an embedder."""
    encoded: dict[str, Any] = Field(default_factory=dict)
    """Parameters that are stored in narrow formats (`models.narrow`)."""


def export_native_task(
    model: TaskModel | Embedder,
    tokenizer: Tokenizer | None,
    out_dir: str | Path,
    *,
    family: str = "",
    state: Mapping[str, Tensor] | None = None,
    shard_bytes: int = 5 * 10**9,
    encoded: Mapping[str, Encoded] | None = None,
    formats: Mapping[str, str] | None = None,
) -> Path:
    """Write a task model or embedder; `mainspring_task.json` is written last.

    Args:
        model: the model; may be on meta where `state` is given.
        tokenizer: to put beside it, if any.
        out_dir: folder, made where absent.
        family: name of the encoder's family, if it has one.
        state: tensors by the model's names (None: its own).
        shard_bytes: size beyond which weights are spread over several files.
        encoded: parameters whose bytes in a narrow format are stored in place of their values.
        formats: names of their formats.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        tokenizer.save(out)
    narrow = encoded or {}
    given = stored(model.state_dict() if state is None else state, narrow)
    write_weights({n: t.detach().cpu().contiguous() for n, t in given.items()}, out, shard_bytes)
    settings = TaskSettings(
        family=family,
        config=model.encoder.config,
        head=model.head_config if isinstance(model, TaskModel) else None,
        embed=model.embed_config if isinstance(model, Embedder) else None,
        encoded=described(narrow, formats or {}),
    )
    write_json(out / SETTINGS, settings.model_dump(mode="json", exclude_none=True))
    return out


def import_native_task(path: str | Path) -> tuple[TaskSettings, dict[str, Tensor]]:
    """Read what `export_native_task` wrote: settings, and tensors by the model's names.

    Raises:
        WeightsError: a file is missing or damaged, or the settings name neither a head nor a pooling.
        ConfigError: a setting cannot be.
    """
    folder = Path(path)
    settings = parse(TaskSettings, read_json(folder / SETTINGS), source=str(folder / SETTINGS))
    if (settings.head is None) == (settings.embed is None):
        given = [name for name in ("head", "embed") if getattr(settings, name) is not None]
        raise WeightsError(
            f"{folder / SETTINGS}: give head or embed, one of them; found {few(given) or 'none'}"
        )
    state = read_weights(folder)
    for name, (one, form) in taken_out(state, settings.encoded, str(folder)).items():
        state[name] = form.decode(one)
    return settings, state
