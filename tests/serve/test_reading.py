"""POST /v1/embeddings, /v1/rerank, /v1/classify."""

import asyncio
import base64
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from mainspring.errors import RunFault
from mainspring.serve import Limits, Model
from mainspring.serve.gather import Gather
from support.scripted import Scripted, ScriptedReader, client_of


@pytest.fixture
def reader() -> ScriptedReader:
    return ScriptedReader()


@pytest.fixture
def client(reader: ScriptedReader) -> Iterator[TestClient]:
    with client_of(Model(reader=reader)) as made:
        yield made


def test_embeddings(client: TestClient) -> None:
    body = client.post("/v1/embeddings", json={"model": "m", "input": ["abba", "cab", "h"]}).json()
    assert (body["object"], body["model"]) == ("list", "m")
    assert [d["index"] for d in body["data"]] == [0, 1, 2]
    assert body["data"][0]["embedding"] == [2, 2, 0, 0, 0, 0, 0, 0]
    assert body["data"][1]["embedding"][:3] == [1, 1, 1]
    assert body["usage"] == {"prompt_tokens": 8, "total_tokens": 8}
    coded = client.post("/v1/embeddings", json={"input": "abba", "encoding_format": "base64"}).json()
    numbers = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4")
    assert numbers.tolist() == [2, 2, 0, 0, 0, 0, 0, 0]
    assert client.post("/v1/embeddings", json={"input": "a", "dimensions": 8}).status_code == 200


def test_rerank_by_vectors_and_by_pairs() -> None:
    documents: list[Any] = ["ccc", {"text": "aab"}, "abab", "c"]
    with client_of(Model(reader=ScriptedReader()), Model(reader=ScriptedReader(ranks=True))) as client:
        ask = {"model": "m", "query": "ab", "documents": documents}
        body = client.post("/v1/rerank", json=ask).json()
        assert [r["index"] for r in body["results"]] == [2, 1, 0, 3]
        assert body["results"][0]["relevance_score"] == pytest.approx(1.0)
        assert body["results"][1]["relevance_score"] == pytest.approx(3 / 10**0.5)
        assert body["usage"]["total_tokens"] == 2 + 3 + 3 + 4 + 1
        assert "document" not in body["results"][0]
        body = client.post(
            "/v1/rerank", json={**ask, "model": "m1", "top_n": 2, "return_documents": True}
        ).json()
        assert [r["index"] for r in body["results"]] == [1, 2]
        assert body["results"][0]["document"] == {"text": "aab"}
        assert body["results"][0]["relevance_score"] == pytest.approx(1 / (1 + np.exp(-2)))


def test_classify(client: TestClient, reader: ScriptedReader) -> None:
    body = client.post("/v1/classify", json={"input": ["ab", "abcdefgh"]}).json()
    assert [d["label"] for d in body["data"]] == ["short", "long"]
    assert body["data"][1]["scores"]["long"] == pytest.approx(8 / 13)
    body = client.post("/v1/classify", json={"input": [["ab", "cdefg"], ["a", "b"]]}).json()
    assert [d["label"] for d in body["data"]] == ["long", "short"]
    assert reader.batches[-1] == [("a", "b"), ("ab", "cdefg")]


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        ("embeddings", {"input": []}, "input", "empty"),
        ("embeddings", {"input": [[1, 2]]}, "input", "string"),
        ("embeddings", {"input": "a", "dimensions": 5}, "dimensions", "have 8"),
        ("embeddings", {"input": ["a"] * 9}, "input", "takes 8"),
        ("embeddings", {"input": "a", "inptu": 1}, "inptu", "did you mean 'input'"),
        ("rerank", {"query": "a", "documents": []}, "documents", "at least 1"),
        ("rerank", {"query": "a", "documents": ["b"], "top_n": 0}, "top_n", "greater"),
        ("rerank", {"documents": ["b"]}, "query", "required"),
        ("classify", {"input": [["a"]]}, "input", "should be"),
        ("classify", {}, "input", "required"),
    ],
)
def test_what_is_refused(path: str, body: dict[str, Any], param: str, words: str) -> None:
    with client_of(Model(reader=ScriptedReader()), limits=Limits(texts=8)) as client:
        response = client.post(f"/v1/{path}", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert words in response.json()["error"]["message"]


def test_models_that_do_something_else() -> None:
    with client_of(Scripted(), Model(reader=ScriptedReader())) as client:
        wrong = client.post("/v1/embeddings", json={"model": "m", "input": "a"})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "wrong_model")
        assert "it answers: completions" in wrong.json()["error"]["message"]
        wrong = client.post("/v1/completions", json={"model": "m1", "prompt": "a"})
        assert "it answers: embeddings, rerank, classify" in wrong.json()["error"]["message"]
        assert client.get("/v1/models/m1").json()["mainspring"]["abilities"][0] == "embeddings"


def test_a_fault_is_told_to_those_concerned(client: TestClient) -> None:
    response = client.post("/v1/embeddings", json={"input": "fault"})
    assert response.status_code == 500
    assert "secret" not in response.text
    assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200


def test_many_clients_share_batches(client: TestClient, reader: ScriptedReader) -> None:
    texts = ["abc"[: k % 3 + 1] * (k + 1) for k in range(60)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda t: client.post("/v1/embeddings", json={"input": t}).json(), texts))
    for text, answer in zip(texts, answers, strict=True):
        assert answer["data"][0]["embedding"][:3] == [text.count(letter) for letter in "abc"]
    assert sum(map(len, reader.batches)) == 60
    assert len(reader.batches) < 60


def test_a_deadline(client: TestClient) -> None:
    for wrong in ("soon", "-1", "nan", "inf"):
        response = client.post("/v1/embeddings", json={"input": "a"}, headers={"x-request-timeout": wrong})
        assert response.status_code == 400, wrong
    response = client.post("/v1/embeddings", json={"input": "a"}, headers={"x-request-timeout": "1e-6"})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline")


def test_a_window_gathers_by_length() -> None:
    seen: list[list[str]] = []

    def read(texts: Sequence[str]) -> list[int]:
        seen.append(list(texts))
        return [len(t) for t in texts]

    async def ask() -> None:
        gather = Gather(read, len, most=3, waiting=100, window=0.01)
        several = [["a" * 9, "b"], ["c" * 8], ["d" * 2, "e" * 7, "f" * 3]]
        found = await asyncio.gather(*(gather(texts) for texts in several))
        assert found == [[len(t) for t in texts] for texts in several]
        assert [[len(t) for t in batch] for batch in seen] == [[1, 2, 3], [7, 8, 9]]
        assert not gather.full
        await gather.close()
        with pytest.raises(RunFault):
            await gather(["x"])

    asyncio.run(ask())


def test_what_nobody_waits_for_is_not_read() -> None:
    seen: list[list[str]] = []

    def read(texts: Sequence[str]) -> list[int]:
        seen.append(list(texts))
        return [0 for _ in texts]

    async def leave() -> None:
        gather = Gather(read, len, most=4, waiting=3, window=0.02)
        gone = asyncio.ensure_future(gather(["x", "y", "z"]))
        stays = asyncio.ensure_future(gather(["w"]))
        await asyncio.sleep(0.001)
        assert gather.full
        gone.cancel()
        assert await stays == [0]
        assert seen == [["w"]]

    asyncio.run(leave())
