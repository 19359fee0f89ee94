"""What a graph is trained on: arrays of a file, or rows of tokens, by their place in one global order."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mainspring.data.config import DataConfig
from mainspring.data.dataset import TokenData
from mainspring.data.sampler import Mixture, samples
from mainspring.data.training_rows import TrainingRows
from mainspring.errors import DataError, few, suggest
from mainspring.train.graph.recipe import ArrayData, TokenRows


class GraphBatch(NamedTuple):
    """Some rows."""

    inputs: dict[str, Tensor]
    """By the graph's names."""
    target: Tensor

    def to(self, device: torch.device) -> GraphBatch:
        """The same on a device."""
        return GraphBatch({n: t.to(device) for n, t in self.inputs.items()}, self.target.to(device))


class GraphRows(Protocol):
    """Rows by their place in the global order."""

    def batch(self, start: int, stop: int) -> GraphBatch:
        """Rows start .. stop-1."""
        ...


def open_rows(config: ArrayData | TokenRows, inputs: Sequence[str], seed: int) -> GraphRows:
    """Open what a recipe names.

    Args:
        config: the recipe's data.
        inputs: the graph's.
        seed: of the order.

    Raises:
        DataError: it is not there, or does not have what the graph reads.
    """
    if isinstance(config, ArrayData):
        return Arrays(config, inputs, seed)
    return Tokens(config, inputs, seed)


class Arrays:
    """Rows of arrays: each once in an epoch, each epoch in an order of its own.

    Args:
        config: the file and its arrays.
        inputs: the graph's.
        seed: of the order.

    Raises:
        DataError: the file cannot be read, lacks an array, or its arrays differ in length.
    """

    def __init__(self, config: ArrayData, inputs: Sequence[str], seed: int) -> None:
        arrays = read_arrays(config.path)
        for name in config.inputs:
            if name not in inputs:
                raise DataError(f"data.inputs.{name}: the graph has no such input; {suggest(name, inputs)}")
        self._inputs = {
            name: _columns(arrays, config.inputs.get(name, name), f"input {name!r}", config.path)
            for name in inputs
        }
        self._target = _columns(arrays, config.target, "data.target", config.path)
        lengths = {name: len(a) for name, a in (*self._inputs.items(), (config.target, self._target))}
        if len(set(lengths.values())) != 1 or not len(self._target):
            raise DataError(f"{config.path}: arrays of {lengths} rows; all need the same number, at least 1")
        self._seed = seed
        self._mixture = Mixture.of({"rows": len(self._target)}, {"rows": 1.0})

    def __len__(self) -> int:
        return len(self._target)

    def batch(self, start: int, stop: int) -> GraphBatch:
        """Rows start .. stop-1 of the global order."""
        _, rows = samples(self._seed, self._mixture, start, stop)
        chosen = {name: torch.from_numpy(array[rows]) for name, array in self._inputs.items()}
        return GraphBatch(chosen, torch.from_numpy(self._target[rows]))


class Tokens:
    """Rows of tokens with the next token of each.

    Args:
        config: where they are, and which inputs take them.
        inputs: the graph's.
        seed: of the order.

    Raises:
        DataError: there is no such data, or the graph has no such input.
    """

    def __init__(self, config: TokenRows, inputs: Sequence[str], seed: int) -> None:
        named = {"data.ids": config.ids, "data.mask": config.mask, "data.positions": config.positions}
        for field, name in named.items():
            if name is not None and name not in inputs:
                raise DataError(f"{field} = {name!r}: the graph has no such input; {suggest(name, inputs)}")
        if rest := [name for name in inputs if name not in named.values()]:
            raise DataError(
                f"the graph reads {few(rest)} as well; name what takes a mask or positions with data.mask "
                "and data.positions, or train it on arrays"
            )
        self._config = config
        plain = DataConfig(path=config.path, seq_len=config.seq_len)
        self._rows = TrainingRows(TokenData.open(config.path), plain, seed)

    def batch(self, start: int, stop: int) -> GraphBatch:
        """Rows start .. stop-1 of the global order."""
        batch, config = self._rows.batch(start, stop), self._config
        ids = batch.ids.long()
        inputs = {config.ids: ids}
        if config.mask is not None:
            inputs[config.mask] = torch.ones_like(ids)
        if config.positions is not None:
            inputs[config.positions] = torch.arange(ids.shape[1]).expand_as(ids).contiguous()
        assert batch.labels is not None, "rows of text have labels"
        return GraphBatch(inputs, batch.labels.long())


def read_arrays(path: str | Path) -> Mapping[str, NDArray[Any]]:
    """The arrays of a .npz, .safetensors or .csv file (a header and numbers), by name.

    Raises:
        DataError: it cannot be read; a file of pickled objects is refused.
    """
    file = Path(path)
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        if file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return dict(load_file(file))
        if file.suffix == ".csv":
            return _read_csv(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise DataError(f"{file}: {error}") from error
    raise DataError(f"{file}: rows are read from .npz, .safetensors and .csv files")


def _read_csv(file: Path) -> dict[str, NDArray[Any]]:
    with file.open(newline="", encoding="utf-8") as lines:
        header, *rows = csv.reader(lines)
    columns = list(zip(*rows, strict=True))
    return {name: _numbers(column) for name, column in zip(header, columns, strict=True)}


def _numbers(column: Sequence[str]) -> NDArray[Any]:
    try:
        return np.array([int(value) for value in column], dtype=np.int64)
    except ValueError:
        return np.array([float(value) for value in column], dtype=np.float32)


def _columns(arrays: Mapping[str, NDArray[Any]], names: str, what: str, path: str) -> NDArray[Any]:
    """One array, or several columns side by side."""
    if names in arrays:
        return arrays[names]
    found = []
    for name in (n.strip() for n in names.split(",")):
        if name not in arrays:
            raise DataError(f"{path} has no {name!r} for {what}; {suggest(name, arrays)}")
        found.append(arrays[name])
    return np.stack(found, 1)
