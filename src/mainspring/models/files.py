"""Folders of safetensors and JSON files, the layouts' common ground.

Only safetensors are read: a pickled checkpoint runs code when it is opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mainspring.errors import WeightsError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Names of the file of weights, or of the table that says which of several files has what."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def write_weights(weights: Mapping[str, Tensor], out: Path, shard_bytes: int) -> None:
    """Write tensors into a folder, over several files with an index where they are larger than `shard_bytes`.

    A file gets its name once it is whole; what an earlier call left under other names is removed.
    """
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in weights.items():
        if used and used + tensor.nbytes > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += tensor.nbytes
    count = len(shards)
    files = [SINGLE] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    for file, shard in zip(files, shards, strict=True):
        unfinished = out / f"{file}.tmp"
        save_file(shard, unfinished, metadata={"format": "pt"})
        unfinished.replace(out / file)
    for stale in (*out.glob("model*.safetensors"), out / INDEX):
        if stale.name not in files:
            stale.unlink(missing_ok=True)
    if count > 1:
        where = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        total = sum(t.nbytes for t in weights.values())
        write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of a folder, in one file or over several.

    Raises:
        WeightsError: none are there, or pickles alone; or a file is missing, damaged or truncated.
    """
    if (folder / INDEX).is_file():
        where = read_json(folder / INDEX).get("weight_map")
        if not isinstance(where, dict) or not all(isinstance(f, str) for f in where.values()):
            raise WeightsError(f"{folder / INDEX}: weight_map is missing or not a table of file names")
        weights: dict[str, Tensor] = {}
        for file in sorted(set(where.values())):
            if Path(file).name != file:
                raise WeightsError(f"{folder / INDEX}: {file!r} is not the name of a file beside it")
            weights |= read_tensors(folder / file)
        lost = sorted(set(where) - set(weights))
        if lost:
            raise WeightsError(f"{folder}: tensors of the index are in no file: {', '.join(lost[:8])}")
        return weights
    if (folder / SINGLE).is_file():
        return read_tensors(folder / SINGLE)
    pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
    if pickles:
        raise WeightsError(
            f"{folder}: {pickles[0]} is a pickle, which can run any code when opened, so it is not read. If "
            f"you trust it, convert it once; transformers.AutoModelForPreTraining.from_pretrained(PATH)"
            f".save_pretrained(PATH) writes {SINGLE}"
        )
    raise WeightsError(f"{folder}: neither {SINGLE} nor {INDEX} is there")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        WeightsError: it is missing, damaged or truncated.
    """
    try:
        weights: dict[str, Tensor] = load_file(file)
    except FileNotFoundError:
        raise WeightsError(f"{file}: the index names this file and it is not there") from None
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file}: damaged or truncated ({error}); fetch it again") from error
    return weights


def read_json(file: Path) -> dict[str, Any]:
    """Read a file that holds an object.

    Raises:
        WeightsError: it cannot be read, or holds something else.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(
            f"{file}: cannot be read ({error.strerror}); give a folder in the Hugging Face layout"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{file}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{file}: holds {type(values).__name__}, not an object")
    return values


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write an object; the file gets its name once it is whole."""
    unfinished = file.with_name(f"{file.name}.tmp")
    unfinished.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    unfinished.replace(file)
