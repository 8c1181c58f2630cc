"""An index of text vectors, kept in a directory between searches.

    DIRECTORY/index.json            the model that made the vectors, and the files that hold them
              vectors-NAME.npy      (N, H) float32, at unit length
              texts-NAME.npy        (N, 16) uint8, a digest of each text

A text is identified by its digest, in whatever file or line it is, and only texts that changed are
encoded again. A new index is written beside the old one and replaces it when index.json names it;
an interruption leaves the old one. The texts are not stored.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from minilm.errors import CheckpointError, DataError, setting
from minilm.files.arrays import npy_writer
from minilm.files.atomic import make_directory, replace_files, sync
from minilm.files.json_file import json_bytes, read_json
from minilm.models.digest import weights_digest
from minilm.sentence.encoder import SentenceEncoder, Vectors
from minilm.sentence.search import Encode

VERSION = 1
MANIFEST = "index.json"
_DIGEST = 16  # bytes


class VectorIndex:
    """Vectors of texts on disk, read and updated by one search.

    Use it in a `with` statement: if it ends without an error, the directory then holds the vectors
    of the texts that were requested. Vectors of other texts are dropped.

    Args:
        directory: created if it does not exist; may hold an index, but nothing else.
        encoder: the encoder that makes the vectors.
        rebuild: discard the index in the directory, even if another model made it.

    Attributes:
        reused: number of texts whose vectors were found in the index.

    Raises:
        DataError: the directory holds something else, vectors of another model, or damaged files;
            or another search uses it.
        CheckpointError: the directory cannot be written.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        encoder: SentenceEncoder,
        *,
        rebuild: bool = False,
    ) -> None:
        self._directory = Path(directory)
        self._width = encoder.get_embedding_dimension()
        self._maker = maker_of(encoder)
        self.reused = 0
        if self._directory.exists() and not self._directory.is_dir():
            raise DataError(f"{self._directory} is a file: give a directory for the index.")
        manifest = self._directory / MANIFEST
        if not manifest.exists() and self._directory.is_dir():
            names = sorted(path.name for path in self._directory.iterdir() if not _own(path.name))
            if names:
                raise DataError(
                    f"{self._directory} holds {names[0]}, but no index: give a new directory."
                )
        self._known: dict[bytes, int] = {}
        self._old: npt.NDArray[Any] = np.empty((0, self._width), np.float32)
        self._old_digests = b""
        try:
            make_directory(self._directory)
        except OSError as problem:
            reason = problem.strerror or problem
            raise CheckpointError(f"{self._directory} cannot be created: {reason}.") from problem
        self._lock = FileLock(self._directory / "lock")
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise DataError(f"Another search uses the index {self._directory}: wait for it.") from (
                None
            )
        try:
            if manifest.exists() and not rebuild:
                self._open(manifest)
        except BaseException:
            self._lock.release()
            raise
        self._name = secrets.token_hex(4)
        self._rows: dict[bytes, int] = {}  # rows of the new index
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            self._file = self._path("vectors").open("wb")
        except OSError as problem:
            self._lock.release()
            reason = problem.strerror or problem
            raise CheckpointError(f"{self._directory} cannot be written: {reason}.") from problem
        _write_header(self._file, 0, self._width)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
            elif self._file is not None:
                self._file.close()
                self._path("vectors").unlink(missing_ok=True)
        finally:
            self._lock.release()

    def vectors(self, texts: Sequence[str], encode: Encode) -> Vectors:
        """(n, H) float32 vectors of texts, in their order.

        Args:
            texts: any number of texts.
            encode: returns (m, H) vectors of texts that are not in the index.
        """
        assert self._file is not None, "a VectorIndex is used in a with statement"
        digests = [digest_of(text) for text in texts]
        missing = {
            digest: text
            for digest, text in zip(digests, texts, strict=True)
            if digest not in self._known
        }
        made: dict[bytes, int] = {digest: row for row, digest in enumerate(missing)}
        fresh = encode(list(missing.values())) if missing else self._old[:0]
        self.reused += sum(digest in self._known for digest in digests)
        found = np.empty((len(texts), self._width), np.float32)
        for row, digest in enumerate(digests):
            number = self._known.get(digest)
            found[row] = fresh[made[digest]] if number is None else self._old[number]
            if digest not in self._rows:
                self._rows[digest] = len(self._rows)
                self._file.write(found[row].tobytes())
        return found

    def _open(self, manifest: Path) -> None:
        """Reads the existing index."""
        found = read_json(manifest, max_bytes=1_000_000, error=DataError)
        if found.get("version") != VERSION:
            raise DataError(
                f"{manifest} is of version {found.get('version')!r}, expected {VERSION}. Remove "
                "the directory, or give another one."
            )
        if found.get("model") != self._maker:
            raise DataError(
                f"{self._directory} holds vectors of another model, or of the same one with other "
                "settings: they cannot be compared with this one's. Give another directory for the "
                f"index, or {setting('rebuild', True)}."
            )
        texts, name = found.get("texts"), found.get("name")
        plain = isinstance(name, str) and name.isalnum()
        if not plain or type(texts) is not int or texts < 0:
            raise DataError(f"{manifest} is damaged: remove the index, it is made again.")
        self._old = self._load(f"vectors-{name}.npy", np.float32, (texts, self._width))
        digests = self._load(f"texts-{name}.npy", np.uint8, (texts, _DIGEST))
        self._known = {digest.tobytes(): row for row, digest in enumerate(digests)}

    def _load(self, name: str, dtype: Any, shape: tuple[int, int]) -> npt.NDArray[Any]:
        path = self._directory / name
        try:
            found: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as problem:
            raise DataError(
                f"{path} cannot be read: {problem}. Remove the index, it is made again."
            ) from problem
        if found.dtype != dtype or found.shape != shape:
            raise DataError(
                f"{path} holds {found.dtype} of shape {found.shape}, expected "
                f"{np.dtype(dtype)} of shape {shape}. Remove the index, it is made again."
            )
        return found

    def _finish(self) -> None:
        """Makes the new vectors the index, and removes the old ones."""
        assert self._file is not None
        self._file.seek(0)
        _write_header(self._file, len(self._rows), self._width)
        self._file.close()
        sync(self._path("vectors"))
        digests = np.frombuffer(b"".join(self._rows), np.uint8).reshape(-1, _DIGEST)
        content = {
            "version": VERSION,
            "model": self._maker,
            "name": self._name,
            "texts": len(self._rows),
        }

        replace_files(
            {
                self._path("texts"): npy_writer(digests),
                self._directory / MANIFEST: lambda path: path.write_bytes(json_bytes(content)),
            }
        )
        for path in self._directory.glob("*.npy"):
            if _own(path.name) and self._name not in path.name:
                path.unlink(missing_ok=True)

    def _path(self, kind: str) -> Path:
        return self._directory / f"{kind}-{self._name}.npy"


def maker_of(encoder: SentenceEncoder) -> dict[str, Any]:
    """JSON values that identify a model and its settings: vectors of others are not comparable."""
    return {
        "weights": weights_digest(encoder.model.base),
        "config": encoder.model.config.to_dict(),
        "tokenizer": hashlib.blake2b(
            encoder.tokenizer.backend.to_str().encode(), digest_size=_DIGEST
        ).hexdigest(),
        "pooling": encoder.pooling,
        "max_length": encoder.max_length,
        "prompt": encoder.prompts["document"],
        "include_prompt": encoder.include_prompt,
    }


def digest_of(text: str) -> bytes:
    """A 16-byte digest of a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()


def _own(name: str) -> bool:
    """Whether a file of this name may belong to an index."""
    return name in (MANIFEST, "lock") or name.startswith(("vectors-", "texts-", "."))


def _write_header(file: BinaryIO, rows: int, width: int) -> None:
    """Writes the header of a .npy file; numpy leaves room in it for the first axis to grow."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(file, header)
