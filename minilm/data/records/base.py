"""Records that know where they come from, and the treatment of unusable ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, overload

from minilm.errors import DataError, InputError
from minilm.files.progress import counted

Record: TypeAlias = dict[str, Any]
Policy: TypeAlias = Literal["raise", "skip"]

_MESSAGES_KEPT = 5


class Records(Sequence[Record]):
    """Records of a file, in its order.

    Args:
        rows: the records.
        places: the place of each record in the file, such as "line 17".
        source: the name of the file in messages.
    """

    def __init__(self, rows: list[Record], places: list[str], source: str) -> None:
        if len(rows) != len(places):
            raise InputError(f"{len(rows)} rows but {len(places)} places; each row needs one.")
        self._rows = rows
        self._places = places
        self._source = source

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Records: ...

    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return Records(self._rows[index], self._places[index], self._source)
        return self._rows[index]

    def map(self, change: Callable[[Record], Record]) -> Records:
        """Applies a function to every record; places stay the same."""
        return Records([change(row) for row in self._rows], self._places, self._source)

    def pick(self, indices: Sequence[int]) -> Records:
        """Some of the records, in the order given."""
        return Records(
            [self._rows[index] for index in indices],
            [self._places[index] for index in indices],
            self._source,
        )

    def where(self, index: int) -> str:
        """Where a record comes from, such as "train.tsv, line 17"."""
        return f"{self._source}, {self._places[index]}"


def where(records: Sequence[Record], index: int) -> str:
    """Where a record comes from, for messages.

    Returns:
        The result of `Records.where`, or "record 17" (counted from 0) for any other sequence.

    Example:
        >>> where([{"text": "a"}, {"text": "b"}], 1)
        'record 1'
    """
    return records.where(index) if isinstance(records, Records) else f"record {index}"


class RecordError(Exception):
    """A record that cannot be used. Readers pass it to `collect` instead of the record.

    Args:
        problem: what is wrong, as a complete sentence.
        advice: what to do about it.
        reason: the kind of the problem, in two or three words.
    """

    def __init__(self, problem: str, advice: str = "", *, reason: str) -> None:
        super().__init__(f"{problem} {advice}".strip())
        self.problem = problem
        self.advice = advice
        self.reason = reason


class Skips:
    """Raises an error for records that cannot be used, or counts them as left out.

    Args:
        policy: "raise" raises an error at the first one, "skip" leaves them out and counts them.

    Attributes:
        total: number of records seen, good and bad.
        count: number of records left out.
        reasons: number of records left out for each reason.
        first: the first five messages.
        repaired: number of records repaired instead.

    Raises:
        InputError: the policy is unknown.

    Example:
        >>> skips = Skips("skip")
        >>> skips.total += 100
        >>> skips.refuse("train.tsv, line 17", "The text is empty.", reason="empty text")
        >>> skips.summary()
        '1 of 100 records skipped: 1 empty text; first: train.tsv, line 17: The text is empty.'
    """

    def __init__(self, policy: Policy = "raise") -> None:
        if policy not in get_args(Policy):
            raise InputError(
                f"policy must be one of {', '.join(get_args(Policy))}, not {policy!r}."
            )
        self.policy = policy
        self.total = 0
        self.count = 0
        self.reasons: Counter[str] = Counter()
        self.first: list[str] = []
        self.repaired = 0

    def refuse(self, where: str, problem: str, advice: str = "", *, reason: str) -> None:
        """Raises an error for a record, or counts it as left out.

        Args:
            where: the place of the record.
            problem: what is wrong, as a complete sentence.
            advice: what to do about it.
            reason: the kind of the problem in two or three words, for `summary`.

        Raises:
            DataError: the policy is "raise".
        """
        message = f"{where}: {problem} {advice}".rstrip()
        if self.policy == "raise":
            raise DataError(message)
        self.count += 1
        self.reasons[reason] += 1
        if len(self.first) < _MESSAGES_KEPT:
            self.first.append(message)

    def summary(self) -> str:
        """How many records were left out and why, in one line."""
        text = f"{self.count:,} of {counted(self.total, 'record')} skipped"
        if self.count:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
            text += f": {reasons}; first: {self.first[0]}"
        if self.repaired:
            text += f" ({self.repaired} repaired)"
        return text


def collect(path: Path, found: Iterable[tuple[str, Record | RecordError]], skips: Skips) -> Records:
    """Collects the usable records of a file.

    Args:
        path: the file.
        found: place and record of each, in order.
        skips: what to do with bad records.

    Raises:
        DataError: a record is bad and `skips` has the policy "raise", or no record is left.
    """
    rows: list[Record] = []
    places: list[str] = []
    for place, row in found:
        skips.total += 1
        if isinstance(row, RecordError):
            skips.refuse(f"{path}, {place}", row.problem, row.advice, reason=row.reason)
        else:
            rows.append(row)
            places.append(place)
    if not rows:
        left_out = f" ({skips.summary()})" if skips.count else ""
        raise DataError(
            f"{path}: no record in it{left_out}. Expected at least one; is it the right file?"
        )
    return Records(rows, places, str(path))
