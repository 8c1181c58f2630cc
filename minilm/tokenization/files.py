"""Reads the files of a model directory into a ready `tokenizers.Tokenizer`.

The first of these files that exists is read:

1. `tokenizer.json`, the complete description that the tokenizers library writes;
2. `vocab.txt`, WordPiece, a token in each line (BERT, DistilBERT, Chinese ALBERT);
3. `spiece.model`, sentencepiece unigram (ALBERT).

`tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` add settings and tokens.
Files are data: nothing named in them is imported, and whatever the Rust library does with a damaged
file, even a panic, becomes a `TokenizerFileError` that names the file.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from minilm.errors import MinilmError, TokenizerFileError
from minilm.files.json_file import read_bytes, read_json
from minilm.tokenization.sentencepiece import read_sentencepiece

if TYPE_CHECKING:
    import tokenizers

Default = TypeVar("Default", bool, None)
# a backend, and the special tokens that its own file names
_Read: TypeAlias = "tuple[tokenizers.Tokenizer, list[tokenizers.AddedToken]]"

MAX_FILE_BYTES = 200 * 2**20
_SETTINGS = "tokenizer_config.json"
_MAP = "special_tokens_map.json"
_DECODER = "added_tokens_decoder"

# role -> its customary spellings, BERT's first, then ALBERT's
_CUSTOMARY = {
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "mask": ("[MASK]",),
}

# The special tokens that transformers has a name for, in the order in which it appends those that
# are in no vocabulary.
_STANDARD = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
# Further special tokens: transformers 5's name for them, and the older one.
_EXTRA, _ADDITIONAL = "extra_special_tokens", "additional_special_tokens"

# Classes of transformers that take tokenizer.json as it is. Its other classes build their own
# normaliser out of tokenizer_config.json.
_VERBATIM_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")

# tokenizer_config.json -> tokenizer.json
_BERT_NORMALIZER = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

# Subtracted from the log probability of a piece such as "▁2010,": enough that it is never chosen.
_NUMBER_COMMA_PENALTY = 100.0


@dataclass(frozen=True)
class TokenizerParts:
    """A tokenizer as read from a directory.

    Attributes:
        backend: the tokenizer of the Rust library.
        special_tokens: role ("cls", "sep", "pad", "unk", "mask") to token, for roles that are
            named.
        model_max_length: maximum input length in tokens, if the files give it, else None.
        source: the file of the vocabulary.
    """

    backend: tokenizers.Tokenizer
    special_tokens: dict[str, str]
    model_max_length: int | None
    source: str


@contextmanager
def guarded(error: type[MinilmError], where: str) -> Iterator[None]:
    """Turns whatever the Rust library raises inside the block into `error`.

    Its panics are raised as PanicException, which derives from BaseException and cannot be
    imported, so it is recognised by its name; Ctrl-C and the like pass through.
    """
    try:
        yield
    except MinilmError:
        raise
    except BaseException as problem:
        if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":
            raise
        reason = str(problem).strip() or type(problem).__name__
        raise error(f"{where}: the tokenizers library failed: {reason}") from problem


def read_tokenizer(directory: Path) -> TokenizerParts:
    """Reads the tokenizer of a model directory.

    Raises:
        TokenizerFileError: there is no tokenizer file, or it is damaged.
        DependencyError: the file is spiece.model and the package `protobuf` is not installed.
    """
    settings = _read_settings(directory)
    readers = {
        "tokenizer.json": _from_tokenizer_json,
        "vocab.txt": _from_vocab_txt,
        "spiece.model": _from_spiece_model,
    }
    source = next((directory / name for name in readers if (directory / name).exists()), None)
    if source is None:
        raise TokenizerFileError(f"{directory} has no tokenizer: none of {', '.join(readers)}.")

    special = _special_tokens(directory, settings)
    backend, control = readers[source.name](source, settings)
    _add_tokens(backend, directory, settings, special)
    named = {
        role: special[f"{role}_token"].content for role in _CUSTOMARY if f"{role}_token" in special
    }
    if backend.token_to_id(named.get("unk", "")) is None:
        special.pop("unk_token", None)  # the model needs its own: appending one would not help
    _add_special_tokens(backend, [*special.values(), *control], str(source))
    return TokenizerParts(backend, named, _model_max_length(directory, settings), str(source))


def complete(
    backend: tokenizers.Tokenizer, named: Mapping[str, str], source: str
) -> dict[str, str]:
    """Prepares a backend for BERT and ALBERT, in place, and tries it once.

    Truncation and padding are left to the caller, so the file's own settings are switched off;
    special tokens are recognised in text; a backend that adds no special tokens gets the template
    `[CLS] A [SEP] B [SEP]`.

    Args:
        backend: the tokenizer.
        named: role to special token; absent roles get their customary spelling.
        source: the origin of the backend, for messages.

    Returns:
        Role to special token, for all roles except perhaps "mask".

    Raises:
        TokenizerFileError: a special token is not in the vocabulary, or the backend does not work.
    """
    from tokenizers import AddedToken, processors

    with guarded(TokenizerFileError, f"{source} is damaged or not supported"):
        special_tokens = _find_special_tokens(backend, named, source)
        tokens = [AddedToken(token, special=True) for token in special_tokens.values()]
        _add_special_tokens(backend, tokens, source)
        backend.no_truncation()
        backend.no_padding()
        if backend.post_processor is None:
            cls, sep = special_tokens["cls"], special_tokens["sep"]
            backend.post_processor = processors.TemplateProcessing(
                single=[cls, "$A", sep],
                pair=[cls, "$A", sep, "$B:1", f"{sep}:1"],
                special_tokens=[(token, backend.token_to_id(token)) for token in (cls, sep)],
            )
        # some damage shows only in use: better found here, where the file can be named
        backend.decode(backend.encode("a b", "c").ids)
        backend.encode_batch_fast(["", "Is it 1, or 2?"])
    return special_tokens


def _find_special_tokens(
    backend: tokenizers.Tokenizer, named: Mapping[str, str], source: str
) -> dict[str, str]:
    tokens = {}
    for role, customary in _CUSTOMARY.items():
        candidates = (named[role],) if role in named else customary
        token = next((t for t in candidates if backend.token_to_id(t) is not None), None)
        if token is not None:
            tokens[role] = token
        elif role != "mask":  # not needed until someone asks for it
            raise TokenizerFileError(
                f"{source}: the {role} token ({' or '.join(candidates)}) is not in the vocabulary. "
                f"Name the right one as {role}_token in {_SETTINGS}."
            )
    return tokens


def _from_tokenizer_json(path: Path, settings: dict[str, Any]) -> _Read:
    """Reads tokenizer.json, and tokenizer_config.json where transformers prefers that."""
    import tokenizers

    description = _read_json(path)
    normalizer = description.get("normalizer")
    if (
        isinstance(normalizer, dict)
        and normalizer.get("type") == "BertNormalizer"
        and settings.get("tokenizer_class") not in _VERBATIM_CLASSES
    ):
        for key, name in _BERT_NORMALIZER.items():
            value = _flag(path, settings, key, default=None)
            if value is not None or (key == "strip_accents" and key in settings):
                normalizer[name] = value
    description["truncation"] = description["padding"] = None
    with guarded(TokenizerFileError, f"{path} is damaged or not supported"):
        return tokenizers.Tokenizer.from_str(json.dumps(description)), []


def _from_vocab_txt(path: Path, settings: dict[str, Any]) -> _Read:
    """Reads vocab.txt: WordPiece with BERT's basic tokenizer.

    Without `do_lower_case` in tokenizer_config.json the vocabulary decides: if single capital
    letters are among its tokens, it can spell upper-case words and is cased. (Hugging Face then
    always lower-cases, which turns most text into [UNK] if the vocabulary is cased.)
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    # no str.splitlines here: it also splits at line ends that are special to Unicode
    lines = _read_text(path).replace("\r\n", "\n").removesuffix("\n").split("\n")
    vocabulary = {token: index for index, token in enumerate(lines)}
    cased = not vocabulary.keys().isdisjoint(string.ascii_uppercase)
    lowercase = _flag(path, settings, "do_lower_case", default=not cased)
    customary = next((token for token in _CUSTOMARY["unk"] if token in vocabulary), "[UNK]")
    unk = _token(settings.get("unk_token")) or customary
    with guarded(TokenizerFileError, f"{path} is damaged or not supported"):
        backend = tokenizers.Tokenizer(
            models.WordPiece(vocabulary, unk_token=unk, max_input_chars_per_word=100)
        )
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=_flag(path, settings, "tokenize_chinese_chars", default=True),
            strip_accents=_flag(path, settings, "strip_accents", default=None),
            lowercase=lowercase,
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix="##")
    return backend, []


