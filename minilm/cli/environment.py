"""What has to be in the environment before torch is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

# OpenMP's threads spin while they wait for each other. On a machine with other work, the one that
# is waited for may not be running: the others then spin away the time that it needs. A passive
# thread sleeps instead. Nothing else changes: no result depends on it.
SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE"}
# whoever has set one of these has decided; the second are the libraries' own words for it
DECIDED = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT")


def prepare_environment(environment: MutableMapping[str, str] | None = None) -> bool:
    """Lets threads sleep while they wait, unless the user has decided otherwise.

    Child processes inherit it, those of workers and of `torchrun -m minilm.cli` among them.

    Args:
        environment: to be changed; None = that of this process.

    Returns:
        Whether the settings will have an effect: False if torch, and with it OpenMP, is imported
        already, or the user has set one of `DECIDED`.
    """
    environment = os.environ if environment is None else environment
    if "torch" in sys.modules or any(name in environment for name in DECIDED):
        return False
    environment.update(SETTINGS)
    return True
