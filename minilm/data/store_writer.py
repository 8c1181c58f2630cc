"""Writes a token store shard by shard, so that a killed run can resume.

Until store.json exists, `unfinished.json` records the settings of the run and the shards that are
finished. A shard is moved into place whole, and then listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from minilm.data.document_encoder import EncodedDocuments
from minilm.data.store_manifest import (
    COUNTS,
    KINDS,
    MANIFEST,
    TOKENIZER_FILES,
    UNFINISHED,
    FileRecord,
    Manifest,
    ShardRecord,
    difference,
    read_unfinished,
    shard_file,
    token_dtype,
    unfinished_bytes,
)
from minilm.errors import CheckpointError, DataError, setting
from minilm.files.arrays import Integers, npy_writer
from minilm.files.atomic import replace_files
from minilm.files.json_file import json_bytes
from minilm.files.progress import counted

if TYPE_CHECKING:
    from minilm.tokenization.tokenizer import Tokenizer


class StoreWriter:
    """Cuts encoded documents into shards and writes each one when it is full.

    Args:
        directory: the store, created if it does not exist. If a run with the same settings was
            interrupted here, its shards are kept.
        settings: everything that affects the content, as JSON.
        tokenizer: the tokenizer.
        shard_tokens: a shard ends with the document in which it reaches this many tokens.

    Attributes:
        documents_done: number of documents of the input, empty ones included, in shards that an
            earlier run has finished. `add` expects the documents after them.
        shards: the finished shards.
        num_tokens: number of tokens written or waiting to be written.

    Raises:
        DataError: the directory holds something else, or a run with other settings.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, Any],
        tokenizer: Tokenizer,
        shard_tokens: int,
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._tokenizer = tokenizer
        self._shard_tokens = shard_tokens
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._counts = np.zeros(tokenizer.vocab_size, np.int64)
        self._waiting: list[EncodedDocuments] = []
        self.shards = self._find_shards()
        self.documents_done = sum(s.documents + s.empty_documents for s in self.shards)
        self.num_tokens = sum(shard.tokens for shard in self.shards)
        self._save_progress()

    def add(self, encoded: EncodedDocuments) -> None:
        """Adds the next documents.

        Raises:
            DataError: a full shard cannot be written.
        """
        self.num_tokens += len(encoded.tokens)
        while len(encoded):
            missing = self._shard_tokens - sum(len(part.tokens) for part in self._waiting)
            if len(encoded.tokens) < missing:
                self._waiting.append(encoded)
                return
            last, encoded = encoded.split(encoded.documents_with(missing))
            self._waiting.append(last)
            self._close_shard()

    def finish(self, options: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]) -> None:
        """Writes the last shard, and the other files of the store.

        Args:
            options: how text was read and split, for the manifest.
            sources: the text files, for the manifest.

        Raises:
            DataError: the text has no tokens at all, or the disk is full.
        """
        empty = sum(len(part) for part in self._waiting)
        if any(len(part.tokens) for part in self._waiting):
            self._close_shard()
            empty = 0
        if not self.shards:
            raise DataError(
                f"There is no text in {', '.join(str(source['name']) for source in sources)}."
            )
        self._write({self._directory / COUNTS: npy_writer(self._counts)})
        with self._advice():
            self._tokenizer.save_pretrained(self._directory)
        manifest = Manifest(
            vocab_size=self._tokenizer.vocab_size,
            tokenizer_fingerprint=self._settings["tokenizer"],
            options=options,
            sources=list(sources),
            unknown_tokens=int(self._counts[self._tokenizer.unk_token_id]),
            empty_documents=empty + sum(shard.empty_documents for shard in self.shards),
            shards=self.shards,
            files={
                name: FileRecord.of(self._directory / name) for name in (COUNTS, *TOKENIZER_FILES)
            },
        )
        content = json_bytes(manifest.as_json())
        self._write({self._directory / MANIFEST: lambda path: path.write_bytes(content)})
        clear_away(self._directory)

    def _find_shards(self) -> list[ShardRecord]:
        """The complete shards of an earlier run, after removing everything else it left."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            _remove_temporaries(self._directory)
            unknown = [path for path in self._directory.iterdir() if not _is_ours(path)]
        except OSError as problem:
            raise DataError(
                f"{self._directory} cannot be made or read: {problem.strerror or problem}."
            ) from problem
        if unknown:
            raise DataError(
                f"{self._directory} holds something other than a token store ({unknown[0].name}). "
                "Give a new directory."
            )
        if not (self._directory / UNFINISHED).exists():
            return []
        settings, shards = read_unfinished(self._directory)
        other = difference(settings, self._settings)
        if shards and other is not None:
            raise DataError(
                f"{self._directory} was begun with {other}. Finish it with the arguments it was "
                f"begun with, give another directory, or discard it "
                f"({setting('resume', False, option='--restart')})."
            )
        for number, shard in enumerate(shards):
            try:
                shard.check(self._directory, number, content=True)
            except DataError:  # this shard and those after it are made again
                return shards[:number]
            self._count(np.load(shard_file(self._directory, number, "tokens"), mmap_mode="r"))
        return shards

    def _close_shard(self) -> None:
        waiting, self._waiting = self._waiting, []
        lengths = np.concatenate([part.document_lengths for part in waiting])
        arrays: dict[str, npt.NDArray[Any]] = {
            "tokens": np.concatenate([part.tokens for part in waiting], dtype=self._dtype),
            "sentences": _offsets(np.concatenate([part.sentence_lengths for part in waiting])),
            "documents": _offsets(lengths[lengths > 0]),
        }
        number = len(self.shards)
        paths = {kind: shard_file(self._directory, number, kind) for kind in KINDS}
        self._write({paths[kind]: npy_writer(arrays[kind]) for kind in KINDS})
        self._count(arrays["tokens"])
        self.shards.append(
            ShardRecord(
                documents=len(arrays["documents"]) - 1,
                sentences=len(arrays["sentences"]) - 1,
                tokens=len(arrays["tokens"]),
                empty_documents=int((lengths == 0).sum()),
                files={kind: FileRecord.of(path) for kind, path in paths.items()},
            )
        )
        self._save_progress()

    def _count(self, tokens: npt.NDArray[Any]) -> None:
        self._counts += np.bincount(tokens, minlength=len(self._counts))

    def _save_progress(self) -> None:
        content = unfinished_bytes(self._settings, self.shards)
        self._write({self._directory / UNFINISHED: lambda path: path.write_bytes(content)})

    def _write(self, writers: Mapping[Path, Callable[[Path], object]]) -> None:
        with self._advice():
            replace_files(writers)

    @contextmanager
    def _advice(self) -> Iterator[None]:
        try:
            yield
        except CheckpointError as problem:
            raise DataError(
                f"{problem} When this is fixed, run the same command again: it resumes after the "
                f"{counted(len(self.shards), 'finished shard')}."
            ) from problem


def clear_away(directory: Path) -> None:
    """Removes files that a finished store no longer needs."""
    (directory / UNFINISHED).unlink(missing_ok=True)
    _remove_temporaries(directory)


def remove_store(directory: Path) -> None:
    """Removes a store, finished or not, and nothing else.

    Raises:
        DataError: a file cannot be removed.
    """
    try:
        (directory / MANIFEST).unlink(missing_ok=True)  # from now on it is not a store
        if directory.is_dir():
            _remove_temporaries(directory)
            for path in directory.iterdir():
                if _is_ours(path):
                    path.unlink()
    except OSError as problem:
        raise DataError(f"{problem.filename} cannot be removed: {problem.strerror}.") from problem


def _is_ours(path: Path) -> bool:
    names = (MANIFEST, UNFINISHED, COUNTS, *TOKENIZER_FILES)
    return path.name in names or path.match("shard-*.npy")


def _remove_temporaries(directory: Path) -> None:
    """Removes temporary files that `replace_files` leaves when it is killed."""
    for path in directory.glob(".*.tmp-*"):
        path.unlink(missing_ok=True)


def _offsets(lengths: Integers) -> Integers:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