def _from_spiece_model(path: Path, settings: dict[str, Any]) -> _Read:
    """Reads spiece.model: ALBERT's unigram tokenizer.

    ALBERT was trained with one rule on top of sentencepiece: a piece that ends in a digit and a
    comma ("▁2010,") is split again. As in the tokenizer.json files published with ALBERT, such
    pieces get scores so low that they are never chosen, so that a directory gives the same ids with
    and without a tokenizer.json.
    Differs from Hugging Face: when transformers 5 reads spiece.model, it omits this rule, splits
    text at user-defined pieces (such as a dot), so that "a.b" gets a "▁" before the b, and ignores
    `additional_special_tokens` of special_tokens_map.json.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    model = read_sentencepiece(path, _read_bytes(path))
    with guarded(TokenizerFileError, f"{path} is damaged or not supported"):
        backend = tokenizers.Tokenizer(
            models.Unigram(
                [
                    (piece, score - _NUMBER_COMMA_PENALTY * _ends_in_number_comma(piece))
                    for piece, score in model.pieces
                ],
                unk_id=model.unk_id,
                byte_fallback=False,
            )
        )
        steps: list[normalizers.Normalizer] = [
            normalizers.Replace("``", '"'),
            normalizers.Replace("''", '"'),
        ]
        if not _flag(path, settings, "keep_accents", default=False):
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        if _flag(path, settings, "do_lower_case", default=True):
            steps.append(normalizers.Lowercase())
        if model.charsmap:
            steps.append(normalizers.Precompiled(model.charsmap))
        backend.normalizer = normalizers.Sequence(steps)
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.WhitespaceSplit(),
                pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
            ]
        )
        backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return backend, [
        tokenizers.AddedToken(piece, special=True, normalized=False)
        for piece in model.special_pieces
    ]


def _ends_in_number_comma(piece: str) -> bool:
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


def _add_tokens(
    backend: tokenizers.Tokenizer,
    directory: Path,
    settings: dict[str, Any],
    special: Mapping[str, tokenizers.AddedToken],
) -> None:
    """Adds a user's tokens: added_tokens_decoder of the settings, or else added_tokens.json."""
    source, entries = directory / _SETTINGS, []
    if (decoder := settings.get(_DECODER)) is not None:
        if not isinstance(decoder, dict):
            raise TokenizerFileError(
                f"{source}: {_DECODER} must be an object, not {decoder!r:.60}."
            )
        entries = list(decoder.items())
    else:
        source = directory / "added_tokens.json"
        names = {token.content for token in special.values()}
        for name, index in _read_optional_json(source).items():
            flags = {"special": name in names, "normalized": name not in names}
            entries.append((index, {"content": name, **flags}))
    try:
        entries = sorted(((int(index), entry) for index, entry in entries), key=itemgetter(0))
    except (TypeError, ValueError) as problem:
        raise TokenizerFileError(f"{source}: the id of an added token: {problem}.") from problem

    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    tokens = {}
    for index, entry in entries:
        token = _added_token(f"{source}: the added token with id {index}", entry)
        if token.content not in known:  # otherwise tokenizer.json has it
            tokens[index] = token
    with guarded(TokenizerFileError, f"{source}: the added tokens"):
        backend.add_tokens(list(tokens.values()))
    for index, token in tokens.items():
        if backend.token_to_id(token.content) != index:
            raise TokenizerFileError(
                f"{source}: the added token {token.content!r} has id {index}, but the vocabulary "
                f"gives it {backend.token_to_id(token.content)}."
            )


