"""POST /v1/spell."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from support.fuzzed_text import fuzzed, rebuilt


def test_a_text_is_corrected_with_places_and_candidates(client: TestClient) -> None:
    text = "I will recieve the pakage"
    body = client.post("/v1/spell", json={"text": text, "language": "en"}).json()
    assert body["corrected"] == "I will receive the package" and body["object"] == "spelling"
    assert (body["text"], body["language"], body["language_confidence"]) == (text, "en", 1.0)
    first = body["words"][0]
    assert text[first["start"] : first["stop"]] == first["text"] == "recieve"
    assert first["correction"] == first["candidates"][0]["text"] == "receive"
    assert 0 < first["candidates"][0]["score"] <= 1


def test_the_language_is_found(client: TestClient) -> None:
    body = client.post("/v1/spell", json={"text": "where is the nearest pakage of the library"}).json()
    assert body["language"] == "en" and body["corrected"].split()[4] == "package"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "text: required"),
        ({"text": 3}, "text = 3"),
        ({"text": "x", "language": "xx"}, "is not one that is corrected"),
        ({"text": "x", "language": "en", "threshold": 1.5}, "threshold"),
        ({"text": "x", "wrong": 1}, "unrecognized request argument: 'wrong'"),
        ({"text": "x" * 200_001}, "200000 characters"),
    ],
)
def test_wrong_requests_are_told(client: TestClient, body: dict[str, object], words: str) -> None:
    response = client.post("/v1/spell", json=body)
    assert response.status_code == 400 and words in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"text": "caf\xe9 recieve", "language": "en"}',
        b'{"text": "\\ud800 recieve", "language": "en"}',
        b"\xff\xfe",
        b'{"text": "x',
        b"[" * 100_000,
    ],
)
def test_bytes_that_are_no_request_are_told(client: TestClient, content: bytes) -> None:
    response = client.post("/v1/spell", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400 and response.json()["error"]["message"]


def test_hostile_texts_have_places_that_hold(client: TestClient) -> None:
    rng = random.Random(4)
    for _ in range(100):
        case = fuzzed(rng)
        text = case.text.encode("utf-8", "replace").decode("utf-8")
        response = client.post("/v1/spell", json={"text": text, "language": "en"})
        assert response.status_code == 200, text
        body = response.json()
        words = [(w["start"], w["stop"], w["correction"]) for w in body["words"]]
        assert body["text"] == text and rebuilt(text, words) == body["corrected"]


def test_several_at_once_do_not_disturb_each_other(client: TestClient) -> None:
    texts = {"recieve": "receive", "definately": "definitely", "acommodate": "accommodate"}

    def ask(text: str) -> str:
        return str(client.post("/v1/spell", json={"text": text, "language": "en"}).json()["corrected"])

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, [*texts] * 4)) == [*texts.values()] * 4
