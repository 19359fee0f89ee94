"""Health, metrics, concurrency and clients that leave."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from mainspring.serve import Model, create_app
from mainspring.serve.worker import Worker
from support.scripted import Scripted, client_of


def samples(client: TestClient) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def test_health_and_readiness(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200


def test_not_ready_before_it_starts_and_after_it_stops(engine: Scripted) -> None:
    app = create_app({"m": Model(writer=engine)})
    assert TestClient(app).get("/readyz").status_code == 503
    assert TestClient(app).post("/v1/completions", json={"prompt": "x"}).status_code == 503
    with TestClient(app) as client:
        assert client.get("/readyz").status_code == 200
    assert TestClient(app).get("/readyz").status_code == 503


def test_health_answers_while_text_is_generated(engine: Scripted, client: TestClient) -> None:
    engine.go.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.post, "/v1/completions", json={"prompt": "x"})
        while not engine.asked:
            time.sleep(0.001)
        for _ in range(5):
            assert client.get("/healthz").status_code == 200
        assert not answer.done()
        engine.go.set()
        assert answer.result().status_code == 200


def test_requests_side_by_side_are_not_crossed(client: TestClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        bodies = [{"prompt": f"prompt {k}", "echo": True, "max_tokens": k % 5} for k in range(40)]
        answers = list(pool.map(lambda body: client.post("/v1/completions", json=body).json(), bodies))
    for body, answer in zip(bodies, answers, strict=True):
        assert answer["choices"][0]["text"] == body["prompt"] + "Hello"[: int(str(body["max_tokens"]))]


def test_metrics(client: TestClient) -> None:
    client.post("/v1/completions", json={"prompt": "abc", "max_tokens": 5})
    client.post("/v1/completions", json={"prompt": 5})
    client.get("/nowhere/at/all")
    found = samples(client)
    assert found['mainspring_requests_total{route="/v1/completions",status="200"}'] == 1
    assert found['mainspring_requests_total{route="/v1/completions",status="400"}'] == 1
    assert found['mainspring_requests_total{route="other",status="404"}'] == 1
    assert found['mainspring_request_seconds_count{route="/v1/completions"}'] == 2
    assert found['mainspring_generated_tokens_total{model="m"}'] == 5
    assert found['mainspring_prompt_tokens_total{model="m"}'] == 3
    assert found['mainspring_first_text_seconds_count{model="m"}'] == 1
    for _ in range(200):  # an answer is out a moment before its place is free
        if samples(client)['mainspring_in_flight{model="m"}'] == 0:
            break
        time.sleep(0.01)
    else:
        pytest.fail("a completion that has been answered is still in flight")
    assert 'mainspring_cancelled_total{model="m"}' not in found
    assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=")


def test_two_apps_count_apart(engine: Scripted) -> None:
    with client_of(engine) as one, client_of(engine) as two:
        one.post("/v1/completions", json={"prompt": "abc"})
        assert 'mainspring_generated_tokens_total{model="m"}' in samples(one)
        assert 'mainspring_generated_tokens_total{model="m"}' not in samples(two)


def test_a_job_ends_when_its_reader_leaves() -> None:
    engine = Scripted("x" * 1000, pause=0.001)

    async def leave() -> None:
        worker = Worker("m", engine, capacity=1)
        job = worker.submit(engine.prepare(["x"], _many()))

        async def present() -> bool:
            return False

        pieces = job.pieces(present)
        await anext(pieces)
        await pieces.aclose()
        while worker.load:
            await asyncio.sleep(0.001)
        worker.close()

    asyncio.run(leave())
    assert engine.closed.is_set()
    assert engine.steps < 500


def test_a_job_ends_when_its_client_is_gone() -> None:
    engine = Scripted("x" * 1000, pause=0.001)

    async def leave() -> int:
        worker = Worker("m", engine, capacity=1)
        job = worker.submit(engine.prepare(["x"], _many()))

        async def gone() -> bool:
            return True

        count = sum([1 async for _ in job.pieces(gone, every=0.02)])
        worker.close()
        return count

    assert asyncio.run(leave()) < 500
    assert engine.closed.is_set()


def test_closing_a_worker_tells_those_who_wait() -> None:
    engine = Scripted("x" * 1000, pause=0.001)

    async def close() -> None:
        worker = Worker("m", engine, capacity=5)
        jobs = [worker.submit(engine.prepare(["x"], _many())) for _ in range(3)]
        await asyncio.sleep(0.02)
        await asyncio.to_thread(worker.close)
        assert not worker.alive

        async def present() -> bool:
            return False

        for job in jobs:
            with pytest.raises(Exception, match="stopping"):
                async for _ in job.pieces(present):
                    pass
        with pytest.raises(Exception, match="stopping"):
            worker.submit(engine.prepare(["x"], _many()))

    asyncio.run(close())
    assert engine.steps < 500


def _many():  # type: ignore[no-untyped-def]
    from mainspring.infer import GenerateOptions

    return GenerateOptions(max_tokens=1000)
