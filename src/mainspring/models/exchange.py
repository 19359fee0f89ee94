"""Every layout that models are written in and read from, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from mainspring.errors import UsageError
from mainspring.models import megatron, native
from mainspring.models.hub import Imported, export_hf, import_hf
from mainspring.models.registry import FAMILIES, ModelConfig
from mainspring.nn.config import TransformerConfig
from mainspring.text.tokenizer import Tokenizer

Layout = Literal["hf", "megatron", "safetensors"]
"""hf: as transformers loads it. megatron: a share for each tensor-parallel rank, for models of GPT-2's shape.
safetensors: by our own names."""
LOOKED_FOR = f"config.json (Hugging Face), {megatron.SETTINGS} (Megatron) or {native.SETTINGS} (Mainspring)"
"""What tells the layouts apart."""


def export_model(
    layout: Layout,
    model: ModelConfig,
    config: TransformerConfig,
    state: Mapping[str, Tensor],
    tokenizer_json: Path | None,
    out_dir: str | Path,
    *,
    ranks: int = 1,
    version: megatron.Version = "2.0",
) -> Path:
    """Write a model in a layout.

    Args:
        layout: which.
        model: names the family.
        config: the model's configuration.
        state: tensors by our names, on any device.
        tokenizer_json: the tokenizer to put beside it, if any.
        out_dir: folder, made where absent.
        ranks: degree of tensor parallelism (megatron).
        version: layout of query_key_value (megatron).

    Returns:
        The folder.

    Raises:
        WeightsError: the layout cannot express the model, or the state is not the model's.
        ConfigError: the model does not divide by `ranks`.
    """
    if layout == "hf":
        return export_hf(model, config, state, tokenizer_json, out_dir)
    if layout == "safetensors":
        return native.export_native(model, config, state, tokenizer_json, out_dir)
    out = megatron.export_megatron(config, state, out_dir, ranks=ranks, version=version)
    if tokenizer_json is not None:
        Tokenizer.load(tokenizer_json).save(out / "tokenizer.json")
    return out


def import_model(path: str | Path, *, family: str | None = None, allow_missing: bool = False) -> Imported:
    """Read a model in whichever layout the folder has.

    Args:
        path: the folder.
        family: name of the family, where several share a layout (None: what the folder says, or the first).
        allow_missing: with the Hugging Face layout, as `import_hf` has it.

    Raises:
        UsageError: there is no such folder, or nothing in it says what it holds.
        WeightsError: what it holds cannot be read, or does not fit.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give one with {LOOKED_FOR}")
    layout = layout_of(folder)
    if layout == "safetensors":
        return native.import_native(folder)
    if layout == "megatron":
        read = megatron.import_megatron(folder)
        alike = family is not None and family in FAMILIES and FAMILIES[family].model_type == "gpt2"
        return Imported(family if alike and family is not None else "gpt2", read.config, read.state)
    if layout == "hf":
        return import_hf(folder, family=family, allow_missing=allow_missing)
    raise UsageError(f"{folder}: no model is here: looked for {LOOKED_FOR}")


def layout_of(folder: Path) -> Layout | None:
    """The layout of the model in a folder; None where there is none."""
    if (folder / native.SETTINGS).is_file():
        return "safetensors"
    if (folder / megatron.SETTINGS).is_file() or any(folder.glob("mp_rank_*")):
        return "megatron"
    return "hf" if (folder / "config.json").is_file() else None
