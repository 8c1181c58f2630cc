"""Which columns of a record are read as which field.

Data sets have many names for the same thing. A task declares its `Field`s: our name, the names that
data sets use, and what to do with a record that has several of them. `Layouts` finds, for the
records of one data set, which column each field is read from:

1. a column that the user named (`text_column`, `pair_column`, `label_column`);
2. the columns that training read, kept in task.json;
3. a column of our own name; then
4. one of the usual names, whatever their case, spaces and signs.

Two texts are a pair, in the order in which such pairs are usually read: question before passage,
title before body. Nothing is left out silently: what no rule decides is an error that names the
columns, and each run says once which columns it reads and which not (`Layout.describe`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from minilm.data.records.base import RecordError
from minilm.errors import InputError, setting
from minilm.files.progress import counted
from minilm.tasks.column_names import MARKED_WORDS, TEXTS

Record = Mapping[str, Any]
Columns = Mapping[str, tuple[str, ...]]

FLAGS = (0, 1, "0", "1", "0.0", "1.0")  # of a label that is given or not; also booleans
SHOWN = 20  # columns that a message lists
PAIR = "text_pair"  # the field of a second text
# a number, a long name, or one of six words or more
_LOOKS_LIKE_DATA = re.compile(r"^-?[\d.]+$|.{60}|(?:\S+\s+){5}\S", re.DOTALL)
# settings that name columns
SETTINGS = ("text_column", "pair_column", "label_column")


@dataclass(frozen=True)
class Field:
    """A value that a task reads from a record.

    Attributes:
        name: our name; a column of this name takes precedence.
        aliases: the usual names; see `usual`.
        setting: the setting that names the column.
        several: where a record has several of the aliases and no column of our name: "refuse",
            read the "first" alias, or read "all". "pair" reads one or two as "text" and
            "text_pair".
        kind: kind of the values; columns of other kinds are ignored: "text" = a string, "list" =
            several values or a string, "scalar" = not several values.
        pattern: matches columns that together are the field, one for each value.
        labelled: whether it is read only where labels are needed.
        own_first: whether a column of our name takes precedence over all others.
    """

    name: str
    aliases: tuple[str, ...]
    setting: str
    several: Literal["refuse", "first", "all", "pair"] = "refuse"
    kind: Literal["text", "list", "scalar", "any"] = "any"
    pattern: re.Pattern[str] | None = None
    labelled: bool = False
    own_first: bool = True


def usual(column: str) -> str:
    """A column's name without case, spaces and signs, such as "Sentence A" or "#1 String"."""
    return re.sub(r"[^a-z0-9]+", "_", str(column).lower()).strip("_")


