"""Kills real `minilm encode` commands at random moments: `python tests/kill_check_encode.py`.

Each start encodes the same lines with a tiny model, with a number of workers drawn anew. It is
killed (SIGKILL) at a random moment: the whole command, or one of its workers, until so many kills
have been dealt. Checked after every kill: no part that was finished is lost, no part that counts as
finished differs from that of an undisturbed run, and all workers are gone. Checked at the end of
every run: the directory holds the same bytes, and nothing else.

Prints one JSON object and ends with 1 if anything was otherwise. 50 kills take some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import minilm.sentence.bulk  # noqa: F401 - torch and all else once, before the forks
from forked_commands import become, wait_for
from minilm.data.parts import DONE, Parts
from saved import make_texts, save_tiny

PATIENCE = 900.0  # seconds after which a command counts as hanging
LINES, PART_ROWS = 24_000, 1000


def children(process: int) -> list[int]:
    """The processes that a process has started (Linux)."""
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(number) for number in text.split()]


def is_running(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def contents(directory: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(directory)): p for p in directory.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in found.items() if not name.endswith(".lock")}


def start(arguments: list[str], log: Path) -> int:
    """Starts a command; the number of its process."""
    process = os.fork()
    if process == 0:
        become(arguments, log)
    return process


class Check:
    """All runs; see the module."""

    def __init__(self, home: Path, seed: int) -> None:
        self.draw = random.Random(seed)
        self.home = home
        self.report: dict[str, Any] = {"seed": seed, "kills": 0, "of_workers": 0, "runs": 0}
        self.report |= {"starts": 0, "parts_after_kills": [], "wrong": []}
        save_tiny(home / "model")
        (home / "texts.txt").write_text("\n".join(make_texts(LINES)) + "\n")
        self.log = home / "messages.txt"
        begun = time.monotonic()
        self.finish(self.start(home / "undisturbed", 1))
        self.seconds = time.monotonic() - begun
        self.expected = contents(home / "undisturbed")

    def start(self, output: Path, workers: int) -> int:
        arguments = ["encode", self.home / "model", self.home / "texts.txt", "-o", output]
        arguments += ["--part-rows", PART_ROWS, "--workers", workers]
        self.report["starts"] += 1
        return start([str(argument) for argument in arguments], self.log)

    def finish(self, process: int, limit: float = PATIENCE) -> bool:
        """Whether a command ended by itself in time; it must not fail."""
        status = wait_for(process, limit)
        if status or (status is None and limit == PATIENCE):
            raise SystemExit(f"ended with {status}:\n{self.log.read_text()}")
        return status == 0

    def run(self, kills: int) -> None:
        """Starts a command again and again until it ends by itself."""
        output = self.home / "disturbed"
        done: set[int] = set()
        while True:
            workers = self.draw.choice((1, 1, 2, 3))
            process = self.start(output, workers)
            killing = self.report["kills"] < kills
            limit = self.draw.uniform(0, 1.1) * self.seconds if killing else PATIENCE
            if self.finish(process, limit):
                break
            done = self.kill(process, output, done)
        self.report["runs"] += 1
        found = contents(output)
        names = found.keys() | self.expected.keys()
        if odd := sorted(name for name in names if found.get(name) != self.expected.get(name)):
            self.report["wrong"].append({"files": odd})
        shutil.rmtree(output)

    def kill(self, process: int, output: Path, before: set[int]) -> set[int]:
        """Kills a command or one of its workers; the parts that are finished then."""
        started = children(process)
        victim = self.draw.choice([process, *started[1:]])  # the first tracks resources
        self.report["kills"] += 1
        before_messages = len(self.log.read_bytes()) if self.log.exists() else 0
        os.kill(victim, signal.SIGKILL)
        status = wait_for(process, PATIENCE)
        if victim != process:
            self.report["of_workers"] += 1
            said = self.log.read_bytes()[before_messages:]
            finished = status == 0  # the worker had done its last part
            if not finished and (status != 2 or b"killed by signal 9" not in said):
                self.report["wrong"].append({"killed worker": status})
        ends = time.monotonic() + PATIENCE
        while alive := [one for one in started if is_running(one)]:
            if time.monotonic() > ends:
                self.report["wrong"].append({"processes left": alive})
                break
            time.sleep(0.01)
        if not (output / DONE).exists():
            return set()
        found = contents(output)
        done = set(Parts.open(output).records()) if "_manifest.json" in found else set()
        self.report["parts_after_kills"].append(len(done))
        if lost := sorted(before - done):
            self.report["wrong"].append({"lost parts": lost})
        for part in done:
            name = f"part-{part:06d}.npy"
            if found[name] != self.expected[name]:
                self.report["wrong"].append({"different part": name})
        return done


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        check = Check(Path(name), options.seed)
        while check.report["kills"] < options.kills or not check.report["runs"]:
            check.run(options.kills)
            print(json.dumps(check.report), file=sys.stderr)
    check.report["right"] = not check.report["wrong"]
    print(json.dumps(check.report, indent=2))
    return 0 if check.report["right"] else 1


if __name__ == "__main__":
    sys.exit(main())
