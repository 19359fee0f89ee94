"""torchrun, but quiet: the launcher's options and behaviour, with the workers' exit code and no stack of
its own.

Run as `python -m mainspring.train.agent TORCHRUN-OPTIONS -m mainspring train ...`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main(arguments: Sequence[str]) -> int:
    """Start ranks on this machine as torchrun does and wait for them.

    Returns:
        0, the exit code of the rank that failed first, or 128 + n if signal n ended it or this.
    """
    for part in ("agent.server.api", "multiprocessing.api"):  # they tell of every signal passed on
        logging.getLogger(f"torch.distributed.elastic.{part}").setLevel(logging.ERROR)
    try:
        run(parse_args(list(arguments)))  # type: ignore[no-untyped-call]
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        code = int(error.get_first_failure()[1].exitcode)
        return 128 - code if code < 0 else code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
