"""POST /v1/spell."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient


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


def test_several_at_once_do_not_disturb_each_other(client: TestClient) -> None:
    texts = {"recieve": "receive", "definately": "definitely", "acommodate": "accommodate"}

    def ask(text: str) -> str:
        return str(client.post("/v1/spell", json={"text": text, "language": "en"}).json()["corrected"])

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, [*texts] * 4)) == [*texts.values()] * 4
