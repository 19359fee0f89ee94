"""Megatron checkpoints as files: a folder with a safetensors file for each rank, and `megatron.json`.

The latter says what a pickle of Megatron-LM has in its arguments: the version of the layout, the number of
ranks, the model's configuration. Pickles are not read: they run code when they are opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, get_args

from safetensors.torch import save_file
from torch import Tensor

from mainspring.config import parse
from mainspring.errors import WeightsError
from mainspring.models.files import read_json, read_tensors, write_json
from mainspring.models.megatron.shares import Version, merge, split
from mainspring.nn.config import TransformerConfig

SETTINGS = "megatron.json"
_PICKLES = ("*.pt", "*.bin", "*.pth", "*.ckpt")


class MegatronModel(NamedTuple):
    """A model read from a Megatron checkpoint."""

    config: TransformerConfig
    state: dict[str, Tensor]
    """Tensors by our names, for `load_state_dict`."""
    version: Version
    """Its layout of query_key_value."""
    ranks: int
    """Its degree of tensor parallelism."""


def export_megatron(
    config: TransformerConfig,
    state: Mapping[str, Tensor],
    out_dir: str | Path,
    *,
    ranks: int = 1,
    version: Version = "2.0",
) -> Path:
    """Write a model as Megatron's shares, a safetensors file for each rank; `megatron.json` comes last.

    Args:
        config: a GPT-2-shaped model.
        state: tensors by our names, on any device.
        out_dir: folder, made where absent.
        ranks: degree of tensor parallelism.
        version: layout of query_key_value.

    Returns:
        The folder.

    Raises:
        WeightsError, ConfigError: as `split` does.
    """
    shares = split(state, config, ranks, version)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    for rank, share in enumerate(shares):
        file = out / _file(rank)
        unfinished = file.with_name(f"{file.name}.tmp")
        whole = {name: t.detach().cpu().contiguous() for name, t in share.items()}
        save_file(whole, unfinished, metadata={"format": "pt"})
        unfinished.replace(file)
    for stale in out.glob("mp_rank_*.safetensors"):
        if stale.name not in {_file(rank) for rank in range(ranks)}:
            stale.unlink()
    settings = {
        "checkpoint_version": version,
        "tensor_model_parallel_size": ranks,
        "padded_vocab_size": shares[0]["word_embeddings.weight"].shape[0] * ranks,
        "config": config.model_dump(mode="json", exclude_defaults=True),
    }
    write_json(out / SETTINGS, settings)
    return out


def import_megatron(
    path: str | Path, *, config: TransformerConfig | None = None, version: Version | None = None
) -> MegatronModel:
    """Read a folder of Megatron's shares.

    Args:
        path: folder with `mp_rank_00.safetensors` ...
        config: the model (None: as `megatron.json` has it).
        version: layout of query_key_value (None: as `megatron.json` has it).

    Raises:
        WeightsError: files are missing or damaged, only pickles are there, or tensors do not fit the model.
        ConfigError: the configuration or version cannot be.
    """
    folder = Path(path)
    files = sorted(folder.glob("mp_rank_*.safetensors"))
    if not files:
        raise WeightsError(f"{folder}: no mp_rank_00.safetensors is there{_hint(folder)}")
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    wanted = [_file(rank) for rank in range(int(settings.get("tensor_model_parallel_size", len(files))))]
    if [file.name for file in files] != wanted:
        raise WeightsError(
            f"{folder}: holds {', '.join(f.name for f in files)}; needed are {', '.join(wanted)}"
        )
    if config is None:
        if "config" not in settings:
            raise WeightsError(f"{folder}: without {SETTINGS}, give the model's config")
        config = parse(TransformerConfig, settings["config"], source=str(folder / SETTINGS))
    if version is None:
        if "checkpoint_version" not in settings:
            raise WeightsError(
                f"{folder}: without {SETTINGS}, give the version: {', '.join(get_args(Version))}"
            )
        version = settings["checkpoint_version"]
    state = merge([read_tensors(file) for file in files], config, version)
    return MegatronModel(config, state, version, len(files))


def _file(rank: int) -> str:
    return f"mp_rank_{rank:02}.safetensors"


def _hint(folder: Path) -> str:
    pickles = sorted(p.relative_to(folder).as_posix() for kind in _PICKLES for p in folder.rglob(kind))
    if not pickles:
        return ""
    return (
        f", and {pickles[0]} is a pickle, which can run any code when opened, so it is not read. If you "
        f"trust it, convert each rank's once: torch.load it, take the table whose names are those of "
        f"mainspring.models.megatron.AXES, and write it with safetensors.torch.save_file as {_file(0)}"
    )
