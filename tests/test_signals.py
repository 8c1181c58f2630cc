"""Signals: a flag first, at once the second time, and everything as before afterwards."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from minilm.training.signals import SIGNALS, StopRequest


@pytest.fixture(autouse=True)
def handlers_of_a_fresh_process() -> Iterator[None]:
    """Whatever started the tests, SIGINT is not ignored, and all is put back afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]
)
def test_a_signal_sets_the_flag(number: signal.Signals, code: int) -> None:
    with StopRequest() as stop:
        assert not stop.requested
        assert stop.signal is None
        assert stop.exit_code == 0
        signal.raise_signal(number)
        assert stop.requested
        assert stop.signal is number
        assert stop.exit_code == code == 128 + number
    assert stop.requested  # it is still known afterwards


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_signals_do_not_count_as_a_second_ctrl_c() -> None:
    with StopRequest() as stop:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.raise_signal(number)
    assert stop.signal is signal.SIGTERM
    assert stop.exit_code == 143


def test_handlers_are_put_back() -> None:
    def mine(number: int, frame: FrameType | None) -> None:
        pass

    signal.signal(signal.SIGTERM, mine)
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest():
        assert all(signal.getsignal(number) not in before for number in SIGNALS)
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with pytest.raises(RuntimeError), StopRequest():
        raise RuntimeError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_handler_that_was_there_is_called_as_well() -> None:
    calls: list[tuple[int, bool]] = []

    def mine(number: int, frame: FrameType | None) -> None:
        calls.append((number, frame is not None))

    signal.signal(signal.SIGTERM, mine)
    signal.signal(signal.SIGINT, mine)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert calls == [(signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGINT, True)]


def test_an_ignored_signal_stays_ignored() -> None:
    """A command in the background of a script ignores SIGINT: Ctrl-C is for another one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_handler_of_another_language_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    original = signal.getsignal
    monkeypatch.setattr(
        signal, "getsignal", lambda number: None if number == signal.SIGTERM else original(number)
    )
    with StopRequest():
        assert original(signal.SIGTERM) is signal.SIG_DFL
        assert original(signal.SIGINT) is not signal.default_int_handler


def test_within_each_other_both_hear() -> None:
    with StopRequest() as outer:
        with StopRequest() as inner:
            signal.raise_signal(signal.SIGTERM)
        assert inner.requested
        assert outer.requested
        signal.raise_signal(signal.SIGTERM)


def test_in_another_thread_nothing_happens() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    found: list[Any] = []

    def work() -> None:
        with StopRequest() as stop:
            found.append([signal.getsignal(number) for number in SIGNALS])
            found.append((stop.requested, stop.exit_code))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert found == [before, (False, 0)]


def in_a_forked_child(number: signal.Signals) -> int:
    """The exit status of a child that was forked inside the block and got a signal."""
    code = (
        "import os, signal, time\n"
        "from minilm.training.signals import StopRequest\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with StopRequest() as stop:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        f"        signal.raise_signal(signal.Signals({int(number)}))\n"
        "        os._exit(7)\n"
        "    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "    assert not stop.requested\n"
        "print(status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return int(done.stdout)


def test_a_forked_child_ends_when_it_is_told_to_and_leaves_ctrl_c_to_its_parent() -> None:
    """Else `Process.terminate` would wait for ever for a worker that inherited the handler."""
    assert in_a_forked_child(signal.SIGTERM) == -signal.SIGTERM
    assert in_a_forked_child(signal.SIGINT) == 7
