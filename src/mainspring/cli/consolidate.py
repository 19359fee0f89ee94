"""`mainspring consolidate`: the sharded weights of a checkpoint as whole tensors in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mainspring.cli.console import err, out


def consolidate(
    path: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run directory, or a checkpoint.", show_default=False)
    ],
    to: Annotated[Path, typer.Option("--out", "--to", help="Directory to make.", show_default=False)],
    optimizer: Annotated[bool, typer.Option("--optimizer", help="Write the optimizer's states too.")] = False,
    file_gb: Annotated[
        float, typer.Option(min=0.001, help="Most gigabytes of a file; more are spread over several.")
    ] = 5.0,
) -> None:
    """Write the weights of a checkpoint, however many ranks sharded it, as whole tensors.

    Names are the model's own, the files safetensors. All is checked against the checkpoint's checksums and
    the recipe's shapes, and read back; the directory appears when it is whole.

    mainspring consolidate runs/gpt2 --out models/gpt2

    mainspring consolidate runs/gpt2/checkpoints/step-00000100 --out whole --optimizer
    """
    from mainspring.recipes.consolidation import consolidate_run

    content = consolidate_run(path, to, optimizer=optimizer, file_bytes=int(file_gb * 1e9))
    size = sum(file.size for file in content.files.values())
    err().print(
        f"step {content.step}: {len(content.tensors)} tensors in {len(content.files)} file(s), "
        f"{size / 1e6:,.1f} MB, verified",
        markup=False,
    )
    out().print(str(to), markup=False)
