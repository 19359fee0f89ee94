"""`mainspring doctor`: what this machine has, what is missing, and what is lost without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import typer

from mainspring.cli.console import out, table, write_json

_QUICKSTART_MEMORY = 4 * 2**30
Status = Literal["ok", "missing", "failed"]


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    """What was looked at."""
    status: Status
    """ok; missing: not there, and the rest works without it; failed: Mainspring cannot work."""
    found: str
    """What is there."""
    lost: str = ""
    """What does not work without it, and how to get it."""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Write the findings as JSON.")] = False,
) -> None:
    """Say what this machine has, what is missing and what is lost without it.

    Ends with exit code 0 unless something that Mainspring cannot work without is missing.
    """
    checks = list(examine())
    if as_json:
        write_json([asdict(check) for check in checks])
    else:
        signs = {"ok": "[green]ok[/]", "missing": "[yellow]--[/]", "failed": "[red]!![/]"}
        shown = table("This machine", "", "what", "found", "without it")
        for check in checks:
            shown.add_row(signs[check.status], check.name, check.found, check.lost)
        out().print(shown)
        failed = [check.name for check in checks if check.status == "failed"]
        verdict = f"cannot work: {', '.join(failed)}" if failed else "all that is required is here"
        out().print(f"\n{verdict}", style="bold red" if failed else "bold green")
    raise typer.Exit(1 if any(check.status == "failed" for check in checks) else 0)


def examine() -> Iterator[Check]:
    """Look at everything, the required things first."""
    yield _python()
    yield from _required_packages()
    yield from _machine()
    yield _accelerators()
    yield _gloo()
    yield _shared_memory()
    yield _compiler()
    yield _kernels()
    yield from _precisions()
    yield from _extras()
    yield _browser()


def _python() -> Check:
    import platform
    import sys

    good = sys.version_info >= (3, 11)
    return Check(
        "python",
        "ok" if good else "failed",
        f"{platform.python_version()} at {sys.executable}",
        "" if good else "3.11 or newer is needed",
    )


def _required_packages() -> Iterator[Check]:
    """What the package's own metadata asks for (without extras), and whether versions fit."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    for text in requires("mainspring") or []:
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            yield _package(wanted.name, str(wanted.specifier), "failed", f"pip install '{wanted}'")


def _package(name: str, specifier: str, otherwise: Status, lost: str) -> Check:
    from importlib.metadata import PackageNotFoundError, version

    from packaging.specifiers import SpecifierSet

    try:
        installed = version(name)
    except PackageNotFoundError:
        return Check(name, otherwise, "not installed", lost)
    if not SpecifierSet(specifier).contains(installed, prereleases=True):
        return Check(name, otherwise, f"{installed}, but {specifier} is needed", lost)
    return Check(name, "ok", installed)


def _machine() -> Iterator[Check]:
    import os

    import torch

    from mainspring.parallel.world import usable_cores
    from mainspring.planner.memory import available_memory
    from mainspring.planner.processor import cpu_model
    from mainspring.planner.units import amount

    yield Check("cores", "ok", f"{usable_cores()} usable; {cpu_model()}")
    capability = torch.backends.cpu.get_cpu_capability()
    yield Check("vector instructions", "ok", f"torch uses {capability}")
    fast = [
        name
        for name, has in (
            ("bf16", torch.cpu._is_avx512_bf16_supported),
            ("int8 (VNNI)", torch.cpu._is_vnni_supported),
            ("AMX", torch.cpu._is_amx_tile_supported),
        )
        if has()
    ]
    yield Check(
        "matrix instructions",
        "ok" if fast else "missing",
        ", ".join(fast) or "none",
        "" if fast else "bf16 is computed in fp32 and is no faster",
    )
    available = available_memory()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    enough = available > _QUICKSTART_MEMORY
    yield Check(
        "memory",
        "ok" if enough else "missing",
        f"{amount(available, 'B')} available of {amount(total, 'B')} (the cgroup's limit included)",
        "" if enough else f"the quickstart needs about {amount(_QUICKSTART_MEMORY, 'B')}",
    )


def _accelerators() -> Check:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if names:
        return Check("accelerators", "ok", ", ".join(names))
    return Check("accelerators", "missing", "none that torch can use", "everything runs on the CPU")


