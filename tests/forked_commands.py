"""Commands of minilm as forks of this process, which has imported all they need."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from minilm.cli import main


def become(arguments: Sequence[str], log: str | Path) -> NoReturn:
    """Makes a fork a command: it writes to the log and ends with the command's exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    messages = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(messages, 1)
    os.dup2(messages, 2)
    status = 1
    try:
        status = main(list(arguments)) or 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        os._exit(status)


def wait_for(process: int, limit: float) -> int | None:
    """The exit status of a process; None if it still runs when the time is up."""
    ends = time.monotonic() + limit
    while time.monotonic() < ends:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None
