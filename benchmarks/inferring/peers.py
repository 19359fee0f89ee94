"""Every peer behind the worker's protocol; imported in the peers' environment only.

Encoders pad the rows of a batch to the longest. Writers choose greedily and are given 2 threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 2
Tokens = Any


def padded(rows: list[list[int]]) -> tuple[Any, Any]:
    """ids and mask, int64 [B, T]."""
    longest = max(map(len, rows))
    ids = np.zeros((len(rows), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return ids, mask


class Transformers:
    """Hugging Face's modules: eager or SDPA attention, or compiled."""

    def __init__(self, model: str, folder: Path, *, attention: str, compiled: bool = False) -> None:
        import torch

        from benchmarks.inferring.prepare import bert, gpt2

        torch.set_num_threads(THREADS)
        torch.set_grad_enabled(False)
        self.torch = torch
        self.model: Any = gpt2(attention) if model == "gpt2" else bert(model, attention)
        if compiled:
            torch._inductor.config.freezing = True
            self.model = torch.compile(self.model)

    def artefact(self) -> Path | None:
        return None

    def encode(self, rows: list[list[int]]) -> None:
        ids, mask = map(self.torch.from_numpy, padded(rows))
        full = bool(mask.all())
        with self.torch.inference_mode():
            self.model(input_ids=ids, attention_mask=None if full else mask)

    def prefill(self, rows: list[list[int]], new: int) -> Tokens:
        self.past = None
        return self._read(self.torch.tensor(rows))

    def step(self, tokens: Tokens) -> Tokens:
        return self._read(tokens)

    def _read(self, ids: Any) -> Tokens:
        with self.torch.inference_mode():
            out = self.model(input_ids=ids, past_key_values=self.past, use_cache=True, logits_to_keep=1)
        self.past = out.past_key_values
        return out.logits[:, -1:].argmax(-1)


class OnnxRuntime:
    """ONNX Runtime; a decoder's keys and values stay in its own memory (IO binding)."""

    def __init__(self, model: str, folder: Path, *, suffix: str) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.log_severity_level = 3
        self.path = folder / f"{model}{suffix}.onnx"
        self.session = ort.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        self.ort = ort
        self.names = [i.name for i in self.session.get_inputs()][1:]

    def artefact(self) -> Path | None:
        return self.path

    def encode(self, rows: list[list[int]]) -> None:
        ids, mask = padded(rows)
        self.session.run(None, {"input_ids": ids, "attention_mask": mask})

    def prefill(self, rows: list[list[int]], new: int) -> Tokens:
        empty = np.zeros((len(rows), 12, 0, 64), np.float32)
        self.past = [self.ort.OrtValue.ortvalue_from_numpy(empty) for _ in self.names]
        return self.step(np.array(rows, dtype=np.int64))

    def step(self, tokens: Tokens) -> Tokens:
        binding = self.session.io_binding()
        binding.bind_cpu_input("input_ids", tokens)
        for name, value in zip(self.names, self.past, strict=True):
            binding.bind_ortvalue_input(name, value)
        for output in self.session.get_outputs():
            binding.bind_output(output.name, "cpu")
        self.session.run_with_iobinding(binding)
        logits, *self.past = binding.get_outputs()
        return logits.numpy()[:, -1:].argmax(-1)


class OpenVino:
    """OpenVINO; a decoder's keys and values are its state."""

    def __init__(self, model: str, folder: Path, *, int8: bool) -> None:
        import openvino as ov

        self.path = folder / (
            f"{model}-int8.xml" if int8 else "gpt2.xml" if model == "gpt2" else f"{model}.onnx"
        )
        core = ov.Core()
        told = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}
        self.request = core.compile_model(core.read_model(str(self.path)), "CPU", told).create_infer_request()

    def artefact(self) -> Path | None:
        return self.path

    def encode(self, rows: list[list[int]]) -> None:
        ids, mask = padded(rows)
        self.request.infer({"input_ids": ids, "attention_mask": mask})

    def prefill(self, rows: list[list[int]], new: int) -> Tokens:
        import openvino as ov

        for state in self.request.query_state():
            state.state = ov.Tensor(np.zeros((len(rows), 12, 0, 64), np.float32))
        return self.step(np.array(rows, dtype=np.int64))

    def step(self, tokens: Tokens) -> Tokens:
        out = self.request.infer({"input_ids": tokens})
        return out["logits"][:, -1:].argmax(-1)


