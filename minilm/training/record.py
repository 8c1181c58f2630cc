"""settings.json: what a run was started with, so that no other run resumes in its place."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import minilm
from minilm.errors import TrainingError, by_place, setting
from minilm.files.atomic import replace_files
from minilm.files.json_file import json_bytes, parse_json, read_json
from minilm.training.distributed import Processes
from minilm.training.settings import FREE

SETTINGS = "settings.json"
COMMAND = "command"  # the part that says with which command and options the run was started

# digests, for which a message can only say that they differ
PLAIN = {
    "data.samples": "the training records differ",
    "data.sequences.store": "the corpus differs",
    "description.start.weights": "the weights to start from differ",
    "description.teacher": "the teacher's weights differ",
    "evaluation.dev": "the dev records differ",
}


def environment(processes: Processes) -> dict[str, Any]:
    """Versions, devices and the like, which may change the last bits of the results."""
    return {
        "minilm": minilm.__version__,
        "torch": torch.__version__,
        "processes": processes.world,
        "device": processes.device.type,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def check_record(
    run: Path,
    identity: dict[str, Any],
    environment: dict[str, Any],
    allow_changes: bool,
    say: Callable[[str], None],
    command: Mapping[str, Any] | None = None,
) -> None:
    """Stores the run's settings, or compares them with those stored at its start.

    Args:
        run: the directory of settings.json.
        identity: values that may not differ, except for the settings named in `FREE`;
            evaluate_every is free only where no evaluation is selected.
        environment: values that may differ; differences are reported.
        allow_changes: whether to accept other settings too.
        say: receives messages.
        command: the command that the run was started with; written, never compared. None = unknown.

    Raises:
        TrainingError: values differ; the message gives each of them, then and now.
    """
    path = run / SETTINGS
    if not path.exists():
        _write_settings(path, identity, environment, command)
        return
    stored = read_json(path, max_bytes=10_000_000, error=TrainingError)
    before = _flat({key: stored.get(key, {}) for key in identity})
    now = _flat(parse_json(json_bytes(identity)))
    free = {f"settings.{name}" for name in FREE}
    if now.get("settings.select") is not None:  # which evaluations there are says which is the best
        free.discard("settings.evaluate_every")
    differing = [
        _difference(key, before, now)
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in free
    ]
    if differing and not allow_changes:
        raise TrainingError(
            f"{path.parent.parent} holds a run with other settings:\n  "
            + "\n  ".join(differing)
            + "\nRepeat what it was started with, take another "
            + by_place(python="directory", command="--output")
            + f", or resume anyway with {setting('allow_changes', True)}."
        )
    other = {
        key: (stored.get("circumstances", {}).get(key), value)
        for key, value in environment.items()
        if stored.get("circumstances", {}).get(key) != value
    }
    for key, (then, value) in other.items():
        what = "the last bits of the weights may differ"
        if key in ("processes", "device") and "cuda" in (environment["device"], then):
            what = "dropout draws other masks from here on"  # on a CPU they belong to the samples
        say(f"note: {key} was {then}, is {value} now: {what}")
    if differing or other:
        _write_settings(path, identity, environment, command or stored.get(COMMAND))


def _difference(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if key in PLAIN and key in before and key in now:
        return PLAIN[key]
    return f"{key}: {before.get(key, 'unset')!r} then, {now.get(key, 'unset')!r} now"


def _write_settings(
    path: Path,
    identity: dict[str, Any],
    environment: dict[str, Any],
    command: Mapping[str, Any] | None,
) -> None:
    started = {} if command is None else {COMMAND: dict(command)}
    content = json_bytes({**identity, "circumstances": environment, **started})
    replace_files({path: lambda temporary: temporary.write_bytes(content)})


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            flat |= _flat(entry, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = entry
    return flat
