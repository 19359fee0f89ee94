"""A program: serve the scripted engine on a free port of loopback. Arguments: pause in seconds, text."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import uvicorn

from mainspring.serve import create_app
from mainspring.serve.server import Server, address, listen
from support.scripted import Scripted

text = sys.argv[2] or "Hello, wörld 🐈! <b>bold</b> &amp; " + "and so on " * 40
listener = listen("127.0.0.1", 0)
app = create_app({"scripted": Scripted(text, float(sys.argv[1]))})
listener.listen()  # whoever reads the line below may connect at once
print(f"serving at {address(listener)}", flush=True)
server = Server(
    uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=10),
    grace=1.0,
    end=lambda: [worker.end() for worker in app.state.workers.values()],
    on_ready=lambda: None,
)
asyncio.run(server.serve([listener]))
