"""SQuAD: questions about paragraphs, answered by a piece of the paragraph or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from minilm.data.records.base import Record, RecordError, Records, Skips, collect
from minilm.data.records.json_lines import strict_json
from minilm.data.records.lines import read_text
from minilm.errors import DataError, by_place, setting

_PLACES_SHOWN = 5


def read_squad(
    path: str | Path,
    *,
    labelled: bool = True,
    repair_offsets: bool = False,
    skips: Skips | None = None,
    encoding: str = "utf-8",
) -> Records:
    """Reads the questions of a JSON file in the format of SQuAD 1.1 or 2.0.

    Args:
        path: the file, perhaps .gz or .xz.
        labelled: False = answers are neither expected nor read.
        repair_offsets: correct the offset of an answer that is not at its offset, if it occurs
            exactly once in its paragraph. `Skips.repaired` counts the questions.
        skips: what to do with questions that repeat an id, lack a key or have a value of the wrong
            type, have an answer that is not at its offset, or have answers although they are
            impossible, or none although they are possible.
        encoding: character encoding of the file.

    Returns:
        Records of "id", "title" ("" if there is none), "question", "context", and if labelled
        "answers", each with "text" and "answer_start" in characters, and "is_impossible". Ids that
        are whole numbers become strings. Other keys of a question are not read.

    Raises:
        DataError: the file cannot be read, is not JSON or has no questions, an article or a
            paragraph is malformed, or a question is bad and `skips` has the policy "raise".
        InputError: there is no such encoding.

    References:
        Rajpurkar et al. (2016), "SQuAD: 100,000+ Questions for Machine Comprehension of Text";
        Rajpurkar et al. (2018), "Know What You Don't Know: Unanswerable Questions for SQuAD".
    """
    path = Path(path)
    try:
        file = strict_json(read_text(path, encoding))
    except RecordError as problem:
        raise DataError(f"{path}: {problem}") from problem
    return squad_records(
        path, file, labelled=labelled, repair_offsets=repair_offsets, skips=skips or Skips()
    )


def squad_records(
    path: Path, file: Any, *, labelled: bool, repair_offsets: bool, skips: Skips
) -> Records:
    """The questions of a file that has been parsed; see `read_squad`.

    Args:
        path: the file, for messages.
        file: its JSON value.
        labelled, repair_offsets, skips: as for `read_squad`.
    """
    return collect(path, _questions(path, file, labelled, repair_offsets, skips), skips)


def _questions(
    path: Path, file: Any, labelled: bool, repair_offsets: bool, skips: Skips
) -> Iterator[tuple[str, Record | RecordError]]:
    seen: set[str] = set()
    for place, title, context, question in _walk(path, file):
        try:
            name = str(_get(question, "id", (str, int)))
            place = f"question {name!r:.80}"
            if name in seen:
                raise RecordError(
                    "an earlier question has the same id.",
                    "Ids must be unique; predictions are found by them.",
                    reason="id twice",
                )
            seen.add(name)
            record = {
                "id": name,
                "title": title,
                "question": _get(question, "question", str),
                "context": context,
            }
            if labelled:
                answers, moved = _answers(question, context, repair_offsets)
                skips.repaired += moved
                record |= {"answers": answers, "is_impossible": not answers}
            yield place, record
        except RecordError as problem:
            yield place, problem


def _walk(path: Path, file: Any) -> Iterator[tuple[str, str, str, Any]]:
    """Place, title, context and question of all questions.

    Raises:
        DataError: an article or a paragraph is malformed.
    """
    place = "the file"
    try:
        for i, article in enumerate(_get(file, "data", list)):
            place = f"data[{i}]"
            title = _get(article, "title", str) if _has(article, "title") else ""
            for j, paragraph in enumerate(_get(article, "paragraphs", list)):
                place = f"data[{i}].paragraphs[{j}]"
                context = _get(paragraph, "context", str)
                for k, question in enumerate(_get(paragraph, "qas", list)):
                    yield f"{place}.qas[{k}]", title, context, question
                place = f"data[{i}]"
    except RecordError as problem:
        raise DataError(f"{path}, {place}: {problem} Is it a file of SQuAD?") from problem


def _answers(question: Any, context: str, repair_offsets: bool) -> tuple[list[Record], bool]:
    """The answers, none if the question is impossible, and whether one was moved.

    Raises:
        RecordError: an answer cannot be used, or there are answers to an impossible question, or
            none to a possible one.
    """
    answers = _get(question, "answers", list, _unlabelled())
    impossible = _has(question, "is_impossible") and _get(question, "is_impossible", bool)
    if impossible and answers:
        raise RecordError(
            "is_impossible, but it has answers.",
            "Take them out, or say that it is possible.",
            reason="impossible with answers",
        )
    if not impossible and not answers:
        raise RecordError(
            "no answers, but is_impossible is not true.",
            _unlabelled(),
            reason="no answers",
        )
    found = []
    moved = False
    for answer in answers:
        text, start = _get(answer, "text", str), _get(answer, "answer_start", int)
        if not text:
            raise RecordError("an answer is empty.", reason="empty answer")
        if start < 0 or not context.startswith(text, start):
            start, moved = _moved(text, start, context, repair_offsets), True
        found.append({"text": text, "answer_start": start})
    return found, moved


def _unlabelled() -> str:
    return by_place(
        python="For a file without answers use labelled=False.",
        command="A file without answers is for minilm predict.",
    )


def _moved(text: str, start: int, context: str, repair_offsets: bool) -> int:
    """The correct offset of an answer that is not at its offset.

    Raises:
        RecordError: it is not clear, or `repair_offsets` is False.
    """
    places = list(islice(_occurrences(text, context), _PLACES_SHOWN + 1))
    if repair_offsets and len(places) == 1:
        return places[0]
    if len(places) == 1:
        repair = setting("repair_offsets", True)
        advice = f"It occurs once, at {places[0]}; {repair} moves it there."
    elif places:
        shown = ", ".join(map(str, places[:_PLACES_SHOWN]))
        more = " and more" if len(places) > _PLACES_SHOWN else ""
        advice = f"It occurs at {shown}{more}; choose one."
    else:
        advice = "It does not occur in the context at all."
    there = context[start : start + len(text)] if start >= 0 else ""
    raise RecordError(
        f"the answer {text!r:.80} is not at character {start} of the context, where it reads "
        f"{there!r:.80}.",
        advice,
        reason="answer not in its place",
    )


def _occurrences(text: str, context: str) -> Iterator[int]:
    place = context.find(text)
    while place >= 0:
        yield place
        place = context.find(text, place + 1)


def _has(value: Any, key: str) -> bool:
    return isinstance(value, dict) and key in value


def _get(value: Any, key: str, kind: type | tuple[type, ...], advice: str = "") -> Any:
    """The value of an object under a key.

    Raises:
        RecordError: it is not an object, lacks the key, or the value has another type.
    """
    if not _has(value, key):
        kind_found = "no key" if isinstance(value, dict) else "no JSON object with a key"
        raise RecordError(f"{kind_found} {key!r}.", advice, reason=f"no {key}")
    found = value[key]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if type(found) not in kinds:  # for isinstance, True is an int
        expected = " or ".join(one.__name__ for one in kinds)
        raise RecordError(
            f"{key!r} is {found!r:.40}, expected {expected}.", advice, reason=f"bad {key}"
        )
    return found
