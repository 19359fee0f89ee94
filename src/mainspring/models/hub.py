"""Models in the Hugging Face layout: a folder of config.json, safetensors and tokenizer files.

Only safetensors are read: a pickled checkpoint runs code when it is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mainspring.errors import WeightsError, suggest
from mainspring.models.family import Family
from mainspring.models.files import read_json, read_weights, write_json, write_weights
from mainspring.models.hf import VOCAB_ROWS
from mainspring.models.registry import FAMILIES, ModelConfig
from mainspring.nn.config import TransformerConfig
from mainspring.text.tokenizer import Tokenizer


class Imported(NamedTuple):
    """A model read from the Hugging Face layout."""

    family: str
    """Name of its family."""
    config: TransformerConfig
    """Its configuration."""
    state: dict[str, Tensor]
    """Tensors by our names, for `load_state_dict`."""
    missing: tuple[str, ...] = ()
    """Our names that the checkpoint does not have, where that was allowed."""


def export_hf(
    model: ModelConfig,
    config: TransformerConfig,
    state: Mapping[str, Tensor],
    tokenizer_json: Path | None,
    out_dir: str | Path,
    *,
    shard_bytes: int = 5 * 10**9,
) -> Path:
    """Write a model as transformers' AutoModelFor... and AutoTokenizer load it; config.json is written last.

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
        WeightsError: the family's published layout cannot express the model, or the state is not the model's.
    """
    family = FAMILIES[model.family]
    values = family.to_hf(config)
    weights = {n: t.detach().cpu().contiguous() for n, t in family.weights.write(state, config).items()}
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    roles = ("bos_token_id", "eos_token_id", "pad_token_id")
    specials: dict[str, int | None] = {role: values.get(role) for role in roles}
    if tokenizer_json is not None:
        tokenizer = Tokenizer.load(tokenizer_json)
        _check_padding(tokenizer, config)
        specials |= _write_tokenizer(tokenizer, config, out)
    write_weights(weights, out, shard_bytes)
    generates = any(a.endswith(("LMHeadModel", "ConditionalGeneration")) for a in values["architectures"])
    if generates:
        write_json(out / "generation_config.json", {"_from_model_config": True, **specials})
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    padding = {} if config.vocab_rows is None else {VOCAB_ROWS: config.vocab_rows}
    write_json(out / "config.json", {**values, **specials, **padding, "dtype": dtype})
    return out


def import_hf(path: str | Path, *, allow_missing: bool = False, family: str | None = None) -> Imported:
    """Read a model from the Hugging Face layout.

    Args:
        path: the folder.
        allow_missing: accept a checkpoint without some of the model's tensors (a bare encoder without its
            prediction head) and list them.
        family: name of the family, where several share a published layout (None: by the model type, the
            first of them).

    Raises:
        WeightsError: the folder has no config.json or no safetensors, its model type is unknown, a file is
            damaged, or names and shapes differ from the model's.
    """
    folder = Path(path)
    values = read_json(folder / "config.json")
    model_type = str(values.get("model_type"))
    kind = family_of(folder, model_type) if family is None else FAMILIES.get(family)
    if kind is None:
        raise WeightsError(f"family = {family!r}: no such family; {suggest(str(family), FAMILIES)}")
    weights = kind.upgrade(read_weights(folder))
    config = kind.from_hf(values, weights.keys())
    state, missing = kind.weights.read(weights, config, allow_missing=allow_missing)
    return Imported(kind.name, config, state, missing)


def family_of(folder: Path, model_type: str) -> Family:
    """The family that a folder's `model_type` names, the first of those that share it.

    Raises:
        WeightsError: none has it.
    """
    found = next((f for f in FAMILIES.values() if f.model_type == model_type), None)
    if found is None:
        known = [f.model_type for f in FAMILIES.values()]
        raise WeightsError(f"{folder}: no family has model_type {model_type!r}; {suggest(model_type, known)}")
    return found


def _check_padding(tokenizer: Tokenizer, config: TransformerConfig) -> None:
    """Where positions have an offset, transformers reads it as the padding token's number plus one."""
    scheme = config.absolute or config.sinusoidal
    if scheme is not None and scheme.offset and tokenizer.pad != scheme.offset - 1:
        raise WeightsError(
            f"positions have an offset of {scheme.offset}, so the published layout needs padding to be token "
            f"{scheme.offset - 1}; the tokenizer's is {tokenizer.pad}. Before training, give the recipe's "
            f"model.config.positions an offset of {0 if tokenizer.pad is None else tokenizer.pad + 1}; now, "
            f"export in another layout"
        )


def _write_tokenizer(tokenizer: Tokenizer, config: TransformerConfig, out: Path) -> dict[str, int | None]:
    tokenizer.save(out / "tokenizer.json")
    roles = {f"{role}_token": token for role, token in sorted(tokenizer.specials.items())}
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.max_positions,
            "clean_up_tokenization_spaces": False,
            **roles,
        },
    )
    eos = tokenizer.separator if config.is_encoder_decoder else tokenizer.eos
    bos = tokenizer.bos if tokenizer.bos is not None else eos
    ids = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": tokenizer.pad}
    # A decoder's text begins with the token that ends the one before.
    return ids | {"decoder_start_token_id": eos} if config.is_encoder_decoder else ids
