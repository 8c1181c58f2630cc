"""Starts two workers of which one waits: `worker_driver.py DIRECTORY`."""

import sys
from pathlib import Path

from minilm.errors import DataError
from minilm.files.workers import run_tasks
from worker_jobs import Job

if __name__ == "__main__":
    try:
        run_tasks(
            Job(Path(sys.argv[1]), "wait"),
            range(5),
            2,
            on_rows=lambda _: None,
            on_done=lambda *_: None,
            error=DataError,
        )
    except KeyboardInterrupt:
        sys.exit(130)
