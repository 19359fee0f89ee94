"""What the first layers of a reader give of texts, computed once and kept in a file.

They never change in training; a text that is read in several epochs, or beside several questions, costs the
first layers once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mainspring.data.batch import pad_rows
from mainspring.finetune.reader import Reader, States
from mainspring.finetune.text_reader import batches
from mainspring.train.files import replace_file


class StateCache:
    """States of rows of tokens in fp16, in a file that may be filled in several goes."""

    def __init__(self, folder: Path, reader: Reader, rows: Sequence[Sequence[int]], pad: int) -> None:
        """Lay the file out, or find what an earlier process filled of it.

        Args:
            folder: where.
            reader: whose first layers.
            rows: ids of each row, its marks included.
            pad: id of padding.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._reader, self._rows, self._pad = reader, rows, pad
        self._batches = list(batches([len(row) for row in rows]))
        self._bounds = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        weights = next(iter(reader.encoder.embeddings.parameters())).flatten()[:4096]
        content = json.dumps([reader.config.apart, [list(row) for row in rows], weights.tolist()])
        name = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
        self._progress = folder / f"states-{name}.json"
        path = folder / f"states-{name}.f16"
        shape = (int(self._bounds[-1]), reader.encoder.config.d_model)
        self._filled = json.loads(self._progress.read_text()) if self._progress.exists() else 0
        mode: Literal["r+", "w+"] = "r+" if path.exists() else "w+"
        self._states: np.memmap[tuple[int, int], np.dtype[np.float16]] = np.memmap(
            path, np.float16, mode, shape=shape
        )

    @torch.inference_mode()
    def fill(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compute what is missing. `progress` is told how many tokens of how many are there."""
        total = int(self._bounds[-1])
        done = sum(len(self._rows[i]) for batch in self._batches[: self._filled] for i in batch)
        for number, batch in enumerate(self._batches[self._filled :], self._filled + 1):
            ids, valid = pad_rows([self._rows[i] for i in batch], self._pad)
            states = self._reader.apart(ids, valid).x.to(torch.float16).numpy()
            for at, i in enumerate(batch):
                start, stop = int(self._bounds[i]), int(self._bounds[i + 1])
                self._states[start:stop] = states[at, : stop - start]
                done += stop - start
            if number % 20 == 0 or number == len(self._batches):
                self._states.flush()
                replace_file(self._progress, json.dumps(number).encode())
                self._filled = number
            if progress is not None:
                progress(done, total)

    def states(self, numbers: Sequence[int]) -> States:
        """States of some rows, padded: fp32."""
        lengths = [len(self._rows[i]) for i in numbers]
        x = torch.zeros(len(numbers), max(lengths), self._states.shape[1])
        valid: Tensor = torch.zeros(len(numbers), max(lengths), dtype=torch.bool)
        for at, i in enumerate(numbers):
            start, stop = int(self._bounds[i]), int(self._bounds[i + 1])
            x[at, : stop - start] = torch.from_numpy(np.asarray(self._states[start:stop], dtype=np.float32))
            valid[at, : stop - start] = True
        return States(x, valid)
