"""Tokenizes text files, or texts from elsewhere, into a token store.

    files or texts -> documents -> sentences -> ids (in several processes) -> shards, in order

Only some batches of text and one shard of tokens are in memory at any time. The result depends on
text, tokenizer and options alone, not on the number of processes or on interruptions.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilm.data import sentence_splitting
from minilm.data.document_encoder import DocumentEncoder, encode_documents
from minilm.data.store_manifest import AGAIN, MANIFEST, FileRecord, Manifest, difference
from minilm.data.store_writer import StoreWriter, clear_away, remove_store
from minilm.data.text_files import (
    Document,
    TextFormat,
    check_text_file,
    file_names,
    read_documents,
)
from minilm.data.text_records import EncodingErrors, text_of
from minilm.data.token_store import TokenStore, tokenizer_fingerprint
from minilm.errors import DataError, InputError, setting
from minilm.files.progress import counted

if TYPE_CHECKING:
    from minilm.tokenization.tokenizer import Tokenizer

SHARD_TOKENS = 2**23  # an interruption costs at most the time for this many
MANY_UNKNOWN = 0.1  # a larger share of unknown tokens gets a warning

_SMALL = 2**22  # characters that take less time than starting another process
_TEXTS = "texts"  # the name of texts that are not from a file


@dataclass
class TokenizeProgress:
    """The progress of `tokenize_corpus`.

    Attributes:
        bytes_total: size of all files, as they are stored; 0 for texts that are not from files.
        bytes_read: number of bytes read so far.
        documents: number of documents read, empty ones included.
        characters: number of characters tokenized by this run.
        tokens: number of tokens in the store or waiting to be written.
        tokens_before: number of those made by earlier runs.
    """

    bytes_total: int
    bytes_read: int = 0
    documents: int = 0
    characters: int = 0
    tokens: int = 0
    tokens_before: int = 0


def tokenize_corpus(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    tokenizer: Tokenizer,
    destination: str | os.PathLike[str],
    *,
    workers: int | None = None,
    resume: bool = True,
    encoding_errors: EncodingErrors = "strict",
    text_key: str = "text",
    document_per_line: bool = False,
    shard_tokens: int = SHARD_TOKENS,
    progress: Callable[[TokenizeProgress], object] = lambda _: None,
    say: Callable[[str], object] = lambda _: None,
) -> TokenStore:
    """Tokenizes text files into a token store.

    Every sentence is encoded on its own, without special tokens; a special token that is spelled
    out in the text ("[MASK]") is text. Documents without any token are left out.

    An interrupted run resumes after its last finished shard when it is started again with
    the same arguments: it reads the text before that again, but does not tokenize it. If the store
    is complete, nothing is done.

    Args:
        files: text files, in the order in which they go into the store, or one file; see
            `minilm.data.text_files`. For texts that are not in files, see `tokenize_texts`.
        tokenizer: the tokenizer.
        destination: directory of the store.
        workers: number of processes; 0 or 1 = this one, None = one for each processor if the files
            are large enough. A script that uses more than one must start them under
            `if __name__ == "__main__":`.
        resume: False discards a store, or part of one, in `destination`.
        encoding_errors, text_key, document_per_line: see `TextFormat`.
        shard_tokens: a shard ends with the document in which it reaches this many tokens.
        progress: called now and then.
        say: receives a message about every stage.

    Returns:
        The store.

    Raises:
        DataError: a file is missing or damaged (the message names the line), the disk is full, or
            `destination` holds something else.
        InputError: there are no files, or an argument is out of range.

    Example:
        >>> tokenizer = minilm.Tokenizer.from_pretrained("model")  # doctest: +SKIP
        >>> store = tokenize_corpus(["wiki.txt.xz"], tokenizer, "wiki.store")  # doctest: +SKIP
    """
    text_format = TextFormat(encoding_errors, text_key, document_per_line)
    paths = [_path(file) for file in file_names(files)]
    if not paths:
        raise InputError("files is empty; give at least one text file.")
    state = TokenizeProgress(sum([check_text_file(path) for path in paths]))
    return _tokenize(
        _Files(paths, text_format, state, progress),
        tokenizer,
        Path(destination),
        options=asdict(text_format),
        workers=workers,
        resume=resume,
        shard_tokens=shard_tokens,
        say=say,
    )


def tokenize_texts(
    texts: Iterable[str | Mapping[str, Any] | None],
    tokenizer: Tokenizer,
    destination: str | os.PathLike[str],
    *,
    workers: int | None = None,
    resume: bool = True,
    encoding_errors: EncodingErrors = "strict",
    text_key: str = "text",
    shard_tokens: int = SHARD_TOKENS,
    progress: Callable[[TokenizeProgress], object] = lambda _: None,
    say: Callable[[str], object] = lambda _: None,
) -> TokenStore:
    """Tokenizes an iterable of texts into a token store.

    Texts are read one after another and need not fit into memory. The store is the same as for
    files with these texts; see `tokenize_corpus`.

    Args:
        texts: one for each document: strings, or rows that hold a string, as a `datasets.Dataset`
            or `IterableDataset` yields them. A missing value (None) is an empty document. A run
            that resumes must get the same texts in the same order; they are read again from the
            first one.
        tokenizer: the tokenizer.
        destination: directory of the store.
        workers: as for `tokenize_corpus`; None = one for each processor if there are many texts.
        resume, shard_tokens, progress, say: as for `tokenize_corpus`.
        encoding_errors: what to do with half surrogate pairs, see `TextFormat`.
        text_key: the column of rows that holds the text.

    Returns:
        The store.

    Raises:
        DataError: a row lacks the column (the message names its columns) or has no string in it;
            the disk is full; or `destination` holds something else.
        InputError: an argument is out of range.

    Example:
        >>> rows = datasets.load_dataset("some/corpus", split="train")  # doctest: +SKIP
        >>> tokenize_texts(rows, tokenizer, "corpus.store", text_key="body")  # doctest: +SKIP
    """
    if isinstance(texts, str | bytes):
        raise InputError("texts is one string; expected an iterable of texts, such as a list.")
    text_format = TextFormat(encoding_errors, text_key)
    options = {name: value for name, value in asdict(text_format).items() if name != "text_key"}
    return _tokenize(
        _Texts(texts, text_format, TokenizeProgress(0), progress),
        tokenizer,
        Path(destination),
        options=options,
        workers=workers,
        resume=resume,
        shard_tokens=shard_tokens,
        say=say,
    )


def _path(file: object) -> Path:
    if not isinstance(file, str | os.PathLike):
        raise InputError(
            f"files holds {type(file).__name__}, expected names of files. For texts and rows, call "
            "tokenize_texts."
        )
    return Path(file)


def _tokenize(
    source: _Files | _Texts,
    tokenizer: Tokenizer,
    directory: Path,
    *,
    options: Mapping[str, Any],
    workers: int | None,
    resume: bool,
    shard_tokens: int,
    say: Callable[[str], object],
) -> TokenStore:
    if shard_tokens < 1 or (workers is not None and workers < 0):
        raise InputError(
            "shard_tokens must be at least 1 and workers at least 0, not "
            f"{shard_tokens} and {workers}."
        )
    options = {
        **options,
        "sentence_rules": sentence_splitting.RULES,
        "shard_tokens": shard_tokens,
    }
    settings = {"tokenizer": tokenizer_fingerprint(tokenizer), **options}
    if not resume:
        remove_store(directory)
    if (directory / MANIFEST).exists():
        _check_same(directory, settings, source.digests())
        clear_away(directory)
        say(f"{directory} is complete: there is nothing to do.")
        return TokenStore.open(directory)

    settings["files"] = source.identity()
    writer = StoreWriter(directory, settings, tokenizer, shard_tokens)
    if writer.shards:
        say(f"{directory}: going on after {counted(len(writer.shards), 'finished shard')}.")
    state = source.state
    state.tokens = state.tokens_before = writer.num_tokens
    documents = iter(source)
    if sum(1 for _ in islice(documents, writer.documents_done)) < writer.documents_done:
        raise DataError(f"{directory}: the files have changed since it was begun. {AGAIN}")
    state.characters = 0
    if workers is None:
        few, documents = _are_few(documents)
        workers = 1 if few else _processors()
    with closing(encode_documents(DocumentEncoder.of(tokenizer), documents, workers)) as parts:
        for part in parts:
            writer.add(part)
            state.tokens = writer.num_tokens
            source.progress(state)
    writer.finish(options, source.sources)
    store = TokenStore.open(directory)
    if store.num_unknown > MANY_UNKNOWN * store.num_tokens:
        warnings.warn(
            f"{store.num_unknown / store.num_tokens:.0%} of the tokens are unknown to {tokenizer}: "
            "its vocabulary does not fit this text.",
            stacklevel=3,
        )
    return store


def _are_few(documents: Iterator[Document]) -> tuple[bool, Iterator[Document]]:
    """Whether one process is done before another has started; and an iterator over all of them."""
    seen, characters = [], 0
    for document in documents:
        seen.append(document)
        characters += len(document.text)
        if characters >= _SMALL:
            return False, chain(seen, documents)
    return True, iter(seen)


@dataclass
class _Files:
    """The documents of several files, one after another.

    Attributes:
        sources: the files that were read completely, as the manifest lists them.
    """

    paths: Sequence[Path]
    text_format: TextFormat
    state: TokenizeProgress
    progress: Callable[[TokenizeProgress], object]
    sources: list[dict[str, Any]] = field(default_factory=list)

    def identity(self) -> list[dict[str, Any]]:
        """Values that change if a file changes, found without reading it."""
        return [_identity(path) for path in self.paths]

    def digests(self) -> list[dict[str, Any]]:
        """The entries of these files in the manifest of a store."""
        return [_source(path, FileRecord.of(path)) for path in self.paths]

    def __iter__(self) -> Iterator[Document]:
        for path in self.paths:
            digest = hashlib.sha256()
            begin = self.state.bytes_read

            def note(data: bytes, digest: hashlib._Hash = digest) -> None:
                digest.update(data)
                self.state.bytes_read += len(data)
                self.progress(self.state)

            for document in read_documents(path, self.text_format, on_bytes=note):
                self.state.documents += 1
                self.state.characters += len(document.text)
                yield document
            size = self.state.bytes_read - begin
            self.sources.append(_source(path, FileRecord(size, digest.hexdigest())))


@dataclass
class _Texts:
    """Texts as documents.

    Attributes:
        sources: the texts as one file, once all have been read.
    """

    texts: Iterable[str | Mapping[str, Any] | None]
    text_format: TextFormat
    state: TokenizeProgress
    progress: Callable[[TokenizeProgress], object]
    sources: list[dict[str, Any]] = field(default_factory=list)

    def identity(self) -> list[dict[str, Any]]:
        """Identifies rows of `datasets`; other texts cannot be identified without reading them."""
        return [{"name": _TEXTS, "fingerprint": getattr(self.texts, "_fingerprint", None)}]

    def digests(self) -> list[dict[str, Any]]:
        """The entry of these texts in the manifest of a store. Reads them all."""
        for _ in self:
            pass
        return self.sources

    def __iter__(self) -> Iterator[Document]:
        digest, size = hashlib.sha256(), 0
        key, errors = self.text_format.text_key, self.text_format.encoding_errors
        for number, text in enumerate(self.texts, start=1):
            record = {key: text} if text is None or isinstance(text, str) else text
            if isinstance(record, Mapping) and key in record and record[key] is None:
                record = {key: ""}
            try:
                found = text_of(record, key, errors)
            except ValueError as problem:
                raise DataError(f"{_TEXTS}, number {number}: {problem}.") from problem
            data = found.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
            size += len(data)
            self.state.documents += 1
            self.state.characters += len(found)
            yield Document(found, Path(_TEXTS), number, "number")
        self.sources = [{"name": _TEXTS, **asdict(FileRecord(size, digest.hexdigest()))}]


def _source(path: Path, record: FileRecord) -> dict[str, Any]:
    return {"name": path.name, **asdict(record)}


def _identity(path: Path) -> dict[str, Any]:
    """Values that change if a file changes, found without reading it."""
    status = path.stat()
    return {"name": path.name, "bytes": status.st_size, "modified": status.st_mtime_ns}


def _check_same(
    directory: Path, settings: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]
) -> None:
    """Raises DataError if a finished store is not what these arguments would make."""
    manifest = Manifest.read(directory)
    made = {"tokenizer": manifest.tokenizer_fingerprint, **manifest.options}
    other = difference({**made, "files": manifest.sources}, {**settings, "files": sources})
    if other is not None:
        raise DataError(
            f"{directory} is a finished store made with {other}. Give another directory, or "
            f"discard it ({setting('resume', False, option='--restart')})."
        )


def _processors() -> int:
    """The number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
