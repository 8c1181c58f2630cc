"""What commands that measure say about other work on the machine, and the threads' waiting."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minilm.bench import load
from minilm.bench.load import LoadWatch, busy_warning, load_words
from minilm.bench.measure import spread
from minilm.cli import prepare_environment


def ticks(busy: int, idle: int) -> str:
    return f"cpu {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 0 0 0 0\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of which the test says what it does; this process seems to do nothing."""
    stat = tmp_path / "stat"
    stat.write_text(ticks(0, 0))
    monkeypatch.setattr(load, "PROC_STAT", stat)
    monkeypatch.setattr(load.os, "sysconf", lambda name: 100)
    seconds = iter(range(0, 1000, 10))
    monkeypatch.setattr(load.time, "perf_counter", lambda: float(next(seconds)))
    monkeypatch.setattr(load.time, "sleep", lambda _: None)
    times = type("Times", (), dict.fromkeys(
        ("user", "system", "children_user", "children_system"), 0.0))  # fmt: skip
    monkeypatch.setattr(load.os, "times", times)
    return stat


def test_the_share_of_others_is_measured(machine: Path) -> None:
    watch = LoadWatch(cpus=2)
    machine.write_text(ticks(1500, 500))  # 15 s of work in 10 s, on two CPUs
    report = watch.report()
    assert report["others_before"] == 0
    assert report["others_during"] == pytest.approx(0.75)
    assert report["busy"]
    warning = busy_warning(report)
    assert warning is not None
    assert "75%" in warning
    assert "2 CPUs" in warning
    assert "75%" in load_words(report)


def test_a_quiet_machine_gets_no_warning(machine: Path) -> None:
    watch = LoadWatch(cpus=2)
    machine.write_text(ticks(30, 2000))
    report = watch.report()
    assert report["others_during"] == pytest.approx(0.015)
    assert busy_warning(report) is None


def test_own_work_does_not_count(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = LoadWatch(cpus=2)
    machine.write_text(ticks(1000, 1000))
    own = type("Times", (), {
        "user": 8.0, "system": 1.0, "children_user": 0.5, "children_system": 0.5})  # fmt: skip
    monkeypatch.setattr(load.os, "times", own)
    report = watch.report()
    assert report["others_during"] == 0
    assert not report["busy"]


def test_systems_that_say_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "PROC_STAT", tmp_path / "missing")
    monkeypatch.setattr(load.os, "getloadavg", lambda: (6.0, 0, 0))
    report = LoadWatch(cpus=4).report()
    assert report["others_during"] is None
    assert report["busy"]
    assert "load average is 6.0 with 4 CPUs" in str(busy_warning(report))
    monkeypatch.delattr(load.os, "getloadavg")
    report = LoadWatch(cpus=4).report()
    assert not report["busy"]
    assert load_words(report) == "load unknown"


def test_the_spread_of_rounds() -> None:
    assert spread([3.0, 1.0, 2.0, 5.0, 4.0]) == {
        "seconds": 3, "lower_quartile": 2, "upper_quartile": 4, "lowest": 1, "highest": 5,
    }  # fmt: skip
    assert set(spread([2.0]).values()) == {2.0}


# --- the environment of the commands ---


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"KMP_BLOCKTIME": "0"}, {"KMP_BLOCKTIME": "0"}),
        ({"GOMP_SPINCOUNT": "9"}, {"GOMP_SPINCOUNT": "9"}),
    ],
)
def test_the_user_decides_how_threads_wait(
    given: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    changed = prepare_environment(given)
    assert given == expected
    assert changed == (len(expected) == 1 and "PASSIVE" in expected.values())


def test_nothing_is_set_once_torch_is_there() -> None:
    environment: dict[str, str] = {}
    assert not prepare_environment(environment)
    assert environment == {}


@pytest.mark.parametrize(
    "command",
    [
        ["-c", "from minilm.cli import main"],  # the console script
        ["-c", "import minilm; import minilm.cli"],
    ],
)
def test_commands_set_it_before_torch_is_imported(command: list[str]) -> None:
    command[1] += "; import os, sys; assert 'torch' not in sys.modules; import torch; "
    command[1] += "print(os.environ.get('OMP_WAIT_POLICY'))"
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "PASSIVE", done.stderr


def test_the_library_leaves_the_environment_alone() -> None:
    code = "import os, minilm; minilm.BertModel; print(os.environ.get('OMP_WAIT_POLICY'))"
    environment: dict[str, Any] = {"PATH": "", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "None", done.stderr
