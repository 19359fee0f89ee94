"""The state of training heads, in one file without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mainspring.errors import CheckpointError
from mainspring.finetune.reader import Reader
from mainspring.train.files import replace_file


def save_training(path: Path, reader: Reader, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write what `resume_training` needs after `step` steps, whole or not at all."""
    tensors = {f"reader.{name}": tensor for name, tensor in reader.trained().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    # A tensor may be a view of another's memory, which the format has no word for.
    replace_file(path, save({name: t.clone() for name, t in tensors.items()}, {"step": str(step)}))


def resume_training(path: Path, reader: Reader, optimizer: torch.optim.Optimizer) -> int:
    """Take over what was saved, and say after how many steps; 0 where nothing was.

    Raises:
        CheckpointError: the file is damaged.
        WeightsError: it is of another reader.
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            step = int(file.metadata()["step"])
            names: list[str] = file.keys()  # the file itself is no mapping
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); remove it to train from the first step"
        ) from error
    state: dict[int, dict[str, Tensor]] = {}
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "reader":
            own[rest] = tensor
        else:
            number, _, key = rest.partition(".")
            state.setdefault(int(number), {})[key] = tensor
    reader.load_trained(own)
    whole: dict[str, Any] = optimizer.state_dict()
    optimizer.load_state_dict({**whole, "state": state})
    return step
