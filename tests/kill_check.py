"""Kills real training commands at random moments: `python tests/kill_check.py > kills.json`.

`minilm finetune`, `distill` and `pretrain` train tiny models with dropout on text that comes with
Python. Every start draws its number of workers anew, and is killed (SIGKILL) at a random moment
until so many kills have been dealt. A run that was killed must end with the same bytes as one that
was not: weights, configuration, task.json and log. Then runs whose number of processes is drawn
anew at every start must end within 1e-5 of the undisturbed weights (float32).

Prints one JSON object and ends with 1 if a run ended otherwise. 200 kills and 20 changes of the
number of processes take about a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import pydoc_data.topics
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # optimisers import it; once, before the forks
from safetensors.torch import load_file

import minilm
from forked_commands import become, wait_for

TOLERANCE = 1e-5
PATIENCE = 300.0  # seconds after which a run counts as hanging
UNTIMED = ("seconds", "tokens_per_second")
SHAPE = ["--hidden-size", "32", "--heads", "4", "--positions", "64", "--layers", "2"]
LOOP = ["--device", "cpu", "--threads", "1", "--precision", "float32", "--seed", "3"]
OFTEN = ["--snapshot-every", "3", "--evaluate-every", "5"]


def prepare(directory: Path) -> dict[str, list[str]]:
    """Data, a teacher and the three commands, without --output and what changes between starts."""
    texts = [text for text in pydoc_data.topics.topics.values() if len(text) > 400][:60]
    corpus = directory / "corpus.txt"
    corpus.write_text("\n\n".join(" ".join(text.split()) for text in texts))
    store, teacher = directory / "store", directory / "teacher"
    quiet("train-tokenizer", str(corpus), "--vocab-size", "600", "--output", str(teacher))
    quiet("tokenize", str(corpus), "--tokenizer", str(teacher), "--output", str(store))
    size = minilm.Tokenizer.from_pretrained(teacher).vocab_size
    config = minilm.BertConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    torch.manual_seed(1)
    minilm.BertForMaskedLM(config).save_pretrained(teacher)
    rows = [line for text in texts for line in text.split(". ") if 20 < len(line) < 200][:120]
    labelled = directory / "records.jsonl"
    records = [
        {"text": " ".join(row.split()), "label": "long" if len(row) > 90 else "short"}
        for row in rows
    ]
    labelled.write_text("".join(json.dumps(record) + "\n" for record in records))
    tokens = ["--corpus", str(store), "--held-out", "4", "--max-length", "48", "--steps", "30"]
    tokens += ["--tokens-per-step", "600", *LOOP, *OFTEN]
    return {
        "finetune": [
            *["finetune", "--task", "classification", "--model", str(teacher)],
            *["--train", str(labelled), "--hold-out", "0.2", "--epochs", "5", "--batch-size", "16"],
            *["--learning-rate", "1e-3", "--patience", "50", *LOOP, *OFTEN],
        ],
        "distill": ["distill", "--teacher", str(teacher), *tokens],
        "pretrain": [
            *["pretrain", "--model", "albert", "--objective", "mlm+sop", "--optimiser", "lamb"],
            *["--embedding-size", "16", "--accumulation", "2", *SHAPE, *tokens],
        ],
    }


def quiet(*arguments: str) -> None:
    """Runs a command that must work."""
    status = wait_or_kill(start(list(arguments)), PATIENCE)
    if status != 0:
        raise SystemExit(f"{' '.join(arguments)} ended with {status}")


def start(arguments: Sequence[str], processes: int = 1) -> int:
    """Starts a command in a group of its own; returns the process (and group) number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    leader = os.fork()
    if leader:
        return leader
    os.setpgid(0, 0)
    rank = 0
    if processes > 1:
        ranks = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {**ranks, "WORLD_SIZE": str(processes)}
        rank = next((number for number in range(1, processes) if os.fork() == 0), 0)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    become(arguments, os.environ["KILL_CHECK_LOG"])


def wait_or_kill(process: int, limit: float) -> int | None:
    """The exit status of a process; None if it was killed because the time was up."""
    status = wait_for(process, limit)
    if status is not None:
        return status
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def result(output: Path) -> dict[str, Any]:
    """What must not depend on interruptions."""
    names = ("model.safetensors", "config.json", "task.json")
    files = {name: (output / name).read_bytes() for name in names if (output / name).exists()}
    rows = map(json.loads, (output / "run/log.jsonl").read_text().splitlines())
    log = [{k: v for k, v in row.items() if k not in UNTIMED} for row in rows if "event" not in row]
    return {**files, "log": log}


def distance(output: Path, other: Path) -> float:
    """The largest difference between the weights of two runs."""
    one, two = (load_file(path / "model.safetensors") for path in (output, other))
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def disturbed(
    command: Sequence[str], output: Path, seconds: float, draw: random.Random, worlds: Sequence[int]
) -> tuple[int, int, float]:
    """Starts a command again and again until it ends by itself; kills, changes of the number of
    processes, and the seconds of an undisturbed run, as far as they are known now."""
    kills, changes, before = 0, 0, None
    while True:
        world = draw.choice(worlds)
        changes += before is not None and world != before
        before = world
        workers = ["--workers", str(draw.choice((0, 1, 2)))]
        process = start([*command, "--output", str(output), *workers], world)
        limit = PATIENCE if kills >= 12 else draw.uniform(0, seconds * 1.1)
        began = time.monotonic()
        status = wait_or_kill(process, limit)
        if status is None and limit < PATIENCE:
            kills += 1
        elif status == 0:
            taken = time.monotonic() - began
            return kills, changes, min(seconds, taken) if kills == 0 else seconds
        else:
            raise SystemExit(f"{' '.join(command)} ended with {status} after {kills} kills")


def check(kills: int, changes: int, seed: int) -> dict[str, Any]:
    """All runs; see the module."""
    draw = random.Random(seed)
    report: dict[str, Any] = {"seed": seed, "kills": 0, "runs": 0, "different": []}
    report |= {"process_changes": 0, "process_runs": 0, "largest_distance": 0.0}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        os.environ["KILL_CHECK_LOG"] = str(directory / "messages.txt")
        commands = prepare(directory)
        expected, seconds = {}, {}
        for kind, command in commands.items():
            began = time.monotonic()
            quiet(*command, "--output", str(directory / kind))
            seconds[kind] = time.monotonic() - began
            expected[kind] = result(directory / kind)
        while report["kills"] < kills or report["process_changes"] < changes:
            killing = report["kills"] < kills
            kind = draw.choice(sorted(commands))
            output = directory / "disturbed"
            worlds = (1,) if killing else (1, 2)
            dealt, changed, seconds[kind] = disturbed(
                commands[kind], output, seconds[kind], draw, worlds
            )
            if killing:
                report["kills"] += dealt
                report["runs"] += 1
                found = result(output)
                names = found.keys() | expected[kind].keys()
                if odd := sorted(n for n in names if found.get(n) != expected[kind].get(n)):
                    report["different"].append({"run": kind, "files": odd})
            else:
                report["process_changes"] += changed
                report["process_runs"] += 1
                far = distance(output, directory / kind)
                report["largest_distance"] = max(report["largest_distance"], far)
            shutil.rmtree(output)
            print(json.dumps(report), file=sys.stderr)
    report["right"] = not report["different"] and report["largest_distance"] <= TOLERANCE
    return report


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--process-changes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    report = check(options.kills, options.process_changes, options.seed)
    print(json.dumps(report, indent=2))
    return 0 if report["right"] else 1


if __name__ == "__main__":
    sys.exit(main())