def _gloo() -> Check:
    """Whether processes of this machine can talk: a gloo group of one over loopback, and one collective."""
    import torch
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_gloo_available():
        return Check("gloo", "failed", "torch was built without it", "training on several processes")
    if dist.is_initialized():
        return Check("gloo", "ok", "in use by this process")
    try:
        store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        try:
            value = torch.ones(1)
            dist.all_reduce(value)
        finally:
            dist.destroy_process_group()
    except (RuntimeError, ValueError, OSError) as error:
        return Check(
            "gloo",
            "failed",
            f"a group over loopback fails: {error}",
            "training on several processes; does the machine's name resolve (/etc/hosts)?",
        )
    return Check("gloo", "ok", "a group over loopback answers")


def _shared_memory() -> Check:
    """Whether ranks of this machine can exchange tensors without sockets."""
    from mainspring.comm import shared

    reason = shared.unsupported()
    if reason is None:
        return Check("shared memory", "ok", "ranks of one host exchange tensors through it")
    return Check("shared memory", "missing", reason, "ranks of one host talk over gloo, several times slower")


def _compiler() -> Check:
    import shutil

    names = ("c++", "g++", "clang++")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found:
        return Check("C++ compiler", "ok", found)
    lost = "torch.compile on the CPU, export --format aot, our kernels of int8 and int4 (torch's are slower)"
    return Check("C++ compiler", "missing", f"none of {', '.join(names)}", lost)


def _kernels() -> Check:
    """Which path quantised layers take here."""
    from mainspring.infer.quantized.kernels import fast_int_mm
    from mainspring.infer.quantized.native import native_kernels

    try:
        path = native_kernels().name
    except OSError as error:
        products = "PyTorch's int8 products" if fast_int_mm() else "fp32 products"
        return Check(
            "int8 and int4 kernels",
            "missing",
            f"portable, by {products}: {str(error)[:200]}",
            "int8 and int4 models give the same and are slower; install g++",
        )
    return Check("int8 and int4 kernels", "ok", f"compiled, {path}")


def _precisions() -> Iterator[Check]:
    """What models can be run in here, and by what."""
    import torch

    from mainspring.infer.precision import PRECISIONS, notes

    for name, info in PRECISIONS.items():
        said = notes(name, torch.device("cpu"))
        found = f"{info.summary} ({info.tier} tier)"
        yield Check(f"precision: {name}", "missing" if said else "ok", found, "; ".join(said))


_EXTRAS = {
    "serve": "mainspring serve",
    "plot": "the curves of a report (mainspring report, quickstart)",
    "tensorboard": "writing TensorBoard files (train.tensorboard=true)",
    "onnx": "nothing yet: ONNX graphs come with the inference engine",
    "search": "mainspring search",
    "pdf": "reading PDF files (mainspring search index)",
    "bench": "the comparisons of benchmarks/",
    "dev": "make check and make test",
}


def _extras() -> Iterator[Check]:
    """Each extra of the package's metadata that brings packages of its own."""
    from importlib.metadata import metadata, requires

    from packaging.requirements import Requirement

    every = [Requirement(text) for text in requires("mainspring") or []]
    for extra in metadata("mainspring").get_all("Provides-Extra") or []:
        own = [
            r
            for r in every
            if r.marker
            and r.marker.evaluate({"extra": extra})
            and not r.marker.evaluate({"extra": ""})
            and r.name != "mainspring"
        ]
        if not own:
            continue
        checks = [_package(r.name, str(r.specifier), "missing", "") for r in own]
        lacking = [f"{c.name} ({c.found})" for c in checks if c.status != "ok"]
        if lacking:
            lost = f"{_EXTRAS.get(extra, extra)}; pip install 'mainspring[{extra}]'"
            yield Check(f"extra: {extra}", "missing", f"lacks {', '.join(lacking)}", lost)
        else:
            yield Check(f"extra: {extra}", "ok", ", ".join(c.name for c in checks))


def _browser() -> Check:
    import shutil

    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found:
        return Check("Chromium", "ok", found)
    return Check("Chromium", "missing", "not on the path", "the tests of the web pages are left out")
