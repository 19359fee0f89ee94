"""The house keeps its floors: imports point down only, and importing the package costs little."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_imports_point_down_only() -> None:
    lint = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_every_package_has_its_floor() -> None:
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    listed = {name for c in contracts if c["type"] == "layers" for name in c["layers"]}
    found = {
        f"mainspring.{p.stem}"
        for p in (ROOT / "src/mainspring").iterdir()
        if p.stem[0] != "_" and (p.is_dir() or p.suffix == ".py") and p.name != "py.typed"
    }
    assert found == listed


def test_import_is_light() -> None:
    heavy = ("torch", "numpy", "transformers", "pydantic")
    code = f"import sys, mainspring; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_the_package_never_imports_its_oracles() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for oracle in ("transformers", "accelerate", "deepspeed", "onnxruntime"):
            assert f"import {oracle}" not in text and f"from {oracle}" not in text, f"{path} imports {oracle}"


def test_environment_and_print_stay_out() -> None:
    allowed_environment = {"parallel/world.py"}
    for path in (ROOT / "src/mainspring").rglob("*.py"):
        name = path.relative_to(ROOT / "src/mainspring").as_posix()
        text = path.read_text(encoding="utf-8")
        assert name.startswith("cli/") or name in allowed_environment or "os.environ" not in text, name
        assert name.startswith("cli/") or not re.search(r"\bprint\(", text), name
