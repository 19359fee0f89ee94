"""Docstrings of Python source files, found by parsing. Uses the standard library alone, so that it also runs
as a script in a process of its own: it reads lines of paths and answers each with a line of JSON.

A process of its own, because parsing is several times faster without the cyclic garbage collector, which a
library must not switch off in its caller's process, and because it uses the second core.
"""

from __future__ import annotations

import ast
import gc
import inspect
import json
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

_QUOTED = re.compile(rb"\"\"\"(.*?)\"\"\"|'''(.*?)'''", re.S)
_LEAST_SHARE = 0.04
"""Files with less triple-quoted text than this share of their size are not worth parsing."""
_LEAST_LETTERS = 40
_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
_Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def module_documentation(path: str, module: str) -> tuple[list[tuple[str, str]], str | None]:
    """Heading and docstring of the module and of each class and function in it that has one, in order of the
    source, and what was wrong with the file, if anything.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        return [], f"cannot be read: {error.strerror}"
    if sum(len(a) + len(b) for a, b in _QUOTED.findall(data)) < max(_LEAST_LETTERS, _LEAST_SHARE * len(data)):
        return [], None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            tree = ast.parse(data)
        return list(_parts(tree, module)), None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return [], f"cannot be parsed: {error}"


def _parts(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    stack: list[tuple[_Scope, str]] = [(tree, "")]
    while stack:
        node, prefix = stack.pop()
        name = "" if isinstance(node, ast.Module) else f"{prefix}{node.name}"
        if doc := _docstring(node):
            heading = _heading(node, name, module)
            f"{heading}{doc}".encode()  # lone surrogates have no bytes: a ValueError
            yield heading, doc
        if not isinstance(node, _FUNCTION):
            inner = f"{name}." if name else ""
            scopes = [n for n in node.body if isinstance(n, (ast.ClassDef, *_FUNCTION))]
            stack.extend((scope, inner) for scope in reversed(scopes))


def _docstring(node: _Scope) -> str:
    first = node.body[0] if node.body else None
    if not (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        return ""
    return inspect.cleandoc(first.value.value).strip()


def _heading(node: _Scope, name: str, module: str) -> str:
    if isinstance(node, ast.Module):
        return f"module {module}"
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {name}({bases}):" if bases else f"class {name}:"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    return f"{word} {name}({ast.unparse(node.args)}){returns}:"


def serve(requests: Iterable[bytes], answers: BinaryIO) -> None:
    """Answer each line, a JSON list of [path, module], with a line, a JSON list of what
    `module_documentation` gives."""
    for line in requests:
        found = [module_documentation(path, module) for path, module in json.loads(line)]
        answers.write(json.dumps(found).encode("ascii") + b"\n")
        answers.flush()


if __name__ == "__main__":
    gc.disable()
    serve(sys.stdin.buffer, sys.stdout.buffer)
