"""mainspring generate: continue a prompt."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring.cli.inference import Device, PrecisionName, SelfCheck, tell
from mainspring.errors import UsageError

if TYPE_CHECKING:
    from mainspring.infer import Completion, Engine, GenerateOptions


class Stopping(StrEnum):
    """When beam search ends."""

    no = "no"
    yes = "yes"
    never = "never"


def generate(
    command: typer.Context,
    path: Annotated[
        Path, typer.Argument(help="Run, checkpoint (RUN/checkpoints/step-...) or exported model (folder).")
    ],
    prompt: Annotated[str, typer.Argument(help="Text to continue; - reads it from standard input.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[plan.tensor=N]",
            show_default=False,
            help="Cut the model over N ranks of this machine, which are started for it; each one's memory "
            "and time are told.",
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate at most.")] = 64,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="0 takes the most probable token; higher is more varied.", show_default="0.8; with beams 0"
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Sample among this many tokens; 0 is all.")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Sample among the tokens that make up this probability.")
    ] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 makes repetition less probable.")] = 1.0,
    no_repeat_ngram: Annotated[
        int, typer.Option(help="Write no run of so many tokens twice, e.g. 3; 0 allows all.")
    ] = 0,
    beams: Annotated[
        int, typer.Option(help="Beam search with this many hypotheses; needs --temperature 0.")
    ] = 1,
    length_penalty: Annotated[float, typer.Option(help="Beam search: above 0 favours long texts.")] = 1.0,
    early_stopping: Annotated[
        Stopping,
        typer.Option(
            help="Beam search ends: yes, when so many hypotheses have; no, when the best open one cannot win "
            "at its present length; never, when it could not at any."
        ),
    ] = Stopping.no,
    n: Annotated[int, typer.Option("--n", "-n", help="Number of completions.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be given several times.")
    ] = None,
    echo: Annotated[bool, typer.Option("--echo", help="Print the prompt before its completion.")] = False,
    stream: Annotated[bool, typer.Option(help="Print the text as it comes.")] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the completions with all that is known, as JSON.")
    ] = False,
    direction: Annotated[
        str | None,
        typer.Option(
            help="Languages of a model that translates several: en-de.", show_default="the only one"
        ),
    ] = None,
    draft: Annotated[
        Path | None,
        typer.Option(
            help="A small model of the same tokenizer that drafts tokens for this one to judge.",
            show_default="none",
        ),
    ] = None,
    draft_tokens: Annotated[int, typer.Option(help="Tokens that it drafts at a time.")] = 4,
    precision: PrecisionName = "fp32",
    self_check: SelfCheck = False,
    device: Device = "cpu",
) -> None:
    """Continue a prompt with a trained model.

    mainspring generate runs/quickstart "Once upon a time" --seed 7

    mainspring generate runs/large "Once upon a time" plan.tensor=2
    """
    from mainspring.cli.spread import generate_spread, plan_of
    from mainspring.infer import Engine, GenerateOptions

    if temperature is None:
        temperature = 0.8 if beams == 1 else 0.0
    options = GenerateOptions(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram=no_repeat_ngram,
        num_beams=beams,
        length_penalty=length_penalty,
        early_stopping="never" if early_stopping is Stopping.never else early_stopping is Stopping.yes,
        n=n,
        seed=seed,
        stop=tuple(stop or ()),
        echo=echo,
        draft=None if draft is None else Engine.load(draft, device, direction=direction),
        draft_tokens=draft_tokens,
    )
    plan = plan_of(overrides)
    if plan.world > 1 and prompt == "-":
        raise UsageError("with plan.tensor > 1 every rank needs the prompt: give it as an argument")
    text = _stdin() if prompt == "-" else prompt
    if plan.world > 1:
        generate_spread(
            command,
            path,
            text,
            options,
            plan,
            device=device,
            precision=precision,
            direction=direction,
            self_check=self_check,
            as_json=as_json,
        )
        return
    engine = Engine.load(path, device, precision, direction=direction, self_check=self_check)
    tell(engine)
    if as_json:
        completions = [_described(completion) for completion in engine.generate([text], options)]
        write(json.dumps(completions, indent=2, ensure_ascii=False) + "\n")
    elif stream and n == 1:
        _stream(engine, text, options)
    else:
        for completion in engine.generate([text], options):
            write(f"[{completion.index + 1}]\n" * (n > 1) + completion.text + "\n")


def _described(completion: Completion) -> dict[str, Any]:
    told, speculation = asdict(completion), completion.speculation
    told["speculation"] = None if speculation is None else {**speculation._asdict(), "rate": speculation.rate}
    return told


def _stream(engine: Engine, text: str, options: GenerateOptions) -> None:
    pieces = engine.stream(text, options)
    try:
        for piece in pieces:
            write(piece.text)
    finally:
        write("\n")


def write(text: str) -> None:
    """Write text at once, as UTF-8 where the terminal takes it."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"standard input is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        ) from error
