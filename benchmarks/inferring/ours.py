"""Mainspring behind the worker's protocol: the modules of training, in precisions of `infer.quantized`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mainspring.data.batch import bidirectional_batch
from mainspring.infer.quantized import load_packed, packed_metadata, packed_state, quantize_model
from mainspring.infer.quantized.native import best_kernels
from mainspring.infer.runner import CachedRunner
from mainspring.models.bert import PRESETS as BERT
from mainspring.models.gpt2 import PRESETS as GPT2
from mainspring.nn import Transformer, TransformerConfig, initialize

THREADS = 2


def config_of(model: str) -> TransformerConfig:
    """The peers' shapes; encoders end with hidden states."""
    if model == "gpt2":
        return GPT2["small"]
    bare: dict[str, Any] = {"head": "none", "head_transform": False, "head_bias": False, "pooler": False}
    if model == "minilm-l6":
        bare |= {"d_model": 384, "n_layers": 6, "n_heads": 12, "d_ff": 1536}
    return BERT["base"].model_copy(update={**bare, "pair_classes": 0})


class Mainspring:
    """A model in a precision, from one packed file."""

    def __init__(self, model: str, folder: Path, *, precision: str) -> None:
        torch.set_num_threads(THREADS)
        torch.set_grad_enabled(False)
        config, kernels = config_of(model), best_kernels()
        self.path = folder / f"{model}-mainspring-{precision}.safetensors"
        if not self.path.exists():
            made = initialize(Transformer(config), seed=0).eval().requires_grad_(False)
            quantize_model(made, precision, kernels=kernels)
            save_file(packed_state(made), self.path, packed_metadata(made))
            raise SystemExit("packed; start again")
        with torch.device("meta"):
            empty = Transformer(config)
        with safe_open(self.path, "pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self.model = load_packed(empty, state, file.metadata(), kernels=kernels).eval()
        self.runner = CachedRunner(self.model, config.vocab_size) if model == "gpt2" else None

    def artefact(self) -> Path | None:
        return self.path

    @torch.inference_mode()
    def encode(self, rows: list[list[int]]) -> None:
        """Rows of one length as they are; others end to end in one row, without padding."""
        lengths = [len(row) for row in rows]
        if min(lengths) == max(lengths):
            self.model(bidirectional_batch(torch.tensor(rows)))
            return
        ids = torch.tensor([[token for row in rows for token in row]])
        doc = torch.arange(len(rows)).repeat_interleave(torch.tensor(lengths))[None]
        self.model(bidirectional_batch(ids, doc=doc))

    def prefill(self, rows: list[list[int]], new: int) -> list[int]:
        assert self.runner is not None
        return self._best(torch.cat(self.runner.prefill(rows, new)))

    def step(self, tokens: list[int]) -> list[int]:
        assert self.runner is not None
        return self._best(self.runner.step(tokens))

    def _best(self, logits: Tensor) -> list[int]:
        best: list[int] = logits.argmax(-1).tolist()
        return best


ENGINES: Mapping[str, Callable[[str, Path], Any]] = {
    f"ours {precision}": partial(Mainspring, precision=precision) for precision in ("fp32", "int8", "int4")
}
