"""How busy the machine was with other work while something was measured."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROC_STAT = Path("/proc/stat")
BUSY = 0.1  # of all CPUs in use by others, from which figures are doubtful
BEFORE = 0.2  # seconds that are looked at before anything is measured


@dataclass(frozen=True)
class _Moment:
    """Seconds since some start.

    Attributes:
        wall: seconds of the clock.
        own: seconds that this process and its finished children have computed.
        all: seconds that the machine has computed, for all processes; None = unknown.
    """

    wall: float
    own: float
    all: float | None

    @classmethod
    def now(cls) -> _Moment:
        spent = os.times()
        own = spent.user + spent.system + spent.children_user + spent.children_system
        return cls(time.perf_counter(), own, _computed())


def _computed() -> float | None:
    """Seconds that all CPUs together have worked since the machine started."""
    try:
        fields = PROC_STAT.read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    if fields[:1] != ["cpu"] or len(fields) < 5:
        return None
    user, nice, system, _, *rest = (int(value) for value in fields[1:])
    interrupts = sum(rest[1:4])  # of hardware, of software, stolen by a hypervisor; not: waiting
    return (user + nice + system + interrupts) / os.sysconf("SC_CLK_TCK")


@dataclass
class LoadWatch:
    """Measures what share of the machine other processes used, before and while something ran.

    Make one before the measurement and call `report` after it.
    """

    cpus: int = field(default_factory=lambda: os.cpu_count() or 1)

    def __post_init__(self) -> None:
        begin = _Moment.now()
        if begin.all is not None:
            time.sleep(BEFORE)
        self._start = _Moment.now()
        self._before = self._others(begin, self._start)

    def report(self) -> dict[str, Any]:
        """The load of the machine.

        Returns:
            "cpus"; "load_average" of the last minute, which counts this process, too (None where
            the system does not know it); "others_before" and "others_during": the share of all
            CPUs that other processes used, 0 to 1 (None where the system does not say); "busy":
            whether one of them is 0.1 or more, so that the figures are doubtful.
        """
        during = self._others(self._start, _Moment.now())
        average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        known = [share for share in (self._before, during) if share is not None]
        if not known and average is not None:  # macOS: all there is, this process included
            known = [max(average - 1, 0) / self.cpus]
        return {
            "cpus": self.cpus,
            "load_average": average,
            "others_before": self._before,
            "others_during": during,
            "busy": max(known, default=0.0) >= BUSY,
        }

    def _others(self, begin: _Moment, end: _Moment) -> float | None:
        if begin.all is None or end.all is None or end.wall <= begin.wall:
            return None
        others = (end.all - begin.all) - (end.own - begin.own)
        return min(max(others / (end.wall - begin.wall) / self.cpus, 0.0), 1.0)


def busy_warning(load: Mapping[str, Any]) -> str | None:
    """What to tell the user about the load in a report; None on a quiet machine."""
    if not load["busy"]:
        return None
    before, during, average = load["others_before"], load["others_during"], load["load_average"]
    if during is None:
        used = f"its load average is {average:.1f} with {load['cpus']} CPUs"
    else:
        used = (
            f"other processes used {before:.0%} of its {load['cpus']} CPUs before and {during:.0%} "
            "during the measurement"
        )
        if average is not None:
            used += f", load average {average:.1f}"
    return (
        f"the machine was busy: {used}. Times are too long, and differences between contenders may "
        "be chance: see the spread of the rounds, and measure again on a quiet machine."
    )


def load_words(load: Mapping[str, Any]) -> str:
    """The load in a few words."""
    average = "" if load["load_average"] is None else f"load average {load['load_average']:.1f}"
    if load["others_during"] is None:
        return average or "load unknown"
    used = f"other processes used {load['others_during']:.0%} of {load['cpus']} CPUs meanwhile"
    return ", ".join(filter(None, [used, average]))
