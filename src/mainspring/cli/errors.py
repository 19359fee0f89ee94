"""From an error to what a person sees and to an exit code.

Codes: 0 done, 1 something failed while running, 2 the input is wrong, 128 + n ended by signal n (130:
    Ctrl-C).
"""

from __future__ import annotations

from mainspring.errors import MainspringError, UsageError

DONE = 0
FAILED = 1
WRONG_INPUT = 2
SIGNALLED = 128
"""Plus the signal's number: ended by a signal."""
INTERRUPTED = 130


def exit_code(error: BaseException) -> int:
    """The exit code that an error ends the command with."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return WRONG_INPUT if isinstance(error, UsageError) else FAILED


def message(error: MainspringError, *, traceback_shown: bool) -> str:
    """What to tell: the error in its own words; when it is a fault, also how to see more."""
    text = f"error: {error}"
    if not traceback_shown and not isinstance(error, UsageError):
        text += "\n(run again with --traceback to see where)"
    return text