def plain(value: Any) -> Any:
    """Converts numbers, arrays and tensors of other libraries to Python's own types."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Layout:
    """The columns from which the fields of records are read.

    Attributes:
        columns: columns of each field that exists; "text" and "text_pair" have one each.
        others: columns that are not read.
        settings: for each field, the settings that name its columns.
    """

    columns: Columns
    others: tuple[str, ...]
    settings: Mapping[str, str]

    def values(self, record: Record, name: str) -> list[Any]:
        """The values of a field, without missing ones."""
        found = (plain(record.get(column)) for column in self.columns.get(name, ()))
        return [value for value in found if value is not None]

    def get(self, record: Record, name: str) -> Any:
        """The value of a field; None if it is missing."""
        return next(iter(self.values(record, name)), None)

    def need(self, record: Record, name: str) -> Any:
        """The value of a field that must be there.

        Raises:
            RecordError: it is missing.
        """
        value = self.get(record, name)
        columns = [column for column in self.columns.get(name, ()) if column in record]
        if value is None and columns:
            where = " + ".join(map(shown, columns))
            raise RecordError(
                f"There is no {name!r} here: {where} holds nothing (null).",
                "Fill it in, remove the record or skip it.",
                reason=f"no {name}",
            )
        if value is None:
            has = ", ".join(map(shown, record)) or "nothing"
            before = list(self.settings)[: list(self.settings).index(name)]
            # those that the next message would be about are named with it
            missing = [name] + [
                other
                for other in before
                if other not in self.columns
                and other != PAIR
                and self.settings[other] in SETTINGS
                and self.settings[name] in SETTINGS
            ]
            raise RecordError(
                f"There is no {' and no '.join(map(repr, missing))}; the record has {has}.",
                _advice(missing, self.settings) + _header_advice(record),
                reason=f"no {name}",
            )
        return value

    def describe(self, names: Iterable[str] | None = None) -> str:
        """Which column each of these fields is read from; None = of all fields."""
        return ", ".join(
            f"{name} from {' + '.join(map(str, self.columns[name]))}"
            for name in (self.columns if names is None else names)
        )


def named(name: str) -> str:
    """A setting as messages name it."""
    return setting(name) if name in SETTINGS else name


def shown(column: object, *, most: int = 40) -> str:
    """The name of a column in quotes, shortened if it is long."""
    text = str(column)
    return repr(text if len(text) <= most else f"{text[: most - 3]}...")


def _advice(names: Sequence[str], settings: Mapping[str, str]) -> str:
    options = [settings[name] for name in names]
    if options[0] not in SETTINGS:
        return f"Give the field that holds it the name {names[0]!r}."
    if len(options) == 1:
        return f"Say which field it is ({named(options[0])})."
    return f"Say which fields they are ({', '.join(map(named, options))})."


def _header_advice(columns: Iterable[object]) -> str:
    """Advice if the names of columns look like data: a number, or a whole sentence."""
    names = list(map(str, columns))
    numbered = names == [str(number) for number in range(1, len(names) + 1)]
    if numbered or not any(map(_LOOKS_LIKE_DATA.search, names)):
        return ""
    option = setting("header", False, option="--no-header")
    return f" If the first line is data, say so ({option}): the columns are then called 1, 2, ..."


class Layouts:
    """The layouts of the records of one data set: one, unless their columns differ.

    Args:
        records: all records.
        fields: fields of the task.
        chosen: columns that the user named, by field.
        known: columns that training read, by field.
        texts: numbers of texts that training records had: 1, 2 or both; () = not known.
        labelled: whether fields of labels are read too.
    """

    def __init__(
        self,
        records: Sequence[Record],
        fields: Sequence[Field],
        *,
        chosen: Columns | None = None,
        known: Columns | None = None,
        texts: Sequence[int] = (),
        labelled: bool,
    ) -> None:
        self._fields = [field for field in fields if labelled or not field.labelled]
        # so that what is a label is not a text, though it is not read
        self._labels = [field for field in fields if field.labelled]
        self._chosen, self._known, self._texts_known = chosen or {}, known or {}, texts
        self._settings: dict[str, str] = {}
        for field in fields:
            self._settings[field.name] = field.setting
            if field.several == "pair":
                self._settings[PAIR] = "pair_column"
        self._found: dict[frozenset[str], Layout | RecordError] = {}
        self._orders: dict[frozenset[str], list[str]] = {}
        self._counts: dict[frozenset[str], int] = {}
        self._samples: dict[str, Any] = {}  # a value of each column
        for record in records:
            if isinstance(record, Mapping):
                columns = frozenset(record)
                self._counts[columns] = self._counts.get(columns, 0) + 1
                self._orders.setdefault(columns, list(record))
                if self._counts[columns] == 1 or None in self._samples.values():
                    for column, value in record.items():
                        if self._samples.get(column) is None:
                            self._samples[column] = plain(value)

    @property
    def columns(self) -> list[str]:
        """All columns of all records, in their order."""
        return list(self._samples)

    def has(self, name: str) -> bool:
        """Whether most records have a field."""
        layout = self.common()
        return layout is not None and name in layout.columns

    def texts(self) -> tuple[int, ...]:
        """How many texts records have: 1, 2, or both; () for a task without pairs."""
        names = {"text", PAIR}
        found = {len(names & set(layout.columns)) for _, layout in self._readable()}
        paired = any(field.several == "pair" for field in self._fields)
        return tuple(sorted(found - {0})) if paired else ()

    def several(self, name: str) -> tuple[str, ...]:
        """The columns that together are a field; () if it has one column or none."""
        layout = self.common()
        columns = () if layout is None else layout.columns.get(name, ())
        return columns if len(columns) > 1 else ()

    def flags(self, records: Sequence[Record]) -> tuple[str, ...]:
        """Columns that are not read otherwise and hold zeros and ones only, in their order."""
        layout = self.common()
        columns = dict.fromkeys(() if layout is None else layout.others)
        for record in records:
            for column in list(columns):
                if (value := plain(record.get(column))) is not None and not _is_flag(value):
                    del columns[column]
        return tuple(column for column in columns if self._samples.get(column) is not None)

    def of(self, record: Record) -> Layout:
        """The layout of a record.

        Raises:
            RecordError: its columns can be read in several ways, or a column that was named is
                missing.
        """
        columns = frozenset(record)
        if columns not in self._found:
            try:
                self._found[columns] = self._resolve(list(record))
            except RecordError as problem:
                self._found[columns] = problem
        found = self._found[columns]
        if isinstance(found, RecordError):
            raise found
        return found

    def common(self) -> Layout | None:
        """The layout of most records; None if none can be read."""
        readable = self._readable()
        return max(readable, key=lambda pair: pair[0])[1] if readable else None

    def describe(self) -> list[str]:
        """Which columns are read as which field, commonest layout first, and which are not read."""
        counts: Counter[str] = Counter()
        others: dict[str, dict[str, None]] = {}  # in their order
        for count, layout in self._readable():
            read = layout.describe()
            counts[read] += count
            others.setdefault(read, {}).update(dict.fromkeys(map(str, layout.others)))
        return [
            f"{read}{_not_read(list(others[read]))}"
            + (f" (of {counted(count, 'record')})" if len(counts) > 1 else "")
            for read, count in counts.most_common()
        ]

    def guesses(self, record: Record) -> str:
        """Which fields of a record are read from a column that was only guessed from its name.

        Nobody named it, training did not read it, and its name is not ours; "" if there is none.

        Raises:
            RecordError: as for `of`.
        """
        layout = self.of(record)
        return layout.describe(
            name
            for name, columns in layout.columns.items()
            if columns not in ((name,), self._chosen.get(name), self._known.get(name))
        )

    def _readable(self) -> list[tuple[int, Layout]]:
        """The number of records with each layout."""
        found = []
        for columns, count in self._counts.items():
            with suppress(RecordError):
                found.append((count, self.of(dict.fromkeys(self._orders[columns]))))
        return found

    def _resolve(self, columns: list[str]) -> Layout:
        found: dict[str, tuple[str, ...]] = {}
        # labels first: "answer" and "labels" are texts or tags only where they are not the label
        for field in self._labels:
            # what the label is does not depend on what one record happens to have
            try:
                chosen = self._columns_of(field, self._without(self.columns, found))
            except RecordError:
                if field in self._fields:
                    raise
                continue
            known = self._known.get(field.name) == chosen
            if chosen and (field in self._fields or known or not _may_be_texts(chosen)):
                found[field.name] = chosen
        for field in self._fields:
            if field.labelled:
                continue
            if field.several == "pair":
                texts = self._texts(field, self._without(columns, found))
                found |= {
                    name: (column,) for name, column in zip(("text", PAIR), texts, strict=False)
                }
            elif chosen := self._columns_of(field, self._without(columns, found)):
                found[field.name] = chosen
        unread = {field.name for field in self._labels if field not in self._fields}
        read = {name: found[name] for name in sorted(found, key=self._order) if name not in unread}
        used = {column for read_columns in read.values() for column in read_columns}
        return Layout(
            read, tuple(column for column in columns if column not in used), self._settings
        )

    def _order(self, name: str) -> float:
        names = list(self._settings)
        return names.index(name)

    def _without(self, columns: Iterable[str], found: Mapping[str, tuple[str, ...]]) -> list[str]:
        taken = {column for others in found.values() for column in others}
        return [column for column in columns if column not in taken]

    def _columns_of(self, field: Field, columns: list[str]) -> tuple[str, ...]:
        if chosen := self._named(field.name, columns):
            return chosen
        known = self._known.get(field.name, ())
        if known and set(known) <= set(columns):
            return known
        if field.name in columns and field.own_first and field.several != "all":
            return (field.name,)
        usable = self._usable(field, columns)
        if not usable and field.pattern is not None:
            return _numbered(field.pattern, columns)
        if field.several == "first":
            return tuple(usable[:1])
        if len(usable) > 1 and field.labelled:  # an answer is a text, where something else is not
            usable = [column for column in usable if not _may_be_texts([column])] or usable
        if field.several == "refuse" and len(usable) > 1:
            raise self._unclear(field, usable)
        return tuple(usable)

    def _named(self, name: str, columns: Sequence[str]) -> tuple[str, ...]:
        """The columns that the user named; () if none.

        Raises:
            RecordError: neither they nor a column of our name are there.
        """
        chosen = self._chosen.get(name, ())
        missing = [column for column in chosen if column not in columns]
        if not missing:
            return chosen
        if name in columns or missing[0] in self._samples:  # read as something else, or elsewhere
            return ()
        raise RecordError(
            f"There is no field {missing[0]!r} for {name}; it has "
            f"{', '.join(map(shown, self.columns)) or 'nothing'}.",
            reason=f"no {missing[0]}",
        )

    def _texts(self, field: Field, columns: list[str]) -> tuple[str, ...]:
        """The column of the text, and that of its pair if there is one."""
        text, pair = (self._named(name, columns) for name in (field.name, PAIR))
        own_pair = (PAIR,) if PAIR in columns else ()
        if text:
            return text + (pair or own_pair)
        if not pair and {field.name, PAIR} <= set(columns):
            return (field.name, PAIR)
        known = self._known.get(field.name, ()) + self._known.get(PAIR, ())
        if known and not pair and set(known) <= set(columns):
            return known
        names = {usual(column) for column in columns}
        for marks in MARKED_WORDS:
            if names.issuperset(marks):
                raise RecordError(
                    f"{', '.join(map(repr, marks))} say which words are meant (as in WiC or WSC), "
                    "and no task here reads that.",
                    "Mark the words in the texts, and say which texts to read "
                    f"({named(field.setting)}).",
                    reason="marked words",
                )
        usable = [column for column in self._usable(field, columns) if column not in pair]
        if len(usable) + len(pair) > 2:
            raise self._unclear(field, usable)
        texts = tuple(usable) + pair
        if texts and self._texts_known and len(texts) not in self._texts_known:
            raise self._as_in_training(field, texts, known)
        return texts

    def _usable(self, field: Field, columns: Iterable[str]) -> list[str]:
        """Columns of the field's names and kind, in the order of its names."""
        order = {name: number for number, name in enumerate((field.name, *field.aliases))}
        if field.several == "pair":  # our name has its place among the others
            order = {name: number for number, name in enumerate(field.aliases)}
        found = [column for column in columns if usual(column) in order]
        fitting = [column for column in found if _fits(self._samples.get(column), field.kind)]
        return sorted(fitting or found, key=lambda column: order[usual(column)])

    def _as_in_training(
        self, field: Field, columns: Sequence[str], known: Sequence[str]
    ) -> RecordError:
        names, before = (", ".join(map(repr, some)) for some in (columns, known))
        if len(columns) == 2:
            problem = f"{names} are two texts, and training read one, {before}."
            advice = f"Say which it is ({named(field.setting)}), or call it {field.name!r}."
        else:
            problem = f"{names} is one text, and training read two, {before}."
            advice = (
                f"Say where the second one is ({named('pair_column')}), or call it {PAIR!r}; null "
                "if there is none."
            )
        return RecordError(problem, advice, reason="not as many texts as in training")

    def _unclear(self, field: Field, columns: Sequence[str]) -> RecordError:
        names = ", ".join(map(repr, columns))
        options = named(field.setting)
        if field.several == "pair":
            return RecordError(
                f"{names} are {len(columns)} texts, and a model reads one or two.",
                f"Say which ({options}, {named('pair_column')}), or join some of them first.",
                reason="too many texts",
            )
        return RecordError(
            f"{names} could each be the {field.name}.",
            f"Say which field it is ({options}).",
            reason=f"no single {field.name}",
        )


