"""POST /v1/chat/completions."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mainspring.infer.chat_template import ChatTemplate
from mainspring.serve import Limits, Model
from mainspring.text import train_tokenizer
from support.scripted import Scripted, client_of

TALK = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def template() -> ChatTemplate:
    return ChatTemplate(train_tokenizer(["hello user assistant"] * 4, "bpe", 300))


@pytest.fixture
def client(engine: Scripted, template: ChatTemplate) -> Iterator[TestClient]:
    with client_of(Model(writer=engine, template=template), limits=Limits(tokens=1000)) as made:
        yield made


def chat(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/chat/completions", json={"messages": TALK, **body})


def test_the_whole_answer(client: TestClient, engine: Scripted, template: ChatTemplate) -> None:
    body = chat(client, max_tokens=5, n=2, seed=3, temperature=0.5).json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert [c["message"] for c in body["choices"]] == [
        {"role": "assistant", "content": "Hello", "refusal": None}
    ] * 2
    assert [c["finish_reason"] for c in body["choices"]] == ["length"] * 2
    prompt = len(template.encode(TALK))
    assert body["usage"] == {"prompt_tokens": prompt, "completion_tokens": 10, "total_tokens": prompt + 10}
    asked = engine.asked[0]
    assert (asked.max_tokens, asked.n, asked.seed, asked.temperature) == (5, 2, 3, 0.5)
    assert "\n\nUser:" in asked.stop


def test_the_stream(client: TestClient, engine: Scripted) -> None:
    with client.stream(
        "POST",
        "/v1/chat/completions",
        json={"messages": TALK, "stream": True, "n": 2, "stream_options": {"include_usage": True}},
    ) as response:
        text = "".join(response.iter_text())
    *events, done, end = text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    chunks = [json.loads(event[6:]) for event in events]
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert chunks.pop()["usage"]["completion_tokens"] == 2 * len(engine.text)
    for index in (0, 1):
        deltas = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert [d["delta"].get("role") for d in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
        assert "".join(d["delta"].get("content", "") for d in deltas) == engine.text
        assert deltas[-1]["finish_reason"] == "stop"


def test_logprobs(client: TestClient) -> None:
    body = chat(client, max_completion_tokens=1, logprobs=True, top_logprobs=2).json()
    assert body["choices"][0]["logprobs"]["content"] == [
        {
            "token": "H",
            "logprob": -0.5,
            "bytes": [72],
            "top_logprobs": [
                {"token": "H", "logprob": -0.5, "bytes": [72]},
                {"token": "x", "logprob": -1.5, "bytes": [120]},
            ],
        }
    ]


def test_parts_and_names(client: TestClient) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    one = chat(client).json()["usage"]["prompt_tokens"]
    two = chat(client, messages=[{"role": "user", "content": parts, "name": "x"}]).json()
    assert two["usage"]["prompt_tokens"] == one


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"messages": []}, "at least 1"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "'system', 'developer'"),
        ({"messages": [{"role": "user"}]}, "required"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content = "),
        ({"top_logprobs": 2}, "goes with logprobs"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "one thing"),
        ({"max_tokens": 2000}, "generates 1000 at most"),
        ({"tools": []}, "unrecognized"),
        ({"presence_penalty": 1.0}, "not supported"),
        ({"response_format": {"type": "json_object"}}, "text"),
    ],
)
def test_what_is_refused(client: TestClient, change: dict[str, Any], words: str) -> None:
    response = chat(client, **change)
    assert response.status_code == 400, response.text
    assert words in response.json()["error"]["message"]


def test_a_model_without_conversations() -> None:
    with client_of(Scripted()) as client:
        response = chat(client)
        assert response.json()["error"]["code"] == "wrong_model"


def test_the_listing_says_which_template(client: TestClient) -> None:
    about = client.get("/v1/models").json()["data"][0]["mainspring"]
    assert about["chat_template"] == "default"
    assert about["abilities"] == ["completions", "chat.completions"]
