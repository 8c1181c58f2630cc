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
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

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


class Check:
    """All runs; see the module."""

    def __init__(self, home: Path, seed: int) -> None:
        self.draw = random.Random(seed)
        self.home = home
        self.report: dict[str, Any] = {"seed": seed, "kills": 0, "of_workers": 0, "runs": 0}
        self.report |= {"starts": 0, "parts_after_kills": [], "wrong": []}
        save_tiny(home / "model")
        (home / "texts.txt").write_text("\n".join(make_texts(LINES)) + "\n")
        begun = time.monotonic()
        if self.start(home / "undisturbed", 1).wait(PATIENCE) != 0:
            raise SystemExit((home / "messages.txt").read_text())
        self.seconds = time.monotonic() - begun
        self.expected = contents(home / "undisturbed")

    def start(self, output: Path, workers: int) -> subprocess.Popen[bytes]:
        with (self.home / "messages.txt").open("ab") as log:
            arguments = ["encode", self.home / "model", self.home / "texts.txt", "-o", output]
            arguments += ["--part-rows", str(PART_ROWS), "--workers", str(workers)]
            command = [sys.executable, "-m", "minilm.cli", *arguments]
            return subprocess.Popen(command, stdout=log, stderr=log)

    def run(self, kills: int) -> None:
        """Starts a command again and again until it ends by itself."""
        output = self.home / "disturbed"
        done: set[int] = set()
        while True:
            workers = self.draw.choice((1, 1, 2, 3))
            self.report["starts"] += 1
            process = self.start(output, workers)
            killing = self.report["kills"] < kills
            limit = self.draw.uniform(0.2, 1.1) * self.seconds if killing else PATIENCE
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                if not killing:
                    raise
                done = self.kill(process, output, done)
                continue
            if status != 0:
                raise SystemExit(
                    f"ended with {status}:\n{(self.home / 'messages.txt').read_text()}"
                )
            break
        self.report["runs"] += 1
        found = contents(output)
        names = found.keys() | self.expected.keys()
        if odd := sorted(name for name in names if found.get(name) != self.expected.get(name)):
            self.report["wrong"].append({"files": odd})
        shutil.rmtree(output)

    def kill(self, process: subprocess.Popen[bytes], output: Path, before: set[int]) -> set[int]:
        """Kills a command or one of its workers; the parts that are finished then."""
        started = children(process.pid)
        victim = self.draw.choice([process.pid, *started[1:]])  # the first tracks resources
        self.report["kills"] += 1
        os.kill(victim, signal.SIGKILL)
        status = process.wait(PATIENCE)
        if victim != process.pid:
            self.report["of_workers"] += 1
            messages = (self.home / "messages.txt").read_text()
            if status == 0 or "killed by signal 9" not in messages:
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