def _not_read(columns: Sequence[str]) -> str:
    if not columns:
        return ""
    more = f" and {len(columns) - SHOWN:,} more" if len(columns) > SHOWN else ""
    return f"; not read: {', '.join(columns[:SHOWN])}{more}"


def _is_flag(value: Any) -> bool:
    return not isinstance(value, list | tuple | Mapping) and value in FLAGS


def _may_be_texts(columns: Iterable[str]) -> bool:
    return any(usual(column) in TEXTS for column in columns)


def _fits(value: Any, kind: str) -> bool:
    if value is None or kind == "any":
        return True
    if kind == "text":
        return isinstance(value, str)
    is_list = isinstance(value, list | tuple | Mapping)
    return is_list or isinstance(value, str) if kind == "list" else not is_list


def _numbered(pattern: re.Pattern[str], columns: Iterable[str]) -> tuple[str, ...]:
    """Columns such as ending0, ending1, ..., of the first family that has two or more."""
    families: dict[str, list[tuple[str, str]]] = {}
    for column in columns:
        if match := pattern.fullmatch(usual(column)):
            stem = usual(column)[: match.start(1)]
            families.setdefault(stem, []).append((match[1], column))
    for family in families.values():
        if len(family) > 1:
            return tuple(column for _, column in sorted(family))
    return ()


def chosen_columns(fields: Sequence[Field], options: Mapping[str, Any], task: str) -> Columns:
    """Columns that the user named, by field.

    Args:
        fields: fields of the task.
        options: options of a run; `SETTINGS` among them name columns. "label_column" of several
            labels and "pair_column" of choices may name several, separated by commas.
        task: name of the task, for messages.

    Raises:
        InputError: the task has no such field.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in SETTINGS:
        column = options.get(name)
        if column is None:
            continue
        names = [field.name for field in fields if field.setting == name]
        if name == "pair_column" and any(field.several == "pair" for field in fields):
            names = [PAIR]
        if not names:
            raise InputError(f"{named(name)}: {task} has no such field.")
        chosen = tuple(column) if isinstance(column, list | tuple) else (str(column),)
        if names in (["labels"], ["choices"]):
            chosen = tuple(part.strip() for column in chosen for part in column.split(","))
        found |= dict.fromkeys(names, chosen)
    return found
