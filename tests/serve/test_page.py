"""The page at /, in headless Chromium."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from support.browser import PHONE, Watched
from support.scripted import Served

SERVER = Path(__file__).with_name("serve_scripted.py")
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
TEXT = EVIL + "&lt;b&gt; <b>bold</b>\n\nwörld 🐈 " + "and so on " * 30


def test_the_page_is_one_file_that_may_load_nothing(client: TestClient) -> None:
    response = client.get("/")
    assert response.headers["content-type"].startswith("text/html")
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
def server(chromium: Any) -> Iterator[Served]:
    """A server whose text is hostile and comes slowly."""
    server = Served([sys.executable, str(SERVER), "0.01", TEXT])
    yield server
    server.stop()


@pytest.fixture
def watched(chromium: Any, server: Served) -> Iterator[Watched]:
    """Its page."""
    page = chromium.new_page()
    made = Watched(page, server.url)
    page.goto(server.url)
    made.until(lambda: page.locator("#model").text_content() == "scripted")
    yield made
    page.close()


@pytest.fixture
def watch(chromium: Any) -> Iterator[Callable[..., Watched]]:
    """The page of a server that does more: `watch("chat", text=...)`."""
    opened: list[tuple[Served, Any]] = []

    def start(*more: str, text: str) -> Watched:
        server, page = Served([sys.executable, str(SERVER), "0.005", text, *more]), chromium.new_page()
        opened.append((server, page))
        made = Watched(page, server.url)
        page.goto(server.url)
        return made

    yield start
    for server, page in opened:
        page.close()
        server.stop()


@pytest.mark.browser
def test_a_person_generates_stops_and_is_told_of_errors(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    assert page.title() == "scripted · Mainspring"

    # Ctrl+Enter; the text appears as it comes.
    page.get_by_label("Prompt").fill("<i>Once</i> upon a time ")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Max tokens").fill("4000")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Prompt").press("Control+Enter")
    watched.until(lambda: len(watched.text("#completion")) > 5)
    early = watched.text("#completion")
    assert 5 < len(early) < len(TEXT)
    assert TEXT.startswith(early)
    assert page.get_by_role("button", name="Generate").is_disabled()
    assert page.locator("#text").get_attribute("aria-busy") == "true"
    watched.until(lambda: "tokens in" in watched.text("#status"))
    assert watched.text("#completion") == TEXT
    assert page.locator("#status").text_content().startswith(f"{len(TEXT)} tokens in ")
    assert page.get_by_role("button", name="Generate").is_enabled()

    # Nothing of it was read as markup.
    assert page.title() == "scripted · Mainspring"
    assert page.locator("#text img, #text script, #text b, #text i").count() == 0
    assert page.locator("#prompt-echo").text_content() == "<i>Once</i> upon a time "
    page.screenshot(path=tmp_path / "done.png", full_page=True)

    # Stop, by button and by key.
    for stop in (
        lambda: page.get_by_role("button", name="Stop").click(),
        lambda: page.keyboard.press("Escape"),
    ):
        page.get_by_role("button", name="Generate").click()
        watched.until(lambda: len(watched.text("#completion")) > 3)
        stop()
        watched.until(lambda: watched.text("#status") == "Stopped.")
        stopped = watched.text("#completion")
        assert len(stopped) < len(TEXT)
        page.wait_for_timeout(100)
        assert watched.text("#completion") == stopped
    assert page.locator("#error").is_hidden()
    assert watched.complaints == []

    # Errors: found here, found by the server, and no server.
    page.get_by_label("Temperature").fill("9")
    page.get_by_role("button", name="Generate").click()
    assert page.get_by_role("alert").text_content() == "Temperature should be a number from 0 to 2, not 9"
    page.get_by_label("Temperature").fill("1")
    page.get_by_label("Prompt").fill("long")
    page.get_by_role("button", name="Generate").click()
    watched.until(lambda: "64 positions" in page.get_by_role("alert").text_content())
    page.screenshot(path=tmp_path / "error.png", full_page=True)
    assert all(
        "400" in complaint for complaint in watched.complaints
    )  # the browser notes the refused request
    assert watched.requests
    assert all(url.startswith((watched.url, "data:")) for url in watched.requests)


@pytest.mark.browser
def test_phone_and_dark(watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    page.set_viewport_size(PHONE)
    page.get_by_label("Prompt").fill("a" * 300)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.get_by_role("button", name="Generate").click()
        watched.until(lambda: len(watched.text("#completion")) > 100)
        assert watched.overflow() <= 0
        page.get_by_role("button", name="Stop").click()
        page.screenshot(path=tmp_path / f"phone-{scheme}.png", full_page=True)
        watched.until(lambda: watched.text("#status") == "Stopped.")
    assert watched.complaints == []


@pytest.mark.browser
def test_every_control_has_a_name_and_the_keyboard_reaches_it(watched: Watched) -> None:
    page = watched.page
    names = page.evaluate(
        """[...document.querySelectorAll('input, select, textarea, button')]
        .filter(e => e.offsetParent !== null)
        .map(e => e.labels && e.labels.length ? e.labels[0].textContent : e.textContent.trim())"""
    )
    assert names == ["Prompt", "Temperature", "Max tokens", "Seed", "Generate", "Stop"]
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert page.evaluate("document.activeElement.id") == "go"
    assert reached == ["temperature", "max-tokens", "seed", "go"]


@pytest.mark.browser
def test_a_conversation(watch: Callable[..., Watched], tmp_path: Path) -> None:
    watched = watch("chat", "key", text="An answer <b>in</b> words. " * 12)
    page = watched.page

    # The server asks for a key, and the page for it.
    watched.until(lambda: page.get_by_label("API key").is_visible())
    page.get_by_label("API key").fill("a-key-of-twenty-signs")
    page.get_by_label("API key").press("Tab")
    watched.until(lambda: page.get_by_label("Chat").is_visible())
    page.get_by_label("Chat").check()
    assert page.get_by_role("button", name="Send").is_enabled()

    said = page.locator("#talk li")
    page.get_by_role("button", name="Send").click()
    assert page.get_by_role("alert").text_content() == "Write a message first"
    for turn, words in enumerate(("Who are <i>you</i>?", "And then?")):
        page.get_by_label("Message").fill(words)
        page.get_by_label("Message").press("Control+Enter")
        watched.until(lambda: "tokens in" in watched.text("#status"))
        assert said.count() == 2 * (turn + 1)
        assert said.nth(2 * turn).text_content() == f"You{words}"
        assert said.nth(2 * turn + 1).text_content().startswith("ModelAn answer <b>in</b> words.")
        assert page.get_by_label("Message").input_value() == ""
    assert page.locator("#talk b, #talk i").count() == 0
    page.screenshot(path=tmp_path / "chat.png", full_page=True)
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme="dark")
    assert watched.overflow() <= 0
    page.screenshot(path=tmp_path / "chat-phone.png", full_page=True)

    # A message that is not answered goes back to where it can be sent again.
    page.get_by_label("Message").fill("fault")
    page.get_by_label("Max tokens").fill("999999")
    page.get_by_role("button", name="Send").click()
    watched.until(lambda: "at most" in page.get_by_role("alert").text_content())
    assert page.get_by_label("Message").input_value() == "fault"
    assert said.count() == 4
    page.get_by_role("button", name="New conversation").click()
    assert said.count() == 0
    assert all("401" in c or "400" in c for c in watched.complaints)
    assert all(url.startswith((watched.url, "data:")) for url in watched.requests)
