"""`mainspring search split`: an index dealt out to shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mainspring.cli.console import out


def split(
    index: Annotated[Path, typer.Argument(help="The index.")],
    to: Annotated[Path, typer.Option("--to", help="Folder of the shards.", show_default=False)],
    shards: Annotated[int, typer.Option(help="How many.")] = 2,
    encode: Annotated[bool, typer.Option(help="Give them vectors, anew.")] = True,
) -> None:
    """Deal the documents of an index out to shards, which are searched as one (query --index FOLDER).

    mainspring search split my-index --to shards --shards 4
    """
    from mainspring.products.search import Index
    from mainspring.products.search.shards import split as deal

    with Index.open(index) as opened:
        folders = deal(opened, to, shards, encode=encode)
    for folder in folders:
        with Index.open(folder, verify=False) as shard:
            counts = shard.store.counts()
        out().print(
            f"{folder}: {counts['documents']:,} documents, {counts['passages']:,} passages, "
            f"{counts['encoded']:,} of them with vectors",
            markup=False,
        )
