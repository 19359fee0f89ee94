"""Makes what the peers run, of random weights: `PEERS/bin/python -m benchmarks.inferring.prepare FOLDER`.

Runs in the peers' environment. Each artefact is made once; what cannot be made leaves its reason beside it.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CONFIGS: dict[str, dict[str, Any]] = {
    "bert-base": {},
    "minilm-l6": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
}


def bert(name: str, attention: str = "sdpa") -> Any:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(**CONFIGS[name], attn_implementation=attention)
    return BertModel(config, add_pooling_layer=False).eval()


def gpt2(attention: str = "sdpa") -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(attn_implementation=attention)).eval()


class Encoding(nn.Module):
    """ids and mask -> hidden states."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden


class Decoding(nn.Module):
    """ids and past keys and values -> logits of the last token, and keys and values."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        out = self.model(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        present = [t for layer in out.past_key_values.layers for t in (layer.keys, layer.values)]
        return (out.logits, *present)


def export_encoder(name: str, path: Path) -> None:
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    inputs = (torch.ones(2, 9, dtype=torch.int64), torch.ones(2, 9, dtype=torch.int64))
    torch.onnx.export(
        Encoding(bert(name)),
        inputs,
        str(path),
        input_names=["input_ids", "attention_mask"],
        output_names=["hidden"],
        dynamo=True,
        dynamic_shapes=(dynamic, dynamic),
        external_data=False,
    )


def export_decoder(path: Path) -> None:
    auto = torch.export.Dim.DYNAMIC
    past = [torch.zeros(2, 12, 5, 64) for _ in range(24)]
    names = [f"{kind}{layer}" for layer in range(12) for kind in ("k", "v")]
    torch.onnx.export(
        Decoding(gpt2()),
        (torch.ones(2, 3, dtype=torch.int64), past),
        str(path),
        input_names=["input_ids", *names],
        output_names=["logits", *(f"new_{name}" for name in names)],
        dynamo=True,
        dynamic_shapes=({0: auto, 1: auto}, [{0: auto, 2: auto}] * 24),
        external_data=False,
    )


def quantize_ort(source: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(source), str(path), weight_type=QuantType.QInt8, per_channel=True)


def openvino_int8(source: Path, path: Path) -> None:
    """Static quantisation with NNCF of an encoder: random texts calibrate it."""
    import nncf
    import openvino as ov

    model = ov.Core().read_model(str(source))
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, 30522, (1, 128), generator=generator).numpy() for _ in range(32)]
    data = nncf.Dataset(rows, lambda ids: {"input_ids": ids, "attention_mask": ids * 0 + 1})
    kind = nncf.ModelType.TRANSFORMER
    ov.save_model(
        nncf.quantize(model, data, model_type=kind, subset_size=32), str(path), compress_to_fp16=False
    )


def openvino_decoder(source: Path, path: Path, *, int8: bool) -> None:
    """A stateful decoder: keys and values are the model's state."""
    import nncf
    import openvino as ov
    from openvino._offline_transformations import apply_make_stateful_transformation

    model = ov.Core().read_model(str(source))
    if int8:
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    pairs = {name: f"new_{name}" for port in model.inputs for name in port.get_names() if name != "input_ids"}
    apply_make_stateful_transformation(model, pairs)
    ov.save_model(model, str(path), compress_to_fp16=False)


def gguf_decoder(path: Path, kind: str) -> None:
    import gguf

    model = gpt2()
    quantized = {"f32": gguf.GGMLQuantizationType.F32}
    quantized |= {"q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_0": gguf.GGMLQuantizationType.Q4_0}
    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_block_count(12)
    writer.add_context_length(1024)
    writer.add_embedding_length(768)
    writer.add_feed_forward_length(3072)
    writer.add_head_count(12)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(50257)
    writer.add_tokenizer_model("no_vocab")
    names = {
        "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    }  # fmt: skip
    for name, tensor in model.transformer.state_dict().items():
        module, _, leaf = name.rpartition(".")
        block, short = "", module
        if module.startswith("h."):
            _, number, short = module.split(".", 2)
            block = f"blk.{number}."
        matrix = tensor.ndim == 2
        data = (tensor.t() if matrix and short not in ("wte", "wpe") else tensor).contiguous().float().numpy()
        form = quantized[kind] if matrix and short != "wpe" else gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"{block}{names[short]}.{leaf}", gguf.quants.quantize(data, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def save_hf(name: str, folder: Path) -> None:
    """A model of transformers with a tokenizer of invented words, as CTranslate2's converter wants it."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    model = gpt2() if name == "gpt2" else bert(name)
    model.config.position_embedding_type = "absolute"  # gone from transformers 5; the converter reads it
    model.save_pretrained(folder)
    words = {f"w{i}": i for i in range(model.config.vocab_size - 2)}
    words |= {"[UNK]": len(words), "[PAD]": len(words) + 1}
    fast = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    told = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "[UNK]")
    PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="[PAD]", **told).save_pretrained(folder)


def ctranslate2(source: Path, path: Path, kind: str) -> None:
    from ctranslate2.converters import TransformersConverter

    if not source.exists():
        save_hf(source.name.removesuffix("-hf"), source)
    TransformersConverter(str(source)).convert(str(path), quantization=kind)


def plan(folder: Path) -> dict[str, Callable[[], None]]:
    """What makes each artefact."""
    steps: dict[str, Callable[[], None]] = {}
    for name in CONFIGS:
        onnx = folder / f"{name}.onnx"
        steps[onnx.name] = lambda name=name, onnx=onnx: export_encoder(name, onnx)  # type: ignore[misc]
        steps[f"{name}-int8.onnx"] = lambda name=name, onnx=onnx: quantize_ort(  # type: ignore[misc]
            onnx, folder / f"{name}-int8.onnx"
        )
        steps[f"{name}-int8.xml"] = lambda name=name, onnx=onnx: openvino_int8(  # type: ignore[misc]
            onnx, folder / f"{name}-int8.xml"
        )
    onnx = folder / "gpt2.onnx"
    steps[onnx.name] = lambda: export_decoder(onnx)
    steps["gpt2-int8.onnx"] = lambda: quantize_ort(onnx, folder / "gpt2-int8.onnx")
    for int8 in (False, True):
        path = folder / f"gpt2{'-int8' if int8 else ''}.xml"
        steps[path.name] = lambda path=path, int8=int8: openvino_decoder(  # type: ignore[misc]
            onnx, path, int8=int8
        )
    for kind in ("q8_0", "q4_0"):
        steps[f"gpt2-{kind}.gguf"] = lambda kind=kind: gguf_decoder(  # type: ignore[misc]
            folder / f"gpt2-{kind}.gguf", kind
        )
    for name in (*CONFIGS, "gpt2"):
        for kind in ("float32", "int8"):
            path = folder / f"{name}-{kind}.ct2"
            steps[path.name] = lambda name=name, path=path, kind=kind: ctranslate2(  # type: ignore[misc]
                folder / f"{name}-hf", path, kind
            )
    return steps


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    reasons = folder / "reasons.json"
    failed = json.loads(reasons.read_text()) if reasons.exists() else {}
    for name, make in plan(folder).items():
        if (folder / name).exists() or (sys.argv[2:] and name not in sys.argv[2:]):
            continue
        print(name, flush=True)
        try:
            make()
            failed.pop(name, None)
        except Exception as error:
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
        reasons.write_text(json.dumps(failed, indent=1))


if __name__ == "__main__":
    main()
