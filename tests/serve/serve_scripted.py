"""A program: serve the scripted engine on a free port of loopback.

Arguments: pause in seconds, text, and what else it does ("chat", "key").
"""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


from mainspring.infer.chat_template import ChatTemplate
from mainspring.serve import Model, create_app
from mainspring.serve.server import Server, address, listen
from mainspring.text import train_tokenizer
from support.scripted import Scripted

text = sys.argv[2] or "Hello, wörld 🐈! <b>bold</b> &amp; " + "and so on " * 40
listener = listen("127.0.0.1", 0)
more = sys.argv[3:]
template = ChatTemplate(train_tokenizer(["user assistant"], "bpe", 300)) if "chat" in more else None
model = Model(writer=Scripted(text, float(sys.argv[1])), template=template)
app = create_app({"scripted": model}, keys=("a-key-of-twenty-signs",) if "key" in more else ())
listener.listen()  # whoever reads the line below may connect at once
print(f"serving at {address(listener)}", flush=True)
server = Server(
    app, cut=10.0, grace=1.0, drain=app.state.service.drain, end=app.state.service.end, on_ready=lambda: None
)
asyncio.run(server.serve([listener]))
