"""Reports on loaded checkpoints and on students, tensor by tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Verdict = Literal["loaded", "renamed", "ignored", "new", "missing", "unexpected", "mismatched"]

MEANING: dict[Verdict, str] = {
    "loaded": "stored under its usual name, now in the model",
    "renamed": "stored under another name, now in the model",
    "ignored": "stored, left out by a rule",
    "new": "not stored; freshly initialised, train it before use",
    "missing": "not stored, but the model cannot work without it",
    "unexpected": "stored, but unknown",
    "mismatched": "stored with a shape or dtype that does not fit",
}

SHOWN = 4  # tensors printed one by one for each reason


@dataclass(frozen=True)
class Entry:
    """The verdict on one tensor.

    Attributes:
        verdict: a key of `MEANING`.
        stored: its name in the file; None if it is not stored.
        own: its name in the model; None if the model does not have it.
        note: the rule, the reason, or both shapes, in words.
    """

    verdict: Verdict
    stored: str | None
    own: str | None
    note: str = ""

    def __str__(self) -> str:
        names = " -> ".join(name for name in (self.stored, self.own) if name)
        return f"{self.verdict:<11}{names}" + (f": {self.note}" if self.note else "")


@dataclass
class LoadReport:
    """The result of a load, tensor by tensor. `print(report)` shows everything unusual.

    Attributes:
        source: directory of the checkpoint.
        entries: one for each stored tensor and one for each tensor of the model without a value.
        notes: remarks on config.json.
    """

    source: str
    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def of(self, *verdicts: Verdict) -> list[Entry]:
        """The entries with one of these verdicts."""
        return [entry for entry in self.entries if entry.verdict in verdicts]

    @property
    def loaded(self) -> list[Entry]:
        """Tensors stored under their usual names."""
        return self.of("loaded")

    @property
    def renamed(self) -> list[Entry]:
        """Tensors stored under other names: without the base prefix, or with gamma and beta."""
        return self.of("renamed")

    @property
    def ignored(self) -> list[Entry]:
        """Stored tensors that were left out, each with the rule."""
        return self.of("ignored")

    @property
    def missing(self) -> list[Entry]:
        """Tensors that are not stored: new heads, and those that made the load fail."""
        return self.of("new", "missing")

    @property
    def unexpected(self) -> list[Entry]:
        """Stored tensors that are unknown."""
        return self.of("unexpected")

    @property
    def mismatched(self) -> list[Entry]:
        """Tensors stored with another shape or dtype, each with both."""
        return self.of("mismatched")

    def of_model(self, own_prefix: str, notes: list[str]) -> LoadReport:
        """The report with the names of the loaded model, without `own_prefix`.

        Args:
            own_prefix: "encoder." for a base model, "" for a task model.
            notes: remarks to add.
        """
        entries = [
            replace(entry, own=entry.own and entry.own.removeprefix(own_prefix))
            for entry in self.entries
        ]
        return LoadReport(self.source, entries, [*self.notes, *notes])

    def as_dict(self) -> dict[str, Any]:
        """Counts, notes and all entries, for --json."""
        return {
            "source": self.source,
            "counts": dict(Counter(entry.verdict for entry in self.entries)),
            "notes": self.notes,
            "entries": [vars(entry) for entry in self.entries],
        }

    def __str__(self) -> str:
        counts = Counter(entry.verdict for entry in self.entries)
        lines = [f"{self.source}:"]
        lines += [f"  {n:>5} {verdict}: {MEANING[verdict]}" for verdict, n in counts.items()]
        reasons: dict[tuple[Verdict, str], list[Entry]] = {}
        for entry in self.entries:
            if entry.verdict not in ("loaded", "renamed"):
                reasons.setdefault((entry.verdict, entry.note), []).append(entry)
        for alike in reasons.values():
            lines += [f"    {entry}" for entry in alike[:SHOWN]]
            if len(alike) > SHOWN:
                lines.append(f"    ... and {len(alike) - SHOWN} more for the same reason")
        return "\n".join(lines + [f"  {note}" for note in self.notes])


@dataclass(frozen=True)
class StudentReport:
    """What a student was initialised from. `print(report)` shows all of it.

    Attributes:
        teacher, student: the names of the classes.
        layers: for each stored layer of the student, the teacher's layers whose mean it is; none
            if it was drawn at random.
        taken: part of the student -> the part of the teacher it comes from.
        fresh: part of the student -> why it was drawn at random.
        retained_energy: for each embedding table of another width, the fraction of the sum of
            squares that is left, 0 to 1; else empty.
    """

    teacher: str
    student: str
    layers: tuple[tuple[int, ...], ...]
    taken: Mapping[str, str]
    fresh: Mapping[str, str]
    retained_energy: Mapping[str, float]

    def __str__(self) -> str:
        lines = [f"{self.student} from {self.teacher}, taken from the teacher:"]
        lines += _parts(self.taken)
        if self.retained_energy:
            shares = (f"{share:.1%} of {name}" for name, share in self.retained_energy.items())
            lines.append(f"  energy kept in the embeddings: {', '.join(shares)}")
        if self.fresh:
            lines += ["drawn at random:", *_parts(self.fresh)]
        return "\n".join(lines)


def _parts(notes: Mapping[str, str]) -> list[str]:
    """A line for each note, with all parts that have it."""
    alike: dict[str, list[str]] = {}
    for name, note in notes.items():
        alike.setdefault(note, []).append(name)
    shown = {note: names[:SHOWN] + ["..."] * (len(names) > SHOWN) for note, names in alike.items()}
    return [f"  {', '.join(names)}: {note}" for note, names in shown.items()]
