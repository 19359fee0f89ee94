"""Task models and embedders in narrow formats: bytes are stored, values come back."""

from pathlib import Path

import pytest
import torch

from mainspring.compress import formats_for, quantize
from mainspring.errors import WeightsError
from mainspring.finetune.native import export_native_task, import_native_task
from mainspring.finetune.pooling import EmbedConfig, Embedder
from mainspring.models import ModelConfig, resolve
from mainspring.nn import initialize
from mainspring.numerics import format_named


def test_narrow_parameters_come_back_as_their_bytes_say(tmp_path: Path) -> None:
    config = resolve(ModelConfig(family="gpt2", preset="tiny"), 300)
    embedder = initialize(Embedder(config, EmbedConfig()), seed=0).eval().requires_grad_(False)
    exact = {name: tensor.clone() for name, tensor in embedder.state_dict().items()}
    int8 = format_named("int8")
    done = quantize(embedder.encoder, formats_for(embedder.encoder, int8, embeddings=int8))
    assert done.encoded
    export_native_task(
        embedder,
        None,
        tmp_path,
        family="gpt2",
        encoded={f"encoder.{name}": one for name, one in done.encoded.items()},
        formats={f"encoder.{name}": one for name, one in done.formats.items()},
    )
    settings, state = import_native_task(tmp_path)
    assert set(settings.encoded) == {f"encoder.{name}" for name in done.encoded}
    assert set(state) == set(exact)
    for name, tensor in embedder.state_dict().items():
        assert torch.equal(state[name], tensor)  # the values that the bytes say, to the last bit
        assert (name in settings.encoded) == (not torch.equal(tensor, exact[name]))
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert size < 0.6 * sum(tensor.nbytes for tensor in exact.values())
    settings_file = tmp_path / "mainspring_task.json"
    settings_file.write_text(settings_file.read_text().replace('"int8"', '"int9"'))
    with pytest.raises(WeightsError, match="int9"):
        import_native_task(tmp_path)
