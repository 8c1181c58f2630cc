"""The layout of a table: its delimiter, and whether its fields are quoted."""

from __future__ import annotations

import re

DELIMITERS = (",", ";", "\t", "|")


def likely_delimiters(text: str, but: str) -> list[str]:
    """The delimiters that split all rows of a table into equally many fields, two or more.

    Args:
        text: text of the file.
        but: a delimiter to leave out.

    Example:
        >>> likely_delimiters("review;stars\\nfine, really;5\\n", ",")
        [';']
    """
    return [
        delimiter
        for delimiter in DELIMITERS
        if delimiter != but and len(counts := _scan(text, delimiter)[0]) == 1 and counts.pop() > 1
    ]


def needs_quoting(text: str, delimiter: str) -> bool:
    """Whether fields are certainly quoted.

    They are if every quote that begins a field is closed at the end of a field, all rows then have
    equally many fields, and some field contains what only quotes allow: a delimiter, a line break
    or a doubled quote.

    Example:
        >>> needs_quoting('text\\tlabel\\n"the ""red"" cat"\\tgood\\n', "\\t")
        True
        >>> needs_quoting('text\\tlabel\\n"Hello," he said\\tgood\\n', "\\t")
        False
    """
    if '\n"' not in text and f'{delimiter}"' not in text and not text.startswith('"'):
        return False
    counts, needed = _scan(text, delimiter)
    return len(counts) == 1 and needed


def _scan(text: str, delimiter: str) -> tuple[set[int], bool]:
    """The numbers of fields of the rows of a table, and whether any field needs its quotes.

    A misplaced quote ends the scan: the set is empty then.
    """
    field = re.compile(rf'("(?:[^"]++|"")*+")|(?!")[^{re.escape(delimiter)}\n]*+')
    only_quoted = re.compile(rf'""|[{re.escape(delimiter)}\n]')
    end = re.compile(r"\r?(?:\n|\Z)")
    counts: set[int] = set()
    needed = False
    place = 0
    while place < len(text):
        number, begin = 0, place
        while match := field.match(text, place):
            number, place = number + 1, match.end()
            needed = needed or bool(match[1] and only_quoted.search(match[1][1:-1]))
            if not text.startswith(delimiter, place):
                break
            place += 1
        ended = end.match(text, place) if match else None
        if ended is None:
            return set(), False
        if text[begin:place].strip():
            counts.add(number)
        if len(counts) > 1:
            return counts, False
        place = ended.end()
    return counts, needed
