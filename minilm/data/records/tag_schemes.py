"""Tagging schemes: how tags mark where entities begin and end.

A tag is "O" outside of entities, else a letter, "-" and the entity's type, or a letter alone if all
entities are of one type:

    word    IOB1    IOB2    BIOES
    in      O       O       O
    New     I-LOC   B-LOC   B-LOC
    York    I-LOC   I-LOC   E-LOC
    Boston  B-LOC   B-LOC   S-LOC
    today   O       O       O

IOB1 has B only where an entity directly follows another of its type; IOB2 has it on the first word
of every entity; BIOES also marks the last word (E) and an only word (S). L and U of BILOU are read
as E and S, M of BMES as I, "b-per" as "B-per" and "B_PER" as "B-PER".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias, get_args

from minilm.errors import InputError

Scheme: TypeAlias = Literal["IOB1", "IOB2", "BIOES"]

_TAG = re.compile(r"([BIESLUM])(?:[-_](.+))?", re.DOTALL | re.IGNORECASE)
_SEVERAL = re.compile(r",[BIESLUM]-")
_WITH_TYPE = ("B-", "I-", "E-", "S-", "L-", "U-")
_SAME = {"L": "E", "U": "S", "M": "I"}  # letters of BILOU and BMES


def are_entities(tags: Iterable[str]) -> bool:
    """Whether a data set's tags mark entities: by their letters, not by names such as NOUN.

    They do if any tag is a letter of a scheme, a dash and a type, or if all are tags of a scheme in
    any spelling, with a B or an I among them.

    Example:
        >>> are_entities(["O", "B", "I"]), are_entities(["b_per", "o"]), are_entities(["PER", "O"])
        (True, True, False)
    """
    distinct = set(tags)
    if any(tag.startswith(_WITH_TYPE) for tag in distinct):
        return True
    return all(tag in ("O", "o") or _TAG.fullmatch(tag) for tag in distinct) and any(
        tag[:1] in ("B", "I", "b", "i") for tag in distinct
    )


def canonical(tag: str) -> str:
    """The standard spelling of a tag: O, or B, I, E or S, alone or with a dash and a type.

    Raises:
        InputError: it is not a tag.

    Example:
        >>> canonical("b_per"), canonical("U-LOC")
        ('B-per', 'S-LOC')
    """
    letter, kind = _parse(tag)
    return _join(letter, kind)


def scheme_of(tag_sequences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme of a data set's tags.

    - BIOES if there is any E or S.
    - IOB1 if some entity begins with I, and every B directly follows an entity of its type.
    - IOB2 otherwise, also if both are possible, or if B is used as in IOB2 but some entities
      nevertheless begin with I.

    Raises:
        InputError: a tag is malformed. The message gives its place, counted from 0.

    Example:
        >>> scheme_of([["O", "I-LOC", "I-LOC", "B-LOC"]])
        'IOB1'
    """
    ends_marked = begins_with_i = False
    only_between = True
    for number, tags in enumerate(tag_sequences):
        previous: str | None = None
        for place, tag in enumerate(tags):
            try:
                letter, kind = _parse(tag)
            except InputError as problem:
                raise InputError(f"sequence {number}, tag {place}: {problem}") from problem
            ends_marked |= letter in ("E", "S")
            begins_with_i |= letter == "I" and kind != previous
            only_between &= letter != "B" or kind == previous
            previous = kind
    if ends_marked:
        return "BIOES"
    return "IOB1" if begins_with_i and only_between else "IOB2"


def to_iob2(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """The tags of a sentence in IOB2.

    An I or E that continues no entity begins one, as in the conlleval script.

    Raises:
        InputError: the scheme is unknown, or a tag is malformed or not of the scheme.

    Example:
        >>> to_iob2(["I-LOC", "I-LOC", "B-LOC", "O"], "IOB1")
        ['B-LOC', 'I-LOC', 'B-LOC', 'O']
    """
    if scheme not in get_args(Scheme):
        raise InputError(
            f"scheme must be one of {', '.join(get_args(Scheme))}, not {scheme!r:.80}."
        )
    found = []
    open_kind = None
    for tag in tags:
        letter, kind = _parse(tag)
        if letter in ("E", "S") and scheme != "BIOES":
            raise InputError(f"the tag {tag!r:.80} is not of {scheme} but of BIOES.")
        if letter == "O":
            found.append("O")
        else:
            continues = letter in ("I", "E") and kind == open_kind
            found.append(_join("I" if continues else "B", kind))
        open_kind = kind if letter in ("B", "I") else None
    return found


def to_bioes(tags: Sequence[str]) -> list[str]:
    """The IOB2 tags of a sentence in BIOES.

    Raises:
        InputError: a tag is malformed or not of IOB2.

    Example:
        >>> to_bioes(["B-LOC", "I-LOC", "B-LOC", "O"])
        ['B-LOC', 'E-LOC', 'S-LOC', 'O']
    """
    tags = to_iob2(tags, "IOB2")
    found = []
    for tag, following in zip(tags, [*tags, "O"][1:], strict=True):
        letter, kind = _parse(tag)
        if letter != "O" and following != _join("I", kind):
            letter = {"B": "S", "I": "E"}[letter]
        found.append(_join(letter, kind))
    return found


def _join(letter: str, kind: str | None) -> str:
    return f"{letter}-{kind}" if kind else letter


def _parse(tag: str) -> tuple[str, str | None]:
    """Letter and type of a tag; the type of "O" is None, that of a letter alone "".

    Raises:
        InputError: it is not a tag.
    """
    if tag in ("O", "o"):
        return "O", None
    match = _TAG.fullmatch(tag) if isinstance(tag, str) else None
    if match is None:
        raise InputError(
            f"{tag!r:.80} is not a tag. Expected O, or B, I, E or S (in BILOU B, I, L or U), alone "
            "or with a type, e.g. B-LOC."
        )
    if _SEVERAL.search(tag):
        raise InputError(f"{tag!r:.80} is several tags. Expected one for each word; choose one.")
    letter = match[1].upper()
    return _SAME.get(letter, letter), match[2] or ""
