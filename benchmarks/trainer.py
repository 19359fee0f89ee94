"""transformers' Trainer as a peer: its steps on given examples, timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from typing import Any


def ends_of_steps(
    model: Any, examples: Sequence[dict[str, Any]], *, rows: int, steps: int, precision: str, **settings: Any
) -> list[float]:
    """When each step ended (seconds of a clock that only differences mean something of).

    Args:
        model: one of transformers'.
        examples: what its forward takes, one after another.
        rows: examples of a step and process.
        steps: how many.
        precision: `fp32` or `bf16`, by autocast.
        settings: further ones of `TrainingArguments`.
    """
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity_error()
    ends: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            output_dir=out, per_device_train_batch_size=rows, max_steps=steps, lr_scheduler_type="constant",
            use_cpu=True, logging_steps=1, save_strategy="no", report_to=[], optim="adamw_torch_fused",
            bf16=precision == "bf16", disable_tqdm=True, **settings,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=examples, callbacks=[Watch()]).train()
    return ends
