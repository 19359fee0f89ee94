"""The API, request by request."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mainspring.products.search import Answer, Index
from mainspring.serve.search import SearchLimits, Service, create_search_app

SEARCH = "/indexes/docs/docs/search?api-version=2023-11-01"
SEMANTIC = {"search": "what drives a watch", "queryType": "semantic", "semanticConfiguration": "any"}


def post(client: TestClient, body: dict[str, Any], path: str = SEARCH) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def ids(body: dict[str, Any]) -> list[str]:
    return [row["id"] for row in body["value"]]


@pytest.mark.parametrize("spelling", ["count-3", "count=3"])
def test_a_semantic_query_has_scores_captions_and_answers(client: TestClient, spelling: str) -> None:
    body = post(
        client,
        {
            **SEMANTIC,
            "queryLanguage": "en-us",
            "captions": "extractive|highlight-true",
            "answers": f"extractive|{spelling}",
            "select": "id, title",
            "count": True,
            "top": 2,
            "highlightPreTag": "[",
            "highlightPostTag": "]",
        },
    )
    assert body["@odata.count"] >= 2
    first = body["value"][0]
    assert set(first) == {"@search.score", "@search.rerankerScore", "@search.captions", "id", "title"}
    assert 0 <= first["@search.rerankerScore"] <= 4
    (caption,) = first["@search.captions"]
    assert caption["highlights"].replace("[", "").replace("]", "") == caption["text"]
    assert "[" in caption["highlights"]
    assert len(body["@search.answers"]) == 3
    assert set(body["@search.answers"][0]) == {"key", "text", "highlights", "score"}
    assert [a["score"] for a in body["@search.answers"]] == sorted(
        (a["score"] for a in body["@search.answers"]), reverse=True
    )


def test_a_verdict_is_said_beside_the_sentence_that_tells(client: TestClient, service: Service) -> None:
    class Verdict:
        def answers(self, question, passages, documents, limit):  # type: ignore[no-untyped-def]
            return [Answer(passages[0].text, documents[0].key, 0, 0.9, verdict="not" not in question)]

    service.index.answerer = Verdict()
    for question, said in (("is it steel?", "yes"), ("is it not steel?", "no")):
        body = post(client, {**SEMANTIC, "search": question, "answers": "extractive"})
        assert [a["verdict"] for a in body["@search.answers"]] == [said]


def test_answers_only_for_questions_and_only_sure_ones(client: TestClient) -> None:
    plain = post(client, {**SEMANTIC, "search": "mainspring watch", "answers": "extractive"})
    assert plain["@search.answers"] == []
    assert "@search.captions" not in plain["value"][0]
    sure = post(client, {**SEMANTIC, "answers": "extractive|count-10,threshold-0.85"})
    assert len(sure["@search.answers"]) == 1
    assert "@search.answers" not in post(client, {**SEMANTIC, "answers": "none"})
    no_marks = post(client, {**SEMANTIC, "captions": "extractive|highlight-false"})
    assert no_marks["value"][0]["@search.captions"][0]["highlights"] == ""


def test_words_alone_everything_filters_and_order(client: TestClient) -> None:
    simple = post(client, {"search": "watch"})
    assert set(ids(simple)) == {"watch", "evil"}
    assert "@search.rerankerScore" not in simple["value"][0]
    assert simple["value"][0]["content"]
    everything = post(client, {"search": "*", "count": True, "orderby": "year desc, id", "select": "id,year"})
    assert everything["@odata.count"] == 5
    assert ids(everything)[:3] == ["river", "watch", "feder"]
    assert everything["value"][0] == {"@search.score": 1.0, "id": "river", "year": 1950}
    assert ids(post(client, {"search": "*", "top": 2, "skip": 1})) == ["river", "feder"]
    assert ids(post(client, {"queryType": "semantic", "answers": "extractive"})) != []
    for expression, want in {
        "kind eq 'part' and year lt 1900": ["feder"],
        "not (language eq 'en')": ["feder"],
        "search.in(id, 'river,feder')": ["river", "feder"],
        "search.in(id, 'river|feder', '|') and year ge 1900": ["river"],
        "year eq null": ["evil", "a/b'c"],
        "id eq 'a/b''c' or year eq 1850.0": ["feder", "a/b'c"],
    }.items():
        assert ids(post(client, {"search": "*", "filter": expression})) == want, expression
    assert ids(post(client, {**SEMANTIC, "filter": "language eq 'de'"})) == ["feder"]
    assert ids(post(client, {"search": "watch", "orderby": ["search.score() asc"]})) == ids(simple)[::-1]
    assert ids(post(client, {"search": "watch hostile", "searchMode": "all"})) == ["evil"]
    marked = post(client, {"search": "steel", "highlight": "content"})["value"][0]["@search.highlights"]
    assert marked["content"][0].endswith("made of <em>steel</em>.")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({**SEMANTIC, "orderby": "year"}, "'orderby' is not supported when 'queryType' is set to 'semantic'"),
        ({"search": "x", "captions": "extractive"}, "'captions' can only be used when 'queryType'"),
        ({"search": "x", "answers": "extractive|count-3"}, "'answers' can only be used when 'queryType'"),
        ({**SEMANTIC, "answers": "extractive|cuont-3"}, "extractive|count-3"),
        ({**SEMANTIC, "captions": "abstractive"}, "captions = 'abstractive'"),
        ({"search": "x", "queryType": "full"}, "'simple' or 'semantic'"),
        ({"search": "x", "tpo": 3}, "'tpo' in the request payload is not a valid parameter"),
        ({"search": "x", "top": 1001}, "top = 1001"),
        ({"search": "x", "top": "many"}, "top = 'many'"),
        ({"search": "x", "skip": 100001}, "skip = 100001"),
        ({"search": "x", "filter": "year eq"}, "filter: expected a text in single quotes"),
        (
            {"search": "x", "filter": "yaer eq 1"},
            "Could not find a property named 'yaer'; did you mean 'year'?",
        ),
        ({"search": "x", "filter": "(year eq 1"}, "expected ')' at character 11, found the end"),
        ({"search": "x", "filter": "content eq 'x'"}, "searched, not filtered"),
        ({"search": "x", "filter": "(" * 99 + "year eq 1" + ")" * 99}, "nested more than 50 deep"),
        ({"search": "x", "select": "titel"}, "did you mean 'title'?"),
        ({"search": "x", "orderby": "year down"}, "asc or desc"),
        ({"search": "x", "vectorQueries": []}, "'vectorQueries'"),
        ({"search": "x", "highlight": "year"}, "title or content"),
        ({"search": "\ud800"}, "half a surrogate"),
    ],
)
def test_what_is_wrong_is_said(client: TestClient, body: dict[str, Any], said: str) -> None:
    import json

    response = client.post(SEARCH, content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"code", "message"}
    assert said in error["message"]


def test_other_errors_have_the_same_shape(client: TestClient) -> None:
    for method, path, status in (
        ("POST", "/indexes/dosc/docs/search", 404),
        ("GET", "/indexes/docs/docs/none", 404),
        ("GET", "/nothing", 404),
        ("DELETE", "/indexes/docs/docs/search", 405),
    ):
        response = client.request(method, path, json={} if method == "POST" else None)
        assert response.status_code == status
        assert set(response.json()["error"]) == {"code", "message"}
    assert (
        "did you mean 'docs'?" in client.post("/indexes/dosc/docs/search", json={}).json()["error"]["message"]
    )
    broken = client.post(SEARCH, content="{", headers={"content-type": "application/json"})
    assert (broken.status_code, "not valid JSON" in broken.text) == (400, True)


def test_semantic_ranking_without_an_encoder(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", encoder=None)
    with TestClient(create_search_app({"docs": Service(index)})) as client:
        client.post("/indexes/docs/docs/index", json={"value": [{"id": "1", "content": "watch"}]})
        refused = client.post(SEARCH, json=SEMANTIC)
        assert refused.status_code == 400
        assert "without an encoder" in refused.json()["error"]["message"]
        partial = post(client, {**SEMANTIC, "semanticErrorHandling": "partial"})
        assert partial["@search.semanticPartialResponseType"] == "baseResults"
        assert partial["value"][0]["@search.rerankerScore"] is None


def test_documents_are_uploaded_merged_and_deleted(client: TestClient) -> None:
    path = "/indexes/docs/docs/index"
    response = client.post(
        path,
        json={
            "value": [
                {
                    "@search.action": "upload",
                    "id": "new",
                    "title": "New",
                    "content": "about volcanoes",
                    "tag": "x",
                },
                {"@search.action": "merge", "id": "watch", "year": 1901},
                {"@search.action": "merge", "id": "none", "year": 1},
                {"@search.action": "mergeOrUpload", "id": "new", "tag": "y"},
                {"@search.action": "delete", "id": "river"},
                {"@search.action": "explode", "id": "river2"},
                {"content": "no id"},
                {"id": "bad", "content": 3},
                {"id": "bad2", "tags": ["a"]},
            ]
        },
    )
    assert response.status_code == 207
    rows = response.json()["value"]
    assert [row["statusCode"] for row in rows] == [201, 200, 404, 200, 200, 400, 400, 400, 400]
    assert [row["status"] for row in rows] == [
        code < 300 for code in (201, 200, 404, 200, 200, 400, 400, 400, 400)
    ]
    assert client.get("/indexes/docs/docs/new").json() == {
        "id": "new",
        "title": "New",
        "content": "about volcanoes",
        "url": None,
        "language": "en",
        "tag": "y",
    }
    watch = client.get("/indexes/docs/docs/watch?$select=id,year,content").json()
    assert watch == {
        "id": "watch",
        "year": 1901,
        "content": "A mainspring drives a watch. It is made of steel.",
    }
    assert client.get("/indexes/docs/docs/river").status_code == 404
    assert client.get("/indexes/docs/docs/$count").text == "5"
    assert ids(post(client, {"search": "volcanoes"})) == ["new"]
    assert client.get("/indexes/docs/docs/a/b'c").json()["title"] == "Odd key"


def test_a_second_writer_is_told(client: TestClient, service: Service, tmp_path: Path) -> None:
    service.index.close()
    other = Index.open(tmp_path / "docs", encoder=service.index.encoder)
    other.delete(["none"])
    response = client.post("/indexes/docs/docs/index", json={"value": [{"id": "1", "content": "x"}]})
    assert response.status_code == 503
    assert "another process" in response.json()["error"]["message"]
    other.close()


def test_suggestions_and_completions(client: TestClient) -> None:
    for _ in range(2):
        post(client, {"search": "watch repair"})
    post(client, {"search": "watch secret"})
    post(client, {"search": "nothing-found-by-this"})
    titles = post(client, {"search": "main", "suggesterName": "sg"}, "/indexes/docs/docs/suggest")
    assert titles["value"] == [{"@search.text": "Mainspring", "kind": "title"}]
    tagged = post(
        client,
        {"search": "Ri", "highlightPreTag": "<", "highlightPostTag": ">"},
        "/indexes/docs/docs/suggest",
    )
    assert tagged["value"][0]["@search.text"] == "<Ri>vers"
    words = post(client, {"search": "cold main", "suggesterName": "sg"}, "/indexes/docs/docs/autocomplete")
    assert words["value"] == [{"text": "mainspring", "queryPlusText": "cold mainspring"}]
    wrong = client.post("/indexes/docs/docs/suggest", json={"suggesterName": "sg"})
    assert (wrong.status_code, "search is required" in wrong.text) == (400, True)


def test_past_queries_are_suggested_when_asked_twice(tmp_path: Path, service: Service) -> None:
    for query in ("watch repair", "watch repair", "watch secret"):
        service.suggestions.asked(query)
    service.suggestions._state = None
    assert service.suggestions.refresh()
    assert [s.text for s in service.suggestions.suggest("watch", 5)] == ["watch repair"]


def test_keys_limits_and_reading_only(service: Service) -> None:
    app = create_search_app(
        {"docs": service}, api_key="s3cret", writable=False, limits=SearchLimits(body_bytes=500)
    )
    with TestClient(app) as client:
        assert client.get("/").status_code == 200
        assert client.get("/healthz").json() == {"status": "ok"}
        for headers in ({}, {"api-key": "wrong"}, {"api-key": "é".encode()}):
            response = client.get("/indexes", headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (403, "Forbidden")
        client.headers["api-key"] = "s3cret"
        assert client.get("/indexes").json() == {"value": [{"name": "docs"}]}
        assert client.post("/indexes/docs/docs/index", json={"value": []}).status_code == 403
        assert client.post(SEARCH, json={"search": "x" * 600}).status_code == 413
        assert client.get("/indexes/docs/stats").json()["languages"] == {"en": 4, "de": 1}
        assert b"mainspring_requests_total" in client.get("/metrics").content


def test_the_description_names_every_route(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    assert {
        "/indexes/{name}/docs/search",
        "/indexes/{name}/docs/suggest",
        "/indexes/{name}/docs/autocomplete",
        "/indexes/{name}/docs/index",
        "/indexes/{name}/docs/{key}",
    } <= set(description["paths"])
    fields = description["components"]["schemas"]["SearchRequest"]["properties"]
    assert {"search", "queryType", "captions", "answers", "semanticConfiguration"} <= set(fields)
