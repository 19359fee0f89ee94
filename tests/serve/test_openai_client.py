"""The official `openai` client, as it comes, against a real server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mainspring.infer import Engine, GenerateOptions
from mainspring.infer.chat_template import ChatTemplate
from mainspring.serve import Limits, Model, serve_engine
from support.live import live
from support.scripted import ScriptedReader
from support.toy import export_toy

openai = pytest.importorskip("openai")
KEY = "a-key-of-twenty-signs"
TALK = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the cat?"}]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine.load(export_toy(tmp_path_factory.mktemp("openai") / "toy"))


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[Any]:
    models = {"toy": serve_engine(engine), "reader": Model(reader=ScriptedReader())}
    with (
        live(models, limits=Limits(tokens=200, body_bytes=20_000), keys=(KEY,)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=30) as made,
    ):
        yield made


def test_models(client: Any) -> None:
    assert [m.id for m in client.models.list()] == ["toy", "reader"]
    assert client.models.retrieve("toy").owned_by == "mainspring"


def test_completions(client: Any, engine: Engine) -> None:
    expected = engine.generate(["the cat"], GenerateOptions(max_tokens=12, logprobs=2))[0]
    answer = client.completions.create(
        model="toy", prompt="the cat", max_tokens=12, temperature=0, logprobs=2
    )
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == (expected.text, expected.finish)
    assert answer.usage.completion_tokens == expected.tokens
    assert expected.logprobs is not None
    assert choice.logprobs.tokens == [e.token for e in expected.logprobs]
    stream = client.completions.create(
        model="toy",
        prompt="the cat",
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == expected.text
    assert chunks[-1].usage.completion_tokens == expected.tokens


def test_chat(client: Any, engine: Engine) -> None:
    prompt = ChatTemplate(engine.tokenizer).encode(TALK)
    options = GenerateOptions(
        max_tokens=10, temperature=0.8, seed=7, n=2, logprobs=1, stop=("\n\nUser:", "\n\nSystem:")
    )
    expected = engine.generate([prompt], options)
    answer = client.chat.completions.create(
        model="toy", messages=TALK, max_tokens=10, temperature=0.8, seed=7, n=2, logprobs=True, top_logprobs=1
    )
    assert [c.message.content for c in answer.choices] == [c.text for c in expected]
    assert answer.usage.prompt_tokens == len(prompt)
    assert len(answer.choices[0].logprobs.content) == len(expected[0].logprobs or ())
    stream = client.chat.completions.create(
        model="toy", messages=TALK, max_completion_tokens=10, temperature=0.8, seed=7, stream=True
    )
    told = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert told == expected[0].text


def test_embeddings(client: Any, engine: Engine) -> None:
    answer = client.embeddings.create(model="reader", input=["abba", "cab"])  # asks for base64 by itself
    assert np.allclose(answer.data[0].embedding, [2, 2, 0, 0, 0, 0, 0, 0])
    assert answer.usage.prompt_tokens == 7
    plain = client.embeddings.create(model="reader", input="abba", encoding_format="float")
    assert plain.data[0].embedding == answer.data[0].embedding
    read = client.embeddings.create(model="toy", input="the cat")
    assert np.allclose(read.data[0].embedding, engine.embed(["the cat"]).vectors[0].numpy(), atol=1e-6)


def test_errors_are_the_clients_own(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="is not served"):
        client.completions.create(model="gpt-9", prompt="x")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model="toy", prompt="x", temperature=9)
    with pytest.raises(openai.BadRequestError, match="does not write"):
        client.completions.create(model="reader", prompt="x")
    with pytest.raises(openai.AuthenticationError, match="Bearer"):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.APIStatusError, match="larger than 20000") as refused:
        client.completions.create(model="toy", prompt="x" * 30_000)
    assert refused.value.status_code == 413
    with pytest.raises(openai.BadRequestError, match="positions"):
        client.completions.create(model="toy", prompt="a b c d " * 600)


def test_a_deadline(client: Any) -> None:
    late = client.with_options(default_headers={"x-request-timeout": "0.000001"})
    with pytest.raises(openai.InternalServerError, match="deadline") as told:
        late.completions.create(model="toy", prompt="the cat", max_tokens=200)
    assert told.value.status_code == 504


def test_an_export_brings_its_template(tmp_path: Path) -> None:
    toy = export_toy(tmp_path / "toy")
    (toy / "chat_template.jinja").write_text("{% for m in messages %}<{{ m.content }}>{% endfor %}")
    model = serve_engine(Engine.load(toy), folder=toy)
    assert model.template is not None
    assert not model.template.is_default
    with live({"toy": model}) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        answer = client.chat.completions.create(model="toy", messages=TALK, max_tokens=1)
        assert answer.usage.prompt_tokens == len(model.template.encode(TALK))
