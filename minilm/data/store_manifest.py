"""The names of the files of a token store, and its manifest, store.json."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minilm.errors import DataError
from minilm.files.json_file import json_bytes, read_json

VERSION = 1
MANIFEST = "store.json"
UNFINISHED = "unfinished.json"
COUNTS = "counts.npy"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
KINDS = ("tokens", "sentences", "documents")
AGAIN = "Make the store again: minilm tokenize --restart, with the arguments it was made with."

_MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class FileRecord:
    """Size and digest of a file."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Reads a file.

        Raises:
            DataError: it cannot be read.
        """
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(path.stat().st_size, digest)
        except OSError as problem:
            raise DataError(f"{path} cannot be read: {problem.strerror or problem}.") from problem

    @classmethod
    def from_json(cls, data: Any) -> FileRecord:
        """Inverse of `dataclasses.asdict`; KeyError, TypeError or ValueError for other values."""
        return cls(count(data["bytes"]), str(data["sha256"]))

    def check(self, path: Path, *, content: bool) -> None:
        """Compares a file with this record.

        Args:
            path: the file.
            content: compare the content too, not only the size.

        Raises:
            DataError: the file is missing or differs.
        """
        try:
            size = path.stat().st_size
        except OSError as problem:
            raise DataError(f"{path} is missing: {problem.strerror or problem}. {AGAIN}") from None
        if size != self.bytes:
            raise DataError(
                f"{path} has {size:,} bytes, expected {self.bytes:,}: it is damaged or was not "
                f"copied completely. Copy it again. {AGAIN}"
            )
        if content and FileRecord.of(path) != self:
            raise DataError(
                f"{path} is damaged: its content is not what it was when the store was made. "
                f"Copy it again. {AGAIN}"
            )


@dataclass(frozen=True)
class ShardRecord:
    """The content of a shard.

    Attributes:
        documents, sentences, tokens: their numbers.
        empty_documents: number of documents without any token, left out before its last document.
        files: from the kind ("tokens", "sentences", "documents") to the file.
    """

    documents: int
    sentences: int
    tokens: int
    empty_documents: int
    files: Mapping[str, FileRecord]

    @classmethod
    def from_json(cls, data: Any) -> ShardRecord:
        """Inverse of `dataclasses.asdict`; KeyError, TypeError or ValueError for other values."""
        names = ("documents", "sentences", "tokens", "empty_documents")
        counts = {name: count(data[name]) for name in names}
        files = {kind: FileRecord.from_json(data["files"][kind]) for kind in KINDS}
        return cls(**counts, files=files)

    def check(self, directory: Path, number: int, *, content: bool) -> None:
        """Compares the files of a shard with this record. Raises DataError if they differ."""
        for kind, record in self.files.items():
            record.check(shard_file(directory, number, kind), content=content)


@dataclass(frozen=True)
class Manifest:
    """The content of store.json.

    Attributes:
        vocab_size: the number of token ids.
        tokenizer_fingerprint: fingerprint of the tokenizer.
        options: how text was read and split.
        sources: name, bytes and sha256 of each text file.
        unknown_tokens: how often the unknown token occurs.
        empty_documents: number of documents without any token, which were left out.
        shards: the shards in order.
        files: from name to file, for all files that belong to no shard.
    """

    vocab_size: int
    tokenizer_fingerprint: str
    options: Mapping[str, Any]
    sources: Sequence[Mapping[str, Any]]
    unknown_tokens: int
    empty_documents: int
    shards: Sequence[ShardRecord]
    files: Mapping[str, FileRecord]

    @cached_property
    def documents(self) -> int:
        """Number of documents in all shards."""
        return sum(shard.documents for shard in self.shards)

    @cached_property
    def sentences(self) -> int:
        """Number of sentences in all shards."""
        return sum(shard.sentences for shard in self.shards)

    @cached_property
    def tokens(self) -> int:
        """Number of tokens in all shards."""
        return sum(shard.tokens for shard in self.shards)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of all the fields."""
        return hashlib.sha256(json_bytes(self._contents())).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {**self._contents(), "fingerprint": self.fingerprint}

    def _contents(self) -> dict[str, Any]:
        totals = {name: getattr(self, name) for name in ("documents", "sentences", "tokens")}
        dtype = token_dtype(self.vocab_size).name
        return {"version": VERSION, "dtype": dtype, **totals, **asdict(self)}

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Reads the manifest of a finished store.

        Raises:
            DataError: there is no finished store, or store.json is damaged.
        """
        path = directory / MANIFEST
        if not path.exists():
            raise DataError(_why_no_store(directory))
        data = read_json(path, max_bytes=_MAX_BYTES, error=DataError)
        if data.get("version") != VERSION:
            raise DataError(
                f"{path} has the version {data.get('version')!r}; this minilm reads {VERSION}. "
                f"{AGAIN}"
            )
        try:
            manifest = cls(
                vocab_size=count(data["vocab_size"]),
                tokenizer_fingerprint=str(data["tokenizer_fingerprint"]),
                options=dict(data["options"]),
                sources=[dict(source) for source in data["sources"]],
                unknown_tokens=count(data["unknown_tokens"]),
                empty_documents=count(data["empty_documents"]),
                shards=[ShardRecord.from_json(shard) for shard in data["shards"]],
                files={
                    name: FileRecord.from_json(data["files"][name])
                    for name in (COUNTS, *TOKENIZER_FILES)
                },
            )
        except (KeyError, TypeError, ValueError) as problem:
            raise DataError(f"{path} is damaged: {problem!r}. {AGAIN}") from None
        if manifest.as_json() != data or not manifest.shards:
            raise DataError(f"{path} was changed after it was made. {AGAIN}")
        return manifest


def read_unfinished(directory: Path) -> tuple[dict[str, Any], list[ShardRecord]]:
    """The settings of an interrupted run, and the shards it had finished.

    Raises:
        DataError: unfinished.json is damaged.
    """
    path = directory / UNFINISHED
    data = read_json(path, max_bytes=_MAX_BYTES, error=DataError)
    try:
        return dict(data["settings"]), [ShardRecord.from_json(shard) for shard in data["shards"]]
    except (KeyError, TypeError, ValueError) as problem:
        raise DataError(f"{path} is damaged: {problem!r}. {AGAIN}") from None


def unfinished_bytes(settings: Mapping[str, Any], shards: Sequence[ShardRecord]) -> bytes:
    """The content of unfinished.json."""
    return json_bytes({"settings": settings, "shards": [asdict(shard) for shard in shards]})


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first setting that differs, in words; None if all are the same."""
    for name, value in now.items():
        if before.get(name) != value:
            return f"{name} {_short(before.get(name))}, not {_short(value)}"
    return None


def shard_file(directory: Path, number: int, kind: str) -> Path:
    """The path of a file of a shard."""
    return directory / f"shard-{number:05d}.{kind}.npy"


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The dtype of stored tokens."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def count(value: Any) -> int:
    """Returns the value if it is an integer of at least 0. Raises ValueError otherwise."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 150 else f"{text[:147]}..."


def _why_no_store(directory: Path) -> str:
    if not directory.exists():
        return f"{directory} does not exist; expected a token store."
    if (directory / UNFINISHED).exists():
        return (
            f"{directory} is an unfinished token store. Give the same minilm tokenize command "
            "again: it resumes where it stopped."
        )
    return (
        f"{directory} is not a token store: it has no {MANIFEST}. Make one from text files: "
        "minilm tokenize FILES --tokenizer MODEL --output DIRECTORY."
    )
