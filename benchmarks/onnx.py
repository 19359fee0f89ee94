"""ONNX graphs as trainable modules: what can be imported, whether weights survive, how fast a step is.

Three parts, each kept with `--parts`:

- coverage: ONNX's own cases for its operators, and exports of today's torch, by ours and by onnx2torch, which
  runs in an environment of its own (`ENVIRONMENT`) because it brings torchvision;
- the way round: a GPT-2 imported, trained by two ranks under ZeRO 3, written back, and run by ONNX Runtime;
- a training step of an imported BERT beside the transformers module that it was exported from.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, finish, interleave, median, options, resume

ENVIRONMENT = Path("/work/peers/onnx2torch/bin/python")
"""Where onnx2torch is looked for."""
OPSETS = (13, 18, 20, 23)
SKIPPED = ("bernoulli", "training_dropout", "random")
"""Cases whose numbers come from numpy's generator."""
PEER = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, onnx, torch
# torchvision, which onnx2torch imports, declares these only with kernels for its own build of torch.
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(name + "(Tensor a, Tensor b, float c) -> Tensor")
from onnx2torch import convert
told = {}
for folder in sys.argv[1:]:
    try:
        module = convert(onnx.load(f"{folder}/model.onnx")).eval()
        feeds = np.load(f"{folder}/feeds.npz")
        with torch.no_grad():
            found = module(*(torch.from_numpy(feeds[n]) for n in feeds.files))
        found = found if isinstance(found, torch.Tensor) else found[0]
        told[folder] = float(np.abs(found.numpy() - np.load(f"{folder}/wanted.npy")).max())
    except BaseException as error:
        told[folder] = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
print("RESULT" + json.dumps(told))
"""


def coverage() -> list[dict[str, Any]]:
    """ONNX's own cases, by whether the importer gives their outputs."""
    import numpy as np
    from tests.models.onnx.cases import node_cases, run_case

    from mainspring.errors import UsageError

    every, passed, refused, wrong, drawn = node_cases(), 0, 0, 0, 0
    for case in every:
        if any(word in case.name for word in SKIPPED):
            drawn += 1
            continue
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                run_case(case)
            passed += 1
        except UsageError:
            refused += 1
        except Exception:
            wrong += 1
    return [{"cases": len(every), "passed": passed, "refused": refused, "wrong": wrong, "drawn": drawn}]


def networks() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Small networks of today, with inputs by name."""
    import torch
    from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

    shape = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    bert = BertModel(BertConfig(vocab_size=500, attn_implementation="sdpa", **shape))
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=500, n_layer=2, n_embd=64, n_head=4, use_cache=False))
    images = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.BatchNorm2d(16), torch.nn.GELU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 32, 3, 1, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(32, 10),
    )  # fmt: skip
    ids = torch.randint(500, (2, 16))
    mask = torch.ones_like(ids)
    return {
        "BERT": (_First(bert), {"input_ids": ids, "attention_mask": mask}),
        "GPT-2": (_First(gpt2), {"input_ids": ids, "attention_mask": mask}),
        "CNN": (images, {"x": torch.randn(2, 3, 32, 32)}),
    }


def _First(model: Any) -> Any:  # noqa: N802 - makes a module
    """The first output of a transformers module, of positional inputs."""
    import torch

    class First(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]

    return First()


def exported(module: Any, feeds: dict[str, Any], file: Path, opset: int) -> None:
    """Export by the newer exporter from opset 18 on, by the older one below."""
    import torch

    module.eval()
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(feeds.values()),
            str(file),
            opset_version=opset,
            dynamo=opset >= 18,
            verbose=False,
            input_names=list(feeds),
            external_data=False,
        )


def runtime(file: Path, feeds: dict[str, Any]) -> Any:
    """ONNX Runtime's first output."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    return session.run(None, {n: t.numpy() for n, t in feeds.items()})[0]


def exports(quick: bool) -> list[dict[str, Any]]:
    """Today's exports, by ours and onnx2torch: the largest difference from ONNX Runtime, or the error."""
    import numpy as np
    import torch

    from mainspring.models.onnx import read_onnx

    rows = []
    with tempfile.TemporaryDirectory() as root:
        folders: dict[str, tuple[Path, dict[str, Any]]] = {}
        for name, (module, feeds) in networks().items():
            for opset in OPSETS[1:3] if quick else OPSETS:
                folder = Path(root) / f"{name} opset {opset}"
                folder.mkdir()
                try:
                    exported(module, feeds, folder / "model.onnx", opset)
                except Exception as error:
                    rows.append({"graph": folder.name, "exporter": f"fails: {type(error).__name__}"})
                    continue
                np.savez(folder / "feeds.npz", **{n: t.numpy() for n, t in feeds.items()})
                np.save(folder / "wanted.npy", runtime(folder / "model.onnx", feeds))
                folders[folder.name] = folder, feeds
        told = _peer([str(f) for f, _ in folders.values()])
        for name, (folder, feeds) in folders.items():
            wanted = np.load(folder / "wanted.npy")
            graph = read_onnx(folder / "model.onnx")
            with torch.no_grad():
                found = next(iter(graph.module(**feeds).values())).numpy()
            rows.append(
                {
                    "graph": name,
                    "mainspring": float(np.abs(found - wanted).max()),
                    "onnx2torch": told.get(str(folder), "not run: no environment"),
                }
            )
    return rows


