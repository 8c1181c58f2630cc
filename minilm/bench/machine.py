"""Where and when something was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch

import minilm
from minilm.files.progress import counted


def describe_machine() -> dict[str, Any]:
    """The conditions that speeds depend on, as JSON.

    Returns:
        "date" (today, as YYYY-MM-DD), "processor", "instructions" (the widest that torch uses),
        "cores" (according to the system), "threads" (that torch uses), and the versions "minilm",
        "torch" and "python".
    """
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "minilm": minilm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def machine_words(machine: Mapping[str, Any]) -> str:
    """What `describe_machine` found, as text without the date."""
    return (
        f"{machine['processor']} ({machine['instructions']}), "
        f"{counted(machine['threads'], 'thread')}, torch {machine['torch']}"
    )


def processor() -> str:
    """The name of the processor, or that of its architecture where the system does not tell."""
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return " ".join(value.split())
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.stdout.strip():
            return told.stdout.strip()
    return platform.processor() or platform.machine() or "unknown"
