"""The report of a run: one HTML file that needs nothing else, neither files nor scripts nor a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib.resources import files

from mainspring.evaluate.comparison import title
from mainspring.planner.units import amount, duration
from mainspring.recipes.report.facts import RunFacts
from mainspring.recipes.report.figures import Line, chart, smooth


def render(facts: RunFacts) -> str:
    """The page as text."""
    parts = [
        _head(facts),
        _tiles(facts),
        _evaluation(facts),
        _curves(facts),
        _plan(facts),
        _samples(facts),
        _search(facts),
        _times(facts),
        _machine(facts),
        _recipe(facts),
        _foot(facts),
    ]
    style = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    name = escape(facts.recipe.name)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} - Mainspring</title>\n"
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(p for p in parts if p)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(facts: RunFacts) -> str:
    model, data = facts.recipe.model, facts.recipe.data
    status = facts.ended["status"] if facts.ended else "under way"
    step = facts.steps[-1]["step"] if facts.steps else 0
    started = facts.started or {}
    where = ""
    if started:  # as it ran: an elastic run takes as many data ranks as there are
        plan = facts.recipe.over(started["world"]).plan
        where = f" on {plan.spread} of {started['device']}, ZeRO-{plan.zero}"
    return (
        f"<header><h1>{escape(facts.recipe.name)}</h1>"
        f'<p class="soft">{escape(model.family)}{" " + escape(model.preset) if model.preset else ""}, '
        f"{escape(facts.recipe.objective.kind)}, rows of {data.seq_len} tokens, "
        f"{facts.recipe.train.precision}{where}. {escape(status).capitalize()} after step {step:,} of "
        f"{facts.recipe.train.steps:,}.</p></header>"
    )


def _tiles(facts: RunFacts) -> str:
    tiles: list[tuple[str, str]] = []
    if facts.evaluation:
        tiles.append((f"{facts.evaluation['model']['bits_per_byte']:.3f}", "bits per byte, held out"))
    if facts.started:
        tiles.append((amount(facts.started["parameters"]), "parameters"))
    if facts.steps:
        tiles.append((amount(facts.tokens), "tokens trained on"))
    if facts.seconds:
        tiles.append((duration(facts.seconds), "of training"))
    if (rate := facts.median("tokens_per_second")) is not None:
        tiles.append((amount(rate), "tokens a second (median)"))
    if (mfu := facts.median("mfu")) is not None:
        tiles.append((f"{mfu:.0%}", "of the measured peak FLOP/s"))
    if facts.peak_memory:
        tiles.append((amount(facts.peak_memory, "B"), "peak memory of rank 0"))
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="card tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
            for value, name in tiles
        )
        + "</div>"
    )


def _evaluation(facts: RunFacts) -> str:
    if not facts.evaluation:
        return ""
    result = facts.evaluation
    own = result["name"]
    scores = {**{title(name): score for name, score in result["baselines"].items()}, own: result["model"]}
    worst = max(score["bits_per_byte"] for score in scores.values())
    bars = _bars(
        (name, score["bits_per_byte"] / worst, f"{score['bits_per_byte']:.3f}", "own" if name == own else "")
        for name, score in scores.items()
    )
    rows = [
        [name, f"{s['bits_per_byte']:.4f}", f"{s['perplexity']:,.2f}", f"{s['tokens']:,}", f"{s['bytes']:,}"]
        for name, s in scores.items()
    ]
    table = _table(["model", "bits per byte", "perplexity", "tokens", "bytes"], rows, own=len(rows) - 1)
    return (
        "<h2>Held-out text</h2>"
        f"<p>The result: {escape(result['verdict'])}. Every model is scored on the same tokens of the same "
        "held-out documents, each token once; lower is better. The n-gram models are counted on the whole "
        "training text.</p>"
        f'<div class="pair"><div class="card"><h3>Bits per byte</h3>{bars}</div>'
        f'<div class="card scroll">{table}</div></div>'
    )


def _curves(facts: RunFacts) -> str:
    if len(facts.steps) < 2:
        return ""
    x = [s["step"] for s in facts.steps]
    loss = [s["loss"] for s in facts.steps]
    window = max(1, len(x) // 25)
    lines = [Line(x, loss, "faint", "each step"), Line(x, smooth(loss, window), "first", f"mean of {window}")]
    if facts.evaluated:
        lines.append(
            Line(
                [e["step"] for e in facts.evaluated],
                [e["loss"] for e in facts.evaluated],
                "second",
                "held out",
                marked=True,
            )
        )
    rate = [s["tokens_per_second"] for s in facts.steps]
    charts = [
        chart("Loss", lines, unit="nats per token"),
        chart(
            "Tokens per second",
            [Line(x, rate, "faint"), Line(x, smooth(rate, window), "first")],
            from_zero=True,
        ),
        chart("Learning rate", [Line(x, [s["lr"] for s in facts.steps])], from_zero=True),
        chart(
            "Gradient norm",
            [Line(x, [s["grad_norm"] for s in facts.steps])],
            unit="before clipping",
            from_zero=True,
        ),
    ]
    return (
        '<h2>Training</h2><div class="pair">'
        + "".join(f'<div class="card">{c}</div>' for c in charts)
        + "</div>"
    )


def _plan(facts: RunFacts) -> str:
    """What the planner expected beside what was measured."""
    if not facts.plan:
        return ""
    expected = facts.plan["estimate"]
    rows: list[list[str]] = []
    bars: list[tuple[str, float, str, str]] = []

    def compare(
        what: str, short: str, planned: float, measured: float | None, words: Callable[[float], str]
    ) -> None:
        if measured is None:
            rows.append([what, words(planned), "-", "-"])
            return
        rows.append([what, words(planned), words(measured), f"{measured / planned:.2f}"])
        longest = max(planned, measured)
        bars.append((f"{short}, planned", planned / longest, words(planned), ""))
        bars.append(("measured", measured / longest, words(measured), "measured"))

    def size(value: float) -> str:
        return amount(value, "B")

    compare("Memory of a rank at its peak", "memory", expected["bytes_per_rank"], facts.peak_memory, size)
    a_step = expected["seconds_per_step"]
    compare("Time of a step", "a step", a_step, facts.median("seconds"), duration)
    done = facts.steps[-1]["step"] if facts.steps else 0
    if done:
        compare(f"All {done:,} steps", "all steps", a_step * done, facts.seconds or None, duration)
    if facts.begun:
        rows.append(
            ["From the process's start to its first step", "-", duration(facts.begun["seconds"]), "-"]
        )
        rows.append(["Memory before that step", "-", size(facts.begun["start_memory_bytes"]), "-"])
    kinds = expected["bytes_by_kind"]
    most = max(kinds.values())
    by_kind = _bars((kind, n / most, size(n), "") for kind, n in kinds.items() if n)
    times = expected["seconds_by_kind"]
    slowest = max(times.values())
    by_time = _bars((kind, s / slowest, duration(s), "") for kind, s in times.items())
    table = _table(["", "planned", "measured", "measured / planned"], rows)
    return (
        "<h2>The plan, and what was measured</h2>"
        "<p>The plan was worked out before anything was allocated, from the shape of the model and from "
        "rates measured on this machine in a second. Measured steps are medians; memory is the resident peak "
        "of rank 0, libraries included.</p>"
        f'<div class="pair"><div class="card scroll">{table}</div><div class="card">{_bars(bars)}</div>'
        f'<div class="card"><h3>Planned bytes of a rank</h3>{by_kind}</div>'
        f'<div class="card"><h3>Planned time of a step</h3>{by_time}</div></div>'
    )


def _machine(facts: RunFacts) -> str:
    if not facts.plan:
        return ""
    machine, batch = facts.plan["machine"], facts.plan["batch"]
    rows = [
        [
            "matrix products of a rank",
            f"{amount(machine['flops_fp32'])}FLOP/s in fp32, {amount(machine['flops_bf16'])}FLOP/s in bf16",
        ],
        ["memory bandwidth of a rank", f"{amount(machine['memory_bandwidth'], 'B')}/s"],
        ["link between ranks", f"{amount(machine['link_bandwidth'], 'B')}/s"],
        ["memory that was free", amount(machine["memory"], "B")],
        ["cores", f"{machine['cores']}, {machine['threads']} for each of {machine['ranks']} ranks"],
        ["accelerators", ", ".join(machine["accelerators"]) or "none"],
        [
            "batch",
            f"{batch['rows']} rows of {facts.recipe.data.seq_len} tokens: {batch['rows_per_rank']} for a "
            f"rank, {batch['micro_rows']} at once",
        ],
    ]
    return f'<h2>Machine</h2><div class="card scroll">{_table(["", ""], rows, left=2)}</div>'


def _times(facts: RunFacts) -> str:
    if not facts.summary:
        return ""
    seconds: dict[str, float] = facts.summary["seconds"]
    longest = max(seconds.values())
    bars = _bars((stage, s / longest, duration(s), "") for stage, s in seconds.items())
    proof = facts.summary.get("reload")
    words = (
        f"<p>The checkpoint of step {proof['step']:,} was loaded from its files, and all {proof['logits']:,} "
        "logits of a fixed batch were identical, to the last bit, to those of the weights that the ranks "
        "held "
        "in memory.</p>"
        if proof and proof["identical"]
        else ""
    )
    return f'<h2>Where the time went</h2>{words}<div class="card">{bars}</div>'


def _samples(facts: RunFacts) -> str:
    if not facts.samples:
        return ""
    shown = "".join(
        f'<div class="card sample"><pre><span class="prompt">{escape(s["prompt"])}</span>'
        f"{escape(s['text'])}</pre></div>"
        for s in facts.samples
    )
    return f"<h2>Completions</h2><p>The prompt is coloured; the rest is the model's.</p>{shown}"


def _search(facts: RunFacts) -> str:
    """The encoder made of the model, in full and in a narrow format, and what it found."""
    summary = facts.summary or {}
    made, narrow = summary.get("specialised"), summary.get("quantised")
    if not made or not narrow:
        return ""
    rows = [
        [name, f"{found['first']:.1%}", f"{found['ten']:.1%}", size]
        for name, found, size in (
            ("the model as it was", made["before"], "-"),
            ("with the layer", made["after"], amount(narrow["bytes_before"], "B")),
            (f"in {narrow['format']}", narrow["after"], amount(narrow["bytes_after"], "B")),
        )
    ]
    table = _table(["encoder", "first", "among ten", "weights"], rows)
    answers = "".join(
        f'<div class="card"><h3>{escape(answer["query"])}</h3><ol>'
        + "".join(
            f"<li><b>{escape(hit['title'])}</b> {escape(hit['caption'])} "
            f'<span class="soft">relevance {hit["relevance"]:.1f} of 4</span></li>'
            for hit in answer["found"]
        )
        + "</ol></div>"
        for answer in summary.get("answered", ())
    )
    return (
        "<h2>Specialised, quantised, searched with</h2>"
        f"<p>One layer over the model was learnt from {made['learnt']:,} docstrings. How often a first "
        f"sentence finds the rest of its own docstring among {made['held_out']:,} that were held out:</p>"
        f'<div class="card scroll">{table}</div>{answers}'
    )


def _recipe(facts: RunFacts) -> str:
    return (
        "<h2>Recipe</h2>"
        '<details class="card"><summary>recipe.toml</summary>'
        f"<pre>{escape(facts.recipe_toml)}</pre></details>"
    )


def _foot(facts: RunFacts) -> str:
    folder = escape(str(facts.run.dir))
    return (
        f"<footer>Written by <code>mainspring report {folder}</code>. Serve the model with "
        f"<code>mainspring serve {folder}</code>. The numbers behind the curves are in "
        f"<code>{escape(facts.run.metrics.name)}</code>.</footer>"
    )


def _bars(rows: Iterable[tuple[str, float, str, str]]) -> str:
    """Horizontal bars: (label, share of the longest, value in words, style)."""
    return (
        '<div class="bars">'
        + "".join(
            f'<span class="{style}">{escape(label)}</span>'
            f'<div class="track"><div class="fill {style}" style="width:{min(max(share, 0.0), 1.0):.2%}">'
            "</div></div>"
            f'<span class="value {style}">{escape(value)}</span>'
            for label, share, value, style in rows
        )
        + "</div>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, own: int = -1, left: int = 1) -> str:
    """A table whose first `left` columns are words and the others numbers."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{'' if i < left else ' class=n'}>{escape(cell)}</{tag}>" for i, cell in enumerate(row)
        )

    body = "".join(
        f"<tr{' class=own' if i == own else ''}>{cells('td', row)}</tr>" for i, row in enumerate(rows)
    )
    header = f"<thead><tr>{cells('th', head)}</tr></thead>" if any(head) else ""
    return f"<table>{header}<tbody>{body}</tbody></table>"