def _add_special_tokens(
    backend: tokenizers.Tokenizer, tokens: Iterable[tokenizers.AddedToken], source: str
) -> None:
    """Makes tokens special, and appends those that are not in the vocabulary.

    A token that was added before keeps its other flags.
    """
    added = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    tokens = [added.get(token.content, token) for token in tokens]
    with guarded(TokenizerFileError, f"{source}: the special tokens"):
        backend.add_special_tokens(
            [token for token in tokens if not token.special or token.content not in added]
        )


def _special_tokens(directory: Path, settings: dict[str, Any]) -> dict[str, tokenizers.AddedToken]:
    """The special tokens in the files, by name, in the order in which transformers adds them.

    First those with a name of their own ("cls_token", "speaker_token"), then the members of lists.
    """
    named = {name: settings[name] for name in _STANDARD if settings.get(name) is not None}
    named |= {
        name: entry
        for name, entry in settings.items()
        if name.endswith("_token") and name not in _STANDARD and _token(entry) is not None
    }
    where = f"{directory / _SETTINGS} or {_MAP}"
    special = {
        name: _added_token(f"{where}: {name}", entry, special=True) for name, entry in named.items()
    }
    return special | {
        place: _added_token(place, entry, special=True) for place, entry in settings[_EXTRA].items()
    }


