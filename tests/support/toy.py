"""A random toy model in the Hugging Face layout, for tests that need something to load."""

from pathlib import Path

from mainspring.models import ModelConfig, resolve
from mainspring.models.hub import export_hf
from mainspring.nn import Transformer, initialize
from mainspring.text import train_tokenizer

MODEL = ModelConfig(
    family="gpt2", preset="tiny", config={"d_model": 32, "n_layers": 2, "d_ff": 64, "max_positions": 512}
)


def export_toy(folder: Path) -> Path:
    """Write the model and its tokenizer into `folder`."""
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 4, "bpe", 270)
    tokenizer.save(folder / "tokenizer.json")
    config = resolve(MODEL, tokenizer.vocab_size)
    model = initialize(Transformer(config), seed=0)
    return export_hf(MODEL, config, model.state_dict(), folder / "tokenizer.json", folder)
