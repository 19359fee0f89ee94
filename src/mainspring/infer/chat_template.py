"""Chat templates: a conversation as the prompt that a model was trained on.

Published models bring a Jinja template in `tokenizer_config.json` (or `chat_template.jinja`); it is run in
Jinja's sandbox. What people say stays text: where a message holds the letters of a special token, they are
encoded as letters, so that nobody can open or close a turn from inside a message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mainspring.errors import TokenizerError, UsageError, require
from mainspring.text.tokenizer import Tokenizer

DEFAULT = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}\n\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For tokenizers that bring none: roles and colons, as in a written dialogue."""
DEFAULT_STOPS = ("\n\nUser:", "\n\nSystem:")
"""Where an answer ends under the default."""
_MARKS = [chr(code) for code in range(0xE000, 0xE100)]


class ChatTemplate:
    """Turns messages into tokens."""

    def __init__(self, tokenizer: Tokenizer, source: str | None = None) -> None:
        """`source`: the template; None: `DEFAULT`.

        Raises:
            TokenizerError: it is not a Jinja template.
            MissingExtraError: Jinja is not installed.
        """
        sandbox = require("jinja2.sandbox", "serve")
        self._jinja = require("jinja2", "serve")
        self.is_default = source is None
        """Whether the tokenizer brings none."""
        self.stops = DEFAULT_STOPS if source is None else ()
        """Texts that end an answer."""
        self._tokenizer = tokenizer
        environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(
            value, ensure_ascii=False, indent=indent
        )
        try:
            self._template = environment.from_string(DEFAULT if source is None else source)
        except self._jinja.TemplateError as error:
            raise TokenizerError(f"the chat template cannot be read: {error}") from error
        names = {tokenizer.token(index) for index in tokenizer.special_ids} | set(tokenizer.specials.values())
        spelt = sorted((re.escape(name) for name in names if name), key=len, reverse=True)
        self._special = re.compile("|".join(spelt)) if spelt else None

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer) -> ChatTemplate:
        """The template beside a tokenizer's files, or the default.

        Raises:
            TokenizerError: it is damaged.
        """
        return cls(tokenizer, find_template(folder))

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """The conversation as text.

        Args:
            messages: each with a role and a content.
            add_generation_prompt: whether the assistant's turn is opened.

        Raises:
            UsageError: the template refuses the conversation.
        """
        specials = {f"{role}_token": token for role, token in self._tokenizer.specials.items()}
        try:
            text: str = self._template.render(
                **specials, messages=list(messages), add_generation_prompt=add_generation_prompt
            )
        except UsageError:
            raise
        except self._jinja.TemplateError as error:
            raise UsageError(f"messages: the model's chat template refuses them: {error}") from error
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise UsageError(f"messages: the model's chat template fails on them: {error}") from error
        return text

    def encode(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> list[int]:
        """The conversation as tokens; special tokens come of the template alone.

        Raises:
            UsageError: as `render`.
        """
        mark = next(m for m in _MARKS if not any(m in str(v) for one in messages for v in one.values()))
        guarded = [
            {key: self._guard(value, mark) if isinstance(value, str) else value for key, value in one.items()}
            for one in messages
        ]
        text = self.render(guarded, add_generation_prompt=add_generation_prompt)
        tokens: list[int] = []
        # What stands between two marks are letters, whatever they spell.
        for number, part in enumerate(text.split(mark)):
            tokens += self._tokenizer.encode(part, specials=number % 2 == 0)
        return tokens

    def _guard(self, text: str, mark: str) -> str:
        """Put marks around what would be read as a special token."""
        return text if self._special is None else self._special.sub(lambda m: f"{mark}{m[0]}{mark}", text)


def find_template(folder: Path) -> str | None:
    """The template in `chat_template.jinja` or `tokenizer_config.json`; of several the one named "default".

    Raises:
        TokenizerError: the file is damaged.
    """
    own, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    try:
        if own.is_file():
            return own.read_text(encoding="utf-8")
        if not config.is_file():
            return None
        found = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError) as error:
        raise TokenizerError(f"{folder}: the chat template cannot be read: {error}") from error
    if isinstance(found, list):
        named = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
        found = named.get("default", next(iter(named.values()), None))
    if found is not None and not isinstance(found, str):
        raise TokenizerError(f"{config}: chat_template should be a text, not a {type(found).__name__}")
    return found


def _refuse(message: str) -> None:
    raise UsageError(f"messages: {message}")
