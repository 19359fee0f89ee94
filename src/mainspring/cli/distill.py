"""`mainspring distill`: train a student to relate tokens as a trained model does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mainspring.cli.carrying import carry_out
from mainspring.cli.options import Overrides, RecipeName
from mainspring.cli.train import Fresh, InitFrom, Nproc, Out, Quiet, Resume, Transformers, given


def distill(
    teacher: Annotated[
        Path,
        typer.Argument(
            metavar="TEACHER",
            help="A run, a checkpoint or an exported model to learn from.",
            show_default=False,
        ),
    ],
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = None,
    nproc: Nproc = None,
    init_from: InitFrom = None,
    resume: Resume = False,
    fresh: Fresh = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe's model as the student of another: MiniLM and MiniLMv2. Goes on as `train` does.

    mainspring distill models/bert-base minilm-l12-h384 objective.relation_heads=48 --to runs/student

    The recipe says what the student is and reads; an objective other than distill is replaced. The data have
    to be built with the teacher's tokenizer.
    """
    from mainspring.recipes import load_student
    from mainspring.train.run import Run

    asked = load_student(recipe, teacher, [*(overrides or ()), *given(nproc, init_from)])
    run = Run(out or Path("runs") / asked.name)
    carry_out(asked, run, Transformers(), resume=resume, fresh=fresh, quiet=quiet)