def _peer(folders: list[str]) -> dict[str, Any]:
    if not ENVIRONMENT.exists():
        return {}
    ran = subprocess.run(
        [str(ENVIRONMENT), "-c", PEER, *folders], capture_output=True, text=True, check=False
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        reason = (ran.stderr.strip().splitlines() or ["no output"])[-1][:80]
        return dict.fromkeys(folders, f"not run: {reason}")
    told: dict[str, Any] = json.loads(lines[0].removeprefix("RESULT"))
    return told


def way_round(quick: bool) -> list[dict[str, Any]]:
    """Import, two ranks of ZeRO 3, write, ONNX Runtime."""
    import numpy as np
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from mainspring.models.onnx import read_onnx

    layers, rows, length, steps = (2, 4, 16, 3) if quick else (12, 4, 64, 4)
    shape = {"n_layer": layers, "use_cache": False, **({"n_embd": 64, "n_head": 4} if quick else {})}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(attn_implementation="eager", **shape))
    ids = torch.randint(50257, (rows, length))
    feeds = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        exported(_First(model), feeds, folder / "gpt2.onnx", 18)
        data = {n: t.repeat(4, 1).numpy() for n, t in feeds.items()}
        np.savez(folder / "rows.npz", **data, target=np.roll(data["input_ids"], -1, 1))
        began = time.perf_counter()
        ran = subprocess.run(
            [
                sys.executable, "-m", "mainspring", "train", "--model", str(folder / "gpt2.onnx"), "--to",
                str(folder / "run"), "--quiet", f"data.path={folder / 'rows.npz'}", "loss.kind=causal",
                f"train.steps={steps}", f"train.batch_rows={2 * rows}", "plan.data=2", "plan.zero=3",
                "optim.lr=1e-4",
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ran.returncode:
            raise RuntimeError(ran.stderr)
        seconds = time.perf_counter() - began
        trained = folder / "run" / "model.onnx"
        module = read_onnx(trained).module
        with torch.no_grad():
            found = next(iter(module(**feeds).values())).numpy()
        lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if line["event"] == "step_done"]
        wanted = runtime(trained, feeds)
        millions = sum(p.numel() for p in module.parameters()) / 1e6
        return [
            {
                "way round": f"GPT-2, {layers} layers, {millions:.1f} M",
                "plan": "2 ranks, ZeRO 3",
                "first loss": losses[0],
                "last loss": losses[-1],
                "ONNX Runtime, largest difference": float(np.abs(found - wanted).max()),
                "largest logit": float(np.abs(wanted).max()),
                "seconds": seconds,
            }
        ]


def steps(quick: bool) -> list[dict[str, Any]]:
    """A training step of an imported BERT beside that of the module."""
    import torch
    from transformers import BertConfig, BertModel

    from mainspring.models.onnx import read_onnx

    rows, length, layers, rounds = (2, 32, 2, 3) if quick else (4, 128, 6, 5)
    torch.manual_seed(0)
    base = BertModel(
        BertConfig(num_hidden_layers=layers, attn_implementation="eager"), add_pooling_layer=False
    )
    ids = torch.randint(30000, (rows, length))
    feeds = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    module = _First(base)
    with tempfile.TemporaryDirectory() as root:
        exported(module, feeds, Path(root) / "bert.onnx", 18)
        graph = read_onnx(Path(root) / "bert.onnx").module

    def step(run: Callable[[], Any], optimizer: Any) -> float:
        began = time.perf_counter()
        run().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - began

    candidates = {
        "imported graph": partial(
            step,
            lambda: next(iter(graph(**feeds).values())),
            torch.optim.AdamW(graph.parameters(), fused=True),
        ),
        "transformers": partial(
            step, lambda: module(**feeds), torch.optim.AdamW(module.parameters(), fused=True)
        ),
    }
    for run in candidates.values():
        run()
    found = interleave(rounds, candidates)
    what = f"BERT, {layers} layers of 768, {rows} x {length}, fp32, AdamW"
    return [{"step of": f"{what}: {name}", "ms": 1000 * median(times)} for name, times in found.items()]


def main() -> int:
    """Run the parts that are not held."""
    arguments = options(__doc__ or "", parts=True)
    quick, parts = arguments.quick, arguments.parts
    covered = resume(parts, "coverage", coverage) if not quick else []
    graphs = resume(parts, "exports", partial(exports, quick))
    round_trip = resume(parts, "way round", partial(way_round, quick))
    times = resume(parts, "steps", partial(steps, quick))
    bars = []
    if covered:
        told = covered[0]
        bars.append(Bar("cases passed of all", told["passed"] / told["cases"], 0.9))
        bars.append(Bar("cases with wrong numbers", told["wrong"], 0, at_most=True))
    imported = [row for row in graphs if isinstance(row.get("mainspring"), float)]
    worst = max(row["mainspring"] for row in imported)
    bars.append(Bar("imported exports, largest difference from ONNX Runtime", worst, 1e-4, at_most=True))
    parity = round_trip[0]["ONNX Runtime, largest difference"]
    bars.append(Bar("GPT-2 trained and written, difference from ONNX Runtime", parity, 1e-5, at_most=True))
    ratio = times[0]["ms"] / times[1]["ms"]
    bars.append(Bar("BERT step, imported / transformers", ratio, 1.15, at_most=True))
    peers = sum(isinstance(row.get("onnx2torch"), float) for row in imported)
    notes = [
        "Cases are those of onnx.backend.test of the installed onnx; those refused have operators or types "
        "of elements (text, 2 and 4 bits) that are not supported and are named; drawn ones come from numpy's "
        "generator.",
        f"onnx2torch imports {peers} of the {len(imported)} exports that there are; a number is the largest "
        "difference from ONNX Runtime, text its error.",
    ]
    rows = [*covered, *graphs, *round_trip, *times]
    title = "ONNX graphs as trainable modules"
    return finish("onnx", title=title, rows=rows, bars=bars, notes=notes, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