class CTranslate2:
    """CTranslate2; it writes all tokens in one call: a step is what 64 more of them take, divided."""

    def __init__(self, model: str, folder: Path, *, kind: str) -> None:
        import ctranslate2

        self.path = folder / f"{model}-{kind}.ct2"
        told = {"device": "cpu", "compute_type": kind, "intra_threads": THREADS, "inter_threads": 1}
        make = ctranslate2.Generator if model == "gpt2" else ctranslate2.Encoder
        self.model: Any = make(str(self.path), **told)

    def artefact(self) -> Path | None:
        return self.path

    def encode(self, rows: list[list[int]]) -> None:
        np.asarray(self.model.forward_batch(rows).last_hidden_state)

    def whole(self, rows: list[list[int]], new: int) -> None:
        """Read the rows and write `new` tokens after each, in one call."""
        words = [[f"w{i}" for i in row] for row in rows]
        told = {"max_length": new, "min_length": new, "include_prompt_in_result": False}
        self.model.generate_batch(words, sampling_topk=1, end_token=[], **told)


class LlamaCpp:
    """llama.cpp, through cyllama."""

    def __init__(self, model: str, folder: Path, *, kind: str) -> None:
        from cyllama.llama import llama_cpp as cpp

        cpp.disable_logging()
        cpp.ggml_backend_load_all()
        self.cpp, self.path = cpp, folder / f"gpt2-{kind}.gguf"
        self.model = cpp.LlamaModel(str(self.path), cpp.LlamaModelParams(), verbose=False)
        self.context: Any = None

    def artefact(self) -> Path | None:
        return self.path

    def prefill(self, rows: list[list[int]], new: int) -> Tokens:
        cpp, room = self.cpp, (len(rows[0]) + new + 1) * len(rows)
        if self.context is None or self.rows != len(rows):
            told = cpp.LlamaContextParams()
            told.n_ctx, told.n_batch, told.n_ubatch = room + 256, 2048, 512
            told.n_seq_max, told.n_threads, told.n_threads_batch = len(rows), THREADS, THREADS
            self.context, self.rows = cpp.LlamaContext(self.model, told, verbose=False), len(rows)
        self.context.kv_cache_clear(True)
        self.length = len(rows[0])
        batch = cpp.LlamaBatch(n_tokens=len(rows) * self.length, embd=0, n_seq_max=len(rows))
        for s, row in enumerate(rows):
            for t, token in enumerate(row):
                batch.add(token, t, [s], t == self.length - 1)
        self.context.decode(batch)
        return self._best([(s + 1) * self.length - 1 for s in range(len(rows))])

    def step(self, tokens: Tokens) -> Tokens:
        batch = self.cpp.LlamaBatch(n_tokens=len(tokens), embd=0, n_seq_max=len(tokens))
        for s, token in enumerate(tokens):
            batch.add(int(token), self.length, [s], True)
        self.length += 1
        self.context.decode(batch)
        return self._best(list(range(len(tokens))))

    def _best(self, places: list[int]) -> Tokens:
        return [int(np.asarray(self.context.get_logits_ith(place)).argmax()) for place in places]


ENGINES: Mapping[str, Callable[[str, Path], Any]] = {
    "transformers eager": partial(Transformers, attention="eager"),
    "transformers SDPA": partial(Transformers, attention="sdpa"),
    "transformers compiled": partial(Transformers, attention="sdpa", compiled=True),
    "ONNX Runtime fp32": partial(OnnxRuntime, suffix=""),
    "ONNX Runtime int8": partial(OnnxRuntime, suffix="-int8"),
    "OpenVINO fp32": partial(OpenVino, int8=False),
    "OpenVINO int8": partial(OpenVino, int8=True),
    "CTranslate2 fp32": partial(CTranslate2, kind="float32"),
    "CTranslate2 int8": partial(CTranslate2, kind="int8"),
    "llama.cpp Q8_0": partial(LlamaCpp, kind="q8_0"),
    "llama.cpp Q4_0": partial(LlamaCpp, kind="q4_0"),
}
