"""Random toy models, for tests that need something to load."""

from pathlib import Path
from typing import Any

from mainspring.models import ModelConfig, resolve
from mainspring.models.hub import export_hf
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.text import train_tokenizer

MODEL = ModelConfig(
    family="gpt2", preset="tiny", config={"d_model": 32, "n_layers": 2, "d_ff": 64, "max_positions": 512}
)


def small(vocab_size: int, **changes: Any) -> TransformerConfig:
    """A transformer of a layer whose weights are wide, so that what it says is not flat."""
    values = {
        "d_model": 16, "n_heads": 2, "n_layers": 1, "d_ff": 32, "max_positions": 32, "init_std": 0.3,
        "vocab_size": vocab_size,
    }  # fmt: skip
    return TransformerConfig.model_validate(values | changes)


def export_toy(folder: Path) -> Path:
    """Write the model and its tokenizer into `folder`."""
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 4, "bpe", 270)
    tokenizer.save(folder / "tokenizer.json")
    config = resolve(MODEL, tokenizer.vocab_size)
    model = initialize(Transformer(config), seed=0)
    return export_hf(MODEL, config, model.state_dict(), folder / "tokenizer.json", folder)
