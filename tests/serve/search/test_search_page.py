"""The search page in headless Chromium."""

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from support import served_documents
from support.browser import PHONE, Watched
from support.scripted import Served
from support.served_documents import EVIL

AXE = Path(__file__).with_name("axe.min.js.gz")
"""axe-core 4.14.1, MPL 2.0 (axe.LICENSE)."""


def test_the_page_is_one_file_that_may_load_nothing(client: TestClient) -> None:
    response = client.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
    for words in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "//cdn",
        "@import",
    ):
        assert words not in response.text


@pytest.fixture(scope="module")
def server(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served([sys.executable, served_documents.__file__, str(tmp_path_factory.mktemp("page"))])
    yield made
    made.stop()


@pytest.fixture
def watched(chromium: Any, server: Served) -> Iterator[Watched]:
    page = chromium.new_page()
    page.set_viewport_size({"width": 1000, "height": 800})
    made = Watched(page, server.url)
    page.goto(server.url)
    made.until(lambda: made.text("#index-name") == "docs" and page.locator("#language option").count() > 1)
    yield made
    page.close()


def search(watched: Watched, query: str) -> None:
    watched.page.locator("#query").fill(query)
    watched.page.locator("#query").press("Enter")
    watched.until(lambda: " documents in " in watched.text("#status") and query in watched.page.title())


@pytest.mark.browser
def test_a_person_searches_reads_and_asks_again(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    assert page.evaluate("document.activeElement.id") == "query"
    search(watched, "what drives a watch")
    assert page.locator("#answers .answer p").first.text_content()
    assert page.locator("#results > li").count() >= 2
    assert page.locator("#results mark").count() >= 1
    assert page.locator("#results .meter").count() >= 2
    link = page.get_by_role("link", name="Mainspring")
    assert link.get_attribute("href") == "https://example.org/watch"
    questions = page.locator("#questions details")
    assert questions.count() == 2
    assert not questions.first.evaluate("e => e.open")
    questions.first.locator("summary").press("Enter")
    assert questions.first.evaluate("e => e.open")
    page.screenshot(path=tmp_path / "results.png", full_page=True)

    page.locator("#language").select_option("de")
    watched.until(lambda: page.locator("#results > li").count() == 1)
    assert page.locator("#results h3").text_content() == "Feder"
    page.locator("#language").select_option("")
    page.locator("#interface").select_option("de")
    watched.until(lambda: "Dokumenten in" in watched.text("#status"))
    assert page.evaluate("document.documentElement.lang") == "de"
    assert page.get_by_role("button", name="Suchen").is_visible()
    page.screenshot(path=tmp_path / "german.png", full_page=True)
    page.locator("#interface").select_option("en")
    watched.until(lambda: " documents in " in watched.text("#status"))

    page.goto(f"{watched.url}/#q=sea")
    page.reload()
    watched.until(lambda: page.locator("#results > li").count() > 0)
    assert watched.complaints == []
    assert all(url.startswith((watched.url, "data:")) for url in watched.requests)


@pytest.mark.browser
def test_what_is_hostile_is_shown_and_not_obeyed(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    for query in ("hostile", EVIL, "rivers sea water"):
        search(watched, query)
        assert page.title() == f"{query} · Mainspring"
        for tags in ("#results img", "#results script", "#answers img", "#questions img", "#suggestions img"):
            assert page.locator(tags).count() == 0
    # A document's address that runs a script is no link.
    rivers = page.locator("#results h3", has_text="Rivers")
    assert rivers.locator("a").count() == 0
    rivers.click()
    search(watched, "hostile")
    assert any(EVIL in text for text in page.locator("#results h3").all_text_contents())
    page.locator("#query").fill("hosti")
    watched.until(lambda: page.locator("#suggestions li").count() > 0)
    assert EVIL in watched.text("#suggestions")
    page.screenshot(path=tmp_path / "hostile.png", full_page=True)
    assert "owned" not in page.title().replace(query, "")
    assert watched.complaints == []


@pytest.mark.browser
def test_a_misspelt_query_is_asked_about(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    search(watched, "wacth")
    meant = page.locator("#meant-query")
    watched.until(lambda: meant.is_visible())
    assert meant.text_content() == "watch"
    page.screenshot(path=tmp_path / "meant.png", full_page=True)
    meant.press("Enter")
    watched.until(lambda: "watch" in page.title() and page.locator("#results > li").count() > 0)
    assert page.locator("#query").input_value() == "watch"
    assert page.evaluate("document.activeElement.id") == "query"
    assert page.locator("#meant").is_hidden()
    search(watched, "mainspring")  # no lexicon has it, but a document does
    assert page.locator("#meant").is_hidden()
    assert watched.complaints == []


@pytest.mark.browser
def test_the_keyboard_is_enough(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    box = page.locator("#query")
    box.press_sequentially("main")
    watched.until(lambda: page.locator("#suggestions li").count() > 0)
    assert box.get_attribute("aria-expanded") == "true"
    page.screenshot(path=tmp_path / "suggestions.png")
    box.press("ArrowDown")
    chosen = page.locator("#suggestions li[aria-selected=true]")
    assert box.get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    assert box.input_value() == "Mainspring"
    box.press("Escape")
    assert page.locator("#suggestions").is_hidden()
    box.press("Enter")
    watched.until(lambda: page.locator("#results > li").count() > 0)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "submit"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    assert page.locator("#suggestions").is_hidden()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phones_themes_and_access(watched: Watched, tmp_path: Path, scheme: str) -> None:
    page = watched.page
    page.emulate_media(color_scheme=scheme)
    search(watched, "hostile watch " + "a" * 200)
    for size in (PHONE, {"width": 1000, "height": 800}):
        page.set_viewport_size(size)
        assert watched.overflow() <= 0
        page.screenshot(path=tmp_path / f"{scheme}-{size['width']}.png", full_page=True)
    if not AXE.exists():
        pytest.skip(f"axe-core is not at {AXE}")
    page.evaluate(gzip.decompress(AXE.read_bytes()).decode())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in serious] == []
    assert found["testEngine"]["name"] == "axe-core"


@pytest.mark.browser
def test_errors_and_keys_are_told(chromium: Any, tmp_path: Path) -> None:
    server = Served([sys.executable, served_documents.__file__, str(tmp_path), "s3cret"])
    page = chromium.new_page()
    watched = Watched(page, server.url)
    page.goto(server.url)
    watched.until(lambda: page.locator("#key-form").is_visible())
    assert "api-key" in page.get_by_role("alert").text_content()
    page.locator("#key").fill("s3cret")
    page.locator("#key").press("Enter")
    watched.until(lambda: watched.text("#index-name") == "docs")
    assert page.locator("#key-form").is_hidden()
    search(watched, "watch")
    server.stop()
    page.locator("#query").fill("again")
    page.locator("#query").press("Enter")
    watched.until(lambda: "cannot be reached" in (page.get_by_role("alert").text_content() or ""))
    page.screenshot(path=tmp_path / "error.png")
    page.close()
