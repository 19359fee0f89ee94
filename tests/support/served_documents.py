"""An index of a few documents, some hostile, to be served: in this process, or as a program of its own
(arguments: folder, and a key where one is asked for)."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


from mainspring.products.search import Answer, Document, Index
from mainspring.products.spelling import Speller
from mainspring.products.suggest import QueryLog
from mainspring.serve.search import Service, create_search_app
from mainspring.serve.server import Server, address, listen
from support import tiny_speller
from support.hashed_words import HashedWords

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
DOCUMENTS = [
    Document(
        "watch",
        "A mainspring drives a watch. It is made of steel.",
        "Mainspring",
        "https://example.org/watch",
        "en",
        {"year": 1900, "kind": "part"},
    ),
    Document(
        "river",
        "Rivers run to the sea. Water flows downhill.",
        "Rivers",
        "javascript:document.title='owned'",
        "en",
        {"year": 1950},
    ),
    Document(
        "feder",
        "Die Feder eines Uhrwerks speichert die Energie.",
        "Feder",
        None,
        "de",
        {"year": 1850, "kind": "part"},
    ),
    Document("evil", f"hostile {EVIL} text about a watch", f"hostile {EVIL}", None, "en"),
    Document("a/b'c", "A key with slashes and quotes, about mountains.", "Odd key", None, "en"),
]


class FirstSentence:
    """Answers with the first sentence of the best passage."""

    def answers(self, question, passages, documents, limit):  # type: ignore[no-untyped-def]
        found = [
            Answer(p.text.split(".")[0] + ".", d.key, p.start, 0.9 - 0.1 * i)
            for i, (p, d) in enumerate(zip(passages, documents, strict=True))
        ]
        return found[:limit]


class Asked:
    """Questions near to any query."""

    def questions(self, query: str, limit: int) -> list[tuple[str, str, str]]:
        return [("What drives a watch?", "A mainspring.", "watch"), (EVIL, EVIL, "evil")][:limit]


def service_in(
    folder: Path, *, answerer: object = None, related: object = None, speller: Speller | None = None
) -> Service:
    index = Index.create(folder, encoder=HashedWords())
    index.answerer = answerer  # type: ignore[assignment]
    index.add(DOCUMENTS)
    return Service(index, QueryLog(folder / "queries.jsonl"), None, related, speller)  # type: ignore[arg-type]


if __name__ == "__main__":
    listener = listen("127.0.0.1", 0)
    folder = Path(sys.argv[1])
    spelling = tiny_speller.speller(folder)
    served = service_in(folder / "docs", answerer=FirstSentence(), related=Asked(), speller=spelling)
    app = create_search_app({"docs": served}, api_key=sys.argv[2] if len(sys.argv) > 2 else None)
    listener.listen()  # whoever reads the line below may connect at once
    print(f"serving at {address(listener)}", flush=True)
    server = Server(app, cut=1.0, grace=1.0, end=lambda: None, on_ready=lambda: None)
    asyncio.run(server.serve([listener]))
