"""POST /v1/completions: the shape of OpenAI's API, whole and streamed."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from support.scripted import Scripted, client_of


def events(client: TestClient, body: dict[str, Any]) -> list[Any]:
    """The data of each server-sent event, parsed; the text must be nothing but events."""
    with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        text = "".join(response.iter_text())
    parts = text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [part if part == "data: [DONE]" else json.loads(part[6:]) for part in parts]


def test_the_whole_answer(client: TestClient, engine: Scripted) -> None:
    body = client.post("/v1/completions", json={"prompt": "abc", "max_tokens": 5, "seed": 3}).json()
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["model"] == "m"
    assert isinstance(body["created"], int)
    assert body["choices"] == [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "length"}]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    assert engine.asked[0].seed == 3
    assert engine.asked[0].temperature == 1.0


def test_settings_reach_the_engine(client: TestClient, engine: Scripted) -> None:
    settings = {
        "model": "m",
        "prompt": "x",
        "max_tokens": 7,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 9,
        "n": 2,
        "stop": ["a", "b"],
        "seed": 11,
        "echo": True,
        "repetition_penalty": 1.5,
        "no_repeat_ngram": 3,
        "num_beams": 2,
        "length_penalty": 0.5,
        "early_stopping": "never",
        "user": "someone",
        "best_of": 2,
        "presence_penalty": 0,
        "logit_bias": {},
        "suffix": None,
    }
    assert client.post("/v1/completions", json=settings).status_code == 200
    asked = engine.asked[0]
    for field in (
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "n",
        "seed",
        "echo",
        "repetition_penalty",
        "no_repeat_ngram",
        "num_beams",
        "length_penalty",
        "early_stopping",
    ):
        assert getattr(asked, field) == settings[field], field
    assert asked.stop == ("a", "b")


def test_null_is_the_default_and_seeds_differ(client: TestClient, engine: Scripted) -> None:
    for _ in range(2):
        body = {"prompt": "x", "max_tokens": None, "temperature": None, "stop": None, "seed": None}
        assert client.post("/v1/completions", json=body).status_code == 200
    assert engine.asked[0].max_tokens == 16
    assert engine.asked[0].seed != engine.asked[1].seed


def test_several_prompts_and_choices(client: TestClient) -> None:
    body = client.post("/v1/completions", json={"prompt": ["a", "bb"], "n": 2, "max_tokens": 2}).json()
    assert [c["index"] for c in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}


@pytest.mark.parametrize(("prompt", "count"), [([1, 2, 3], 3), ([[1, 2], [3]], 3), (["a", "b"], 2)])
def test_prompts_as_tokens(client: TestClient, prompt: Any, count: int) -> None:
    body = client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1}).json()
    assert body["usage"]["prompt_tokens"] == count
    assert len(body["choices"]) == (1 if prompt == [1, 2, 3] else 2)


def test_logprobs(client: TestClient) -> None:
    body = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2, "logprobs": 2}).json()
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["H", "e"],
        "token_logprobs": [-0.5, -0.5],
        "text_offset": [0, 1],
        "top_logprobs": [{"H": -0.5, "x": -1.5}, {"e": -0.5, "x": -1.5}],
    }


def test_the_stream_makes_the_whole_answer(client: TestClient, engine: Scripted) -> None:
    chunks = events(client, {"prompt": "abc", "max_tokens": 100})
    assert chunks.pop() == "data: [DONE]"
    assert "".join(c["choices"][0]["text"] for c in chunks) == engine.text
    assert len(chunks) == len(engine.text)
    assert len({c["id"] for c in chunks}) == 1
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all("usage" not in c for c in chunks)


def test_the_stream_counts_where_asked(client: TestClient) -> None:
    body = {"prompt": "abc", "max_tokens": 4, "n": 2, "stream_options": {"include_usage": True}}
    *chunks, last, done = events(client, body)
    assert done == "data: [DONE]"
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
    for index in (0, 1):
        assert "".join(c["choices"][0]["text"] for c in chunks if c["choices"][0]["index"] == index) == "Hell"


def test_line_ends_in_text_do_not_break_events() -> None:
    text = "a\n\ndata: [DONE]\n\nb\r\n\u2028c"
    with client_of(Scripted(text)) as client:
        chunks = events(client, {"prompt": "x", "max_tokens": 100})
    assert "".join(c["choices"][0]["text"] for c in chunks[:-1]) == text


def test_a_fault_on_the_way(client: TestClient) -> None:
    response = client.post("/v1/completions", json={"prompt": "fault"})
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    *_, last = events(client, {"prompt": "fault"})
    assert last["error"]["type"] == "server_error"
    assert "secret" not in json.dumps(last)
    # The worker lives on.
    assert client.post("/v1/completions", json={"prompt": "x"}).status_code == 200


def test_models_are_chosen_by_name() -> None:
    with client_of(Scripted("one"), Scripted("two")) as client:
        listing = client.get("/v1/models").json()
        assert [m["id"] for m in listing["data"]] == ["m", "m1"]
        assert listing["object"] == "list"
        assert client.get("/v1/models/m1").json()["object"] == "model"
        body = client.post("/v1/completions", json={"prompt": "x", "model": "m1"}).json()
        assert body["choices"][0]["text"] == "two"
        missing = client.post("/v1/completions", json={"prompt": "x"})
        assert missing.status_code == 400
        assert missing.json()["error"]["param"] == "model"
