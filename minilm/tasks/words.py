"""The words of a text, in any script, and the ends of its letters."""

from __future__ import annotations

import regex

# What has no place of its own in a text: combining marks, and characters that cannot be seen, such
# as joiners, soft hyphens and controls. They belong to the letter or sign before them.
_ATTACHED = r"[\p{M}\p{Cf}\p{Cc}--\s]*"
# \w of the `regex` library has the marks in it, \X is what a reader takes for one sign: an emoji
# with its colour of skin, a family of them, a flag. Chinese characters stand alone, as for BERT.
_LETTER = rf"[\w--\p{{Han}}]{_ATTACHED}"
_WORD = regex.compile(
    rf"""(?V1)
      (?<=\w{_ATTACHED})['’](?:{_LETTER})+   # what an apostrophe glues to a word
    | (?:{_LETTER})+
    | \p{{Han}}{_ATTACHED}
    | (?![\p{{Cf}}\p{{Cc}}\s])\X{_ATTACHED}
    """,
    regex.VERBOSE,
)
# the rest of a letter of which the first character is known
_REST_OF_LETTER = regex.compile(r"[\p{M}\p{Emoji_Modifier}\u200c\u200d]*")


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each word and each sign of punctuation is in a text.

    A combining mark, a joiner, a soft hyphen or another character that cannot be seen belongs to
    the word that it stands in or behind, so a text has the same words whether its letters and marks
    are composed (NFC) or not (NFD). Before a word such characters belong to nothing. In scripts
    without blanks between words, such as Thai, Lao, Khmer and kana, a run of letters is one word
    here: splitting it takes a dictionary.

    Example:
        >>> [text[start:end] for start, end in word_spans(text := "Don't, हिन्दी!")]
        ['Don', "'t", ',', 'हिन्दी', '!']
    """
    return [match.span() for match in _WORD.finditer(text)]


def whole_letters(text: str, start: int, end: int) -> tuple[int, int]:
    """The smallest span around this one that cuts no letter from its marks.

    Args:
        text: the text that contains the span.
        start, end: start and end of the span, in characters; it must not be empty.
    """
    while start > 0 and _REST_OF_LETTER.fullmatch(text, start, start + 1):
        start -= 1
    found = _REST_OF_LETTER.match(text, end)
    assert found is not None  # the pattern matches nothing, too
    return start, found.end()
