"""The sentence-transformers layout: `modules.json` and the folders it names, around a Hugging Face encoder.

Reimers and Gurevych 2019 (arXiv 1908.10084). Read: Transformer, Pooling, Dense, Normalize.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from mainspring.errors import WeightsError, few, suggest
from mainspring.finetune.heads import encoder_config
from mainspring.finetune.pooling import DenseConfig, EmbedConfig, Embedder, Pooling
from mainspring.models.files import read_json, read_tensors
from mainspring.models.hub import import_hf
from mainspring.models.weights import expected_shapes
from mainspring.nn.config import TransformerConfig

MODULES = "modules.json"
_POOLINGS: Mapping[str, Pooling] = MappingProxyType(
    {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_max_tokens": "max",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt",
        "pooling_mode_weightedmean_tokens": "weighted_mean",
        "pooling_mode_lasttoken": "last",
    }
)
"""In the order in which several are joined."""
_ACTIVATIONS = MappingProxyType({"Tanh": "tanh", "Identity": "none", "GELU": "gelu", "ReLU": "relu"})


class ImportedEmbedder(NamedTuple):
    """An embedder that was read."""

    family: str
    config: TransformerConfig
    """Its encoder's configuration."""
    embed: EmbedConfig
    state: dict[str, Tensor]
    """Tensors by the names of `Embedder`."""

    def model(self) -> Embedder:
        """The model, whose parameters are these tensors."""
        model = Embedder(self.config, self.embed)
        model.load_state_dict(self.state, assign=True)
        return model


def import_sentences(path: str | Path) -> ImportedEmbedder:
    """Read a model in the sentence-transformers layout.

    Raises:
        WeightsError: a file is missing or damaged, or a module is none of those that are read.
    """
    folder = Path(path)
    inner, embed, dense = folder, EmbedConfig(), []
    layers: list[DenseConfig] = []
    for kind, place in _modules(folder):
        values = read_json(place / "config.json") if kind in ("Pooling", "Dense") else {}
        match kind:
            case "Transformer":
                inner = place
            case "Pooling":
                embed = embed.replace(pooling=_pooling(place, values))
            case "Dense":
                layers.append(_dense(place, values))
                dense.append(read_tensors(place / "model.safetensors"))
            case "Normalize":
                embed = embed.replace(normalize=True)
            case _:
                known = ("Transformer", "Pooling", "Dense", "Normalize")
                raise WeightsError(f"{folder / MODULES}: module {kind!r} is not read; {suggest(kind, known)}")
    embed = embed.replace(dense=[layer.model_dump() for layer in layers], max_tokens=_most(inner))
    imported = import_hf(inner)
    config = encoder_config(imported.config)
    state = {f"encoder.{name}": imported.state[name] for name in expected_shapes(config)}
    for number, tensors in enumerate(dense):
        for name, tensor in tensors.items():
            state[f"dense.{number}.{name.removeprefix('linear.')}"] = tensor
    return ImportedEmbedder(imported.family, config, embed, state)


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Kind and folder of each module, in order."""
    try:
        listed: Any = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        if not isinstance(listed, list) or not listed:
            raise ValueError(f"it holds {type(listed).__name__}")
        modules = [(str(one["type"]).rpartition(".")[2], str(one["path"])) for one in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder / MODULES}: not a list of modules ({error})") from error
    for _, name in modules:
        if name and (Path(name).name != name or name == ".."):
            raise WeightsError(f"{folder / MODULES}: {name!r} is not the name of a folder beside it")
    return [(kind, folder / name) for kind, name in modules]


def _pooling(place: Path, values: Mapping[str, Any]) -> list[Pooling]:
    named = values.get("pooling_mode")
    if isinstance(named, str):  # newer files name one mode
        known = {key.removeprefix("pooling_mode_").removesuffix("_tokens"): p for key, p in _POOLINGS.items()}
        known |= {"cls": "cls", "lasttoken": "last", "weightedmean": "weighted_mean"}
        if named not in known:
            raise WeightsError(f"{place / 'config.json'}: pooling_mode {named!r}; {suggest(named, known)}")
        return [known[named]]
    chosen = [pooling for key, pooling in _POOLINGS.items() if values.get(key)]
    if not chosen:
        raise WeightsError(f"{place / 'config.json'}: no pooling is chosen; one of {few(list(_POOLINGS))} is")
    return chosen


def _dense(place: Path, values: Mapping[str, Any]) -> DenseConfig:
    said = str(values.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if said not in _ACTIVATIONS:
        raise WeightsError(f"{place / 'config.json'}: activation {said!r}; {suggest(said, _ACTIVATIONS)}")
    return DenseConfig.model_validate(
        {"width": values["out_features"], "bias": values.get("bias", True), "activation": _ACTIVATIONS[said]}
    )


def _most(folder: Path) -> int | None:
    """Tokens of a text at most, where a file says so."""
    found = next(iter(sorted(folder.glob("sentence_*_config.json"))), None)
    most = None if found is None else read_json(found).get("max_seq_length")
    return most if isinstance(most, int) else None
