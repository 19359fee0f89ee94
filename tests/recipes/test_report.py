"""The report from a run's files, whole or unfinished, in a browser without scripts or network."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mainspring.config import to_toml
from mainspring.errors import DataError
from mainspring.recipes import load
from mainspring.recipes.report import write_report
from mainspring.recipes.report.figures import Line, chart, smooth


def write_run(run: Path, steps: int, *, name: str = "a <run> & more") -> Path:
    """A run directory as a trainer leaves it after `steps` steps."""
    run.mkdir(exist_ok=True)
    (run / "recipe.toml").write_text(to_toml(load("gpt2-tiny", [f'name="{name}"'])))
    started = {"event": "run_started", "step": 0, "world": 2, "device": "cpu", "parameters": 1_234_567}
    done = [
        {
            "event": "step_done",
            "step": i + 1,
            "loss": 9 / (i + 1),
            "tokens": 512,
            "seconds": 0.5,
            "mfu": 0.41,
            "tokens_per_second": 1024.0 + i,
            "lr": 1e-3,
            "grad_norm": 1.5,
            "memory_bytes": 2**30,
        }
        for i in range(steps)
    ]
    lines = [started, *done, {"event": "evaluated", "step": steps, "loss": 2.5}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


class Balanced(HTMLParser):
    """Checks that every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "br", "path", "use"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "br", "path", "use"):
            assert self.open.pop() == tag


@pytest.mark.parametrize("steps", [0, 1, 2, 60])
def test_unfinished_runs_have_a_report_too(steps: int, tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run", steps)).read_text()
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "a &lt;run&gt; &amp; more" in page
    assert page.count("<svg") == (4 if steps > 1 else 0)
    assert "1.23 M" in page


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run directory"):
        write_report(tmp_path)
    run = write_run(tmp_path / "run", 1)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(DataError, match="no metrics yet"):
        write_report(run)


def test_charts_take_their_colours_from_the_page() -> None:
    svg = chart("Loss", [Line([1, 2, 3], [3.0, 2.0, 1.0], "second", "held out", marked=True)], unit="nats")
    assert svg.startswith('<svg role="img" aria-label="Loss (nats)"')
    assert "stroke: var(--second)" in svg
    assert "fill: var(--ink)" in svg
    assert "font-family: var(--face)" in svg
    assert svg == chart(
        "Loss", [Line([1, 2, 3], [3.0, 2.0, 1.0], "second", "held out", marked=True)], unit="nats"
    )


def test_smoothing_is_a_mean() -> None:
    assert smooth([4.0], 3) == [4.0]
    assert smooth([1, 2, 3, 4, 5, 6], 3) == [1.0, 1.5, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.browser
def test_it_opens_without_scripts_or_network(tmp_path: Path) -> None:
    if shutil.which("chromium") is None:
        pytest.skip("no Chromium here")
    from playwright.sync_api import sync_playwright

    report = write_report(write_run(tmp_path / "run", 60))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for scheme, page_colour in (("light", "rgb(246, 247, 249)"), ("dark", "rgb(18, 22, 28)")):
            context = browser.new_context(
                color_scheme=scheme,  # type: ignore[arg-type]
                viewport={"width": 420, "height": 800},
                java_script_enabled=False,
            )
            page = context.new_page()
            asked: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(report.as_uri())
            assert asked == [report.as_uri()]
            box = page.locator("main").bounding_box()
            assert box is not None
            assert box["width"] <= 420
            assert page.locator("svg").count() == 4
            assert page.locator("svg").first.bounding_box()["width"] > 300  # type: ignore[index]
            context.close()
            with_scripts = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
            with_scripts.goto(report.as_uri())
            assert with_scripts.evaluate("getComputedStyle(document.body).backgroundColor") == page_colour
            assert not with_scripts.evaluate("document.documentElement.scrollWidth > innerWidth")
            with_scripts.close()
        browser.close()
