"""The texts and arguments of a tokenizer's call, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from minilm.errors import InputError, by_place

# one text or several; with is_split_into_words each is a sequence of words
Texts: TypeAlias = str | Sequence[str] | Sequence[Sequence[str]]

_WINDOWS = "cut windows with tokenizer.pieces, and put them together with tokenizer.join"

# argument of transformers -> the values that are accepted, and what to do about others
_REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "return_overflowing_tokens": ((None, False), _WINDOWS),
    "stride": ((None, 0), _WINDOWS),
    "padding_side": ((None, "right"), "minilm pads on the right"),
    "truncation_side": ((None, "right"), "minilm cuts at the end of a text"),
    "split_special_tokens": ((None, False), "minilm keeps special tokens in one piece"),
    "clean_up_tokenization_spaces": (
        (None, False),
        "minilm keeps the spaces of the decoder",
    ),
    "return_length": ((None, False), 'batch["attention_mask"].sum(1) gives the lengths'),
    "verbose": ((None, False, True), ""),
    "use_fast": ((None, False, True), ""),
}


def one_name(name: str, value: Texts | None, other: dict[str, Any]) -> Texts | None:
    """The value of an argument that may be given by its name in transformers instead."""
    theirs = {"texts": "text", "pairs": "text_pair"}[name]
    if value is not None and other.get(theirs) is not None:
        raise InputError(f"{name} and {theirs} are the same argument; give one of them.")
    alias: Texts | None = other.pop(theirs, None)
    return alias if value is None else value


def refuse_unknown(other: Mapping[str, object]) -> None:
    """Raises InputError, with advice, for arguments that minilm does not have."""
    for name, value in other.items():
        if name not in _REFUSED:
            raise InputError(
                f"The tokenizer has no argument {name!r}. Its docstring lists those there are."
            )
        harmless, advice = _REFUSED[name]
        if value not in harmless:
            raise InputError(f"{name}={value!r} is not supported: {advice}.")


def word_lists(name: str, texts: Any) -> tuple[list[list[str]], bool]:
    """The texts as lists of words, at least one, and whether a single text was given."""
    single = isinstance(texts, list | tuple) and all(isinstance(word, str) for word in texts)
    lists = [texts] if single else texts
    if not isinstance(lists, Iterable) or isinstance(lists, str):
        raise InputError(f"{name} must be a list of words, or several, not {texts!r:.60}.")
    words = [list(text) if isinstance(text, list | tuple) else text for text in lists]
    for index, text in enumerate(words):
        if not isinstance(text, list) or not all(isinstance(word, str) for word in text):
            raise InputError(f"{name}[{index}] must be a list of words, not {text!r:.60}.")
    if not texts:
        raise InputError(f"{name} is empty; give at least one word.")
    return words, single


def text_list(name: str, texts: Any) -> tuple[list[str], bool]:
    """The texts, at least one, and whether a single string was given."""
    if isinstance(texts, str):
        return [texts], True
    if not isinstance(texts, Iterable):
        raise InputError(f"{name} must be a string or strings, not {type(texts).__name__}.")
    strings = list(texts)
    if not strings:
        raise InputError(f"{name} is empty; give at least one string.")
    for index, text in enumerate(strings):
        if not isinstance(text, str):
            raise InputError(f"{name}[{index}] must be a string, not {type(text).__name__}.")
    return strings, False


def check_unicode(index: int, text: Any) -> None:
    if not isinstance(text, str):  # a pair, or words
        for part in text:
            check_unicode(index, part)
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as problem:
        raise InputError(
            f"text {index} has a lone surrogate ({text[problem.start]!r}) at character "
            f"{problem.start}, which is not valid Unicode. "
            + by_place(
                python='Decode the source with errors="replace".',
                command="Replace it in the file.",
            )
        ) from problem
