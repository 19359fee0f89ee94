"""What the server refuses: OpenAI's error object, a code, and a message that says how to mend it."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from mainspring.serve import Limits
from support.scripted import Scripted, client_of


def refused(client: TestClient, body: Any, status: int = 400) -> dict[str, Any]:
    response = client.post("/v1/completions", json=body)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
        ({"max_tokens": "5"}, "max_tokens", "integer"),
        ({"max_tokens": True}, "max_tokens", "integer"),
        ({"max_tokens": 10**9}, "max_tokens", "at most"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 1000}, "n", "takes 64 a request"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"logprobs": 1000}, "logprobs", "less than or equal to 20"),
        ({"stop": ["a", ""]}, "stop", "not empty"),
        ({"stop": ["a"] * 17}, "stop", "up to 16"),
        ({"stop": 5}, "stop", "string"),
        ({"prompt": 5}, "prompt", "string, a list of strings"),
        ({"prompt": [1, "a"]}, "prompt", "string, a list of strings"),
        ({"prompt": []}, "prompt", "empty"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram", "greater than or equal to 0"),
        ({"no_repeat_ngram": 2.5}, "no_repeat_ngram", "integer"),
        ({"num_beams": 0}, "num_beams", "greater than or equal to 1"),
        ({"length_penalty": "long"}, "length_penalty", "number"),
        ({"early_stopping": "maybe"}, "early_stopping", "never"),
        ({"best_of": 4}, "best_of", "num_beams"),
        ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"stream_options": {"include": 1}}, "include", "unrecognized"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
    ],
)
def test_a_wrong_field(client: TestClient, change: dict[str, Any], param: str, words: str) -> None:
    error = refused(client, {"prompt": "x", **change})
    assert error["param"] == param
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_missing_prompt(client: TestClient) -> None:
    assert refused(client, {})["message"] == "prompt: required and not given"


def test_fields_that_do_not_go_together(client: TestClient) -> None:
    assert "temperature = 0" in refused(client, {"prompt": "x", "num_beams": 2})["message"]


def test_what_the_engine_refuses(client: TestClient) -> None:
    for stream in (False, True):
        assert "64 positions" in refused(client, {"prompt": ["long"], "stream": stream})["message"]


def test_an_unknown_model(client: TestClient) -> None:
    error = refused(client, {"prompt": "x", "model": "gpt-9"}, 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert client.get("/v1/models/gpt-9").status_code == 404


@pytest.mark.parametrize("body", [b"{", b"[1]", b"null", b"", b'{"prompt": "\xff"}', b'"x"', b"{" * 9000])
def test_a_body_that_is_not_an_object(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "x", "stop": "\\udfff"}',
        b'{"prompt": "x", "model": "\\ud800"}',
        b'{"prompt": "x", "\\ud800": 1}',
    ],
)
def test_half_a_surrogate_pair_is_refused(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text


def test_another_content_type_is_refused(client: TestClient) -> None:
    # What a page of another site can send without asking first.
    response = client.post(
        "/v1/completions", content=b'{"prompt": "x"}', headers={"content-type": "text/plain"}
    )
    assert response.status_code == 400
    assert "application/json" in response.json()["error"]["message"]


def test_nothing_there_and_wrong_method(client: TestClient) -> None:
    for path in ("/v2", "/docs", "/../etc/passwd", "/v1/completions/x"):
        response = client.get(path)
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "not_found"
    assert client.get("/v1/completions").status_code == 405
    assert client.post("/healthz").json()["error"]["message"] == "POST is not allowed at /healthz"


def test_a_body_above_the_limit() -> None:
    with client_of(Scripted(), limits=Limits(body_bytes=1000)) as client:
        assert client.post("/v1/completions", json={"prompt": "x" * 900}).status_code == 200
        error = refused(client, {"prompt": "x" * 2000}, 413)
        assert error["code"] == "body_too_large"
        chunks = (b"x" * 100 for _ in range(50))  # no declared length
        assert client.post("/v1/completions", content=chunks).status_code == 413


def test_a_full_queue_says_come_again() -> None:
    engine = Scripted()
    engine.go.clear()
    with client_of(engine, limits=Limits(waiting=0)) as client:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.post, "/v1/completions", json={"prompt": "x"})
            while not engine.asked:
                pass
            while 'mainspring_in_flight{model="m"} 1.0' not in client.get("/metrics").text:
                pass
            response = client.post("/v1/completions", json={"prompt": "x"})
            assert response.status_code == 429
            assert response.headers["retry-after"] == "1"
            assert response.json()["error"]["type"] == "rate_limit_error"
            engine.go.set()
            assert first.result().status_code == 200
