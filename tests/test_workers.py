"""Processes that share tasks: all are done once, and no failure of a worker goes unnoticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from minilm.errors import DataError, command_line
from minilm.files.workers import run_tasks
from worker_jobs import Job

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


def run(job: Job, tasks: range = range(6), workers: int = 2) -> tuple[Counter[str], dict[int, int]]:
    """The rows that were reported, and what became of every task."""
    rows: Counter[str] = Counter()
    done: dict[int, int] = {}
    run_tasks(
        job,
        tasks,
        workers,
        on_rows=lambda count: rows.update(rows=count),
        on_done=lambda task, result: done.update({task: result["made"]}),
        error=DataError,
    )
    return rows, done


def test_every_task_is_done_once_and_reported(tmp_path: Path) -> None:
    rows, done = run(Job(tmp_path))
    assert done == {task: task for task in range(6)}
    assert rows["rows"] == 10 * sum(range(6))
    assert {path.name for path in tmp_path.iterdir()} == {str(task) for task in range(6)}
    assert str(os.getpid()) not in {path.read_text() for path in tmp_path.iterdir()}


def test_no_tasks_need_no_worker(tmp_path: Path) -> None:
    assert run(Job(tmp_path, "broken"), range(0)) == (Counter(), {})


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("error", DataError, "^row 17 is bad; say --errors ignore.$"),
        ("broken", DataError, "^the model is missing.$"),
        ("failure", RuntimeError, "(?s)worker process failed.*ZeroDivisionError: a mistake"),
        ("kill", DataError, "killed by signal 9 at part 3 .*memory.*fewer workers.*resumes"),
    ],
)
def test_what_goes_wrong_in_a_worker_is_raised_here(
    tmp_path: Path, kind: str, error: type[Exception], message: str
) -> None:
    with command_line({"--errors"}), pytest.raises(error, match=message):
        run(Job(tmp_path, kind))
    assert not (tmp_path / "3").exists()


def is_running(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_the_command(tmp_path: Path, number: signal.Signals) -> None:
    driver = Path(__file__).with_name("worker_driver.py")
    process = subprocess.Popen(
        [sys.executable, driver, tmp_path], start_new_session=True, stderr=subprocess.PIPE
    )
    waiting = tmp_path / "waiting"
    while not (waiting.exists() and waiting.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    worker = int(waiting.read_text())
    assert is_running(worker)
    if number is signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (130 if number is signal.SIGINT else -number)
    if number is signal.SIGINT:
        assert errors == b""
    while is_running(worker):
        time.sleep(0.02)


def test_a_script_without_a_guard_is_told_about_it(tmp_path: Path) -> None:
    driver = Path(__file__).with_name("worker_driver.py").read_text()
    assert driver.count('if __name__ == "__main__":') == 1
    script = tmp_path / "script.py"
    script.write_text(driver.replace('if __name__ == "__main__":', "if True:"))
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, script, tmp_path],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert "A worker process ended with status 1 before its first part" in message
    assert 'start this under `if __name__ == "__main__":`' in message
