"""Run a program's text as `python -W error -c TEXT` would, in a process that has the imports already."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
import types
import warnings
from pathlib import Path

from support.spawn import PRELOAD


def run_script(text: str, folder: Path, timeout: float) -> tuple[int, str]:
    """Exit status, and what it wrote to both streams.

    Args:
        text: the program; warnings are errors in it.
        folder: where it runs, and where its output is kept meanwhile.
        timeout: seconds it may take; then it is killed, and the status is -9.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    output = folder.parent / f"{folder.name}.output"
    process = context.Process(target=_script, args=(text, str(folder), str(output)))
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
    status = process.exitcode
    process.close()
    assert status is not None
    return status, output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""


def _script(text: str, folder: str, output: str) -> None:
    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = "1"
    with Path(output).open("wb", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    warnings.resetwarnings()
    warnings.simplefilter("error")
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.argv = ["-c"]
    sys.path[:0] = [""]
    status = 0
    try:
        exec(compile(text, "<page>", "exec"), vars(main))
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)