def _added_token(where: str, entry: Any, **flags: bool) -> tokenizers.AddedToken:
    """Makes a token with its flags from an entry of a file."""
    from tokenizers import AddedToken

    if (content := _token(entry)) is None:
        raise TokenizerFileError(
            f"{where} must be a string or an object with content, not {entry!r:.60}."
        )
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise TokenizerFileError(f"{where} has half a surrogate pair: {content!a:.60}.")
    options = entry if isinstance(entry, dict) else {}
    flags = {key: options[key] for key in _FLAGS if key in options} | flags
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise TokenizerFileError(f"{where}: its flags must be true or false, not {entry!r:.200}.")
    return AddedToken(content, **flags)


def _token(entry: Any) -> str | None:
    """The content of a token as files write it: "[CLS]" or {"content": "[CLS]", ...}."""
    content = entry.get("content") if isinstance(entry, dict) else entry
    return content if isinstance(content, str) and content else None


def _model_max_length(directory: Path, settings: dict[str, Any]) -> int | None:
    value = settings.get("model_max_length")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
        raise TokenizerFileError(
            f"{directory / _SETTINGS}: model_max_length must be a positive number, not {value!r}."
        )
    # Hugging Face writes 1e30 for "no limit"
    return int(value) if value < 2**31 else None


def _flag(path: Path, settings: dict[str, Any], key: str, *, default: Default) -> bool | Default:
    """A boolean setting of tokenizer_config.json; null counts as absent."""
    value = settings.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise TokenizerFileError(
            f"{path.parent / _SETTINGS}: {key} must be true, false or null, not {value!r}."
        )
    return value


def _read_settings(directory: Path) -> dict[str, Any]:
    """Merges tokenizer_config.json and special_tokens_map.json, as in transformers.

    The map has priority for the standard names, the config for other names and lists. A config with
    added_tokens_decoder is complete: then the map is not read. Further special tokens, in whatever
    form, are returned in `extra_special_tokens`, by the place where each was found.
    """
    config = _read_optional_json(directory / _SETTINGS)
    complete = config.get(_DECODER) is not None
    token_map = {} if complete else _read_optional_json(directory / _MAP)
    tokens: dict[str, Any] = {}
    has_list = False
    for path, settings in ((directory / _SETTINGS, config), (directory / _MAP, token_map)):
        found = {key: settings.pop(key, None) for key in (_EXTRA, _ADDITIONAL)}
        key = _EXTRA if found[_EXTRA] or has_list else _ADDITIONAL
        if isinstance(found[key], dict):
            tokens |= {f"{path}: {key}.{name}": token for name, token in found[key].items()}
        elif isinstance(found[key], list):
            tokens |= {f"{path}: {key}[{i}]": token for i, token in enumerate(found[key])}
        elif found[key] is not None:
            raise TokenizerFileError(
                f"{path}: {key} must be a list or an object, not {found[key]!r:.60}."
            )
        has_list = has_list or any(isinstance(value, list) for value in found.values())
    token_map = {key: value for key, value in token_map.items() if value is not None}
    config = {k: value for k, value in config.items() if value is not None or k not in token_map}
    standard = {key: token_map[key] for key in _STANDARD if key in token_map}
    return token_map | config | standard | {_EXTRA: tokens}


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, max_bytes=MAX_FILE_BYTES, error=TokenizerFileError)


def _read_optional_json(path: Path) -> dict[str, Any]:
    return _read_json(path) if path.exists() else {}


def _read_bytes(path: Path) -> bytes:
    return read_bytes(path, max_bytes=MAX_FILE_BYTES, error=TokenizerFileError)


def _read_text(path: Path) -> str:
    data = _read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise TokenizerFileError(f"{path}, line {line}: not UTF-8: {problem.reason}.") from problem
