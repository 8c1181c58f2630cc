"""Extracts archives of downloaded checkpoints for the duration of a conversion."""

from __future__ import annotations

import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from minilm.errors import CheckpointError

MAX_FILES = 1000
MAX_BYTES = 16 * 2**30  # ALBERT-xxlarge with its optimiser has 2.7 GB
_COPY_BYTES = 2**20


@contextmanager
def extracted(source: Path) -> Iterator[Path]:
    """Yields a directory with an archive's content, removed at the end, or any other path itself.

    Only regular files are extracted, each under its name and that of its innermost folder, so no
    member can be written outside; links, devices and permissions are ignored.

    Args:
        source: a .tar, .tar.gz or .zip file, or anything else.

    Raises:
        CheckpointError: the archive is damaged, or too large to be a checkpoint.
    """
    if not source.is_file() or source.suffix not in (".tar", ".gz", ".tgz", ".zip"):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="minilm-") as folder:
        directory = Path(folder)
        try:
            if source.suffix == ".zip":
                _extract_zip(source, directory)
            else:
                _extract_tar(source, directory)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as problem:
            raise CheckpointError(
                f"{source} is a damaged archive: {problem}. Download it again."
            ) from problem
        except (OSError, NotImplementedError, RuntimeError) as problem:  # encrypted, say
            raise CheckpointError(f"{source} cannot be extracted: {problem}.") from problem
        yield directory


def _extract_tar(source: Path, directory: Path) -> None:
    with tarfile.open(source) as archive:
        budget = _Budget(source)
        for member in archive:
            if member.isreg() and (content := archive.extractfile(member)) is not None:
                budget.write(content, _place(directory, member.name))


def _extract_zip(source: Path, directory: Path) -> None:
    with zipfile.ZipFile(source) as archive:
        budget = _Budget(source)
        for member in archive.infolist():
            if not member.is_dir():
                with archive.open(member) as content:
                    budget.write(content, _place(directory, member.filename))


def _place(directory: Path, name: str) -> Path:
    """The path for a member: its own name, in a folder named like its innermost one."""
    parts = PurePosixPath(name.replace("\\", "/")).parts[-2:]
    safe = [part for part in parts if part not in ("/", ".", "..")]
    return directory.joinpath(*safe) if safe else directory / "unnamed"


class _Budget:
    """Counts the extracted files and bytes of an archive, and stops at the limits."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._files = 0
        self._bytes = 0

    def write(self, content: IO[bytes], path: Path) -> None:
        self._files += 1
        if self._files > MAX_FILES:
            raise CheckpointError(
                f"{self._source} has more than {MAX_FILES:,} files; a checkpoint has a few."
            )
        path.parent.mkdir(exist_ok=True)
        with path.open("xb") as file:
            while block := content.read(_COPY_BYTES):
                self._bytes += len(block)
                if self._bytes > MAX_BYTES:
                    raise CheckpointError(
                        f"{self._source} extracts to more than {MAX_BYTES:,} bytes. If you trust "
                        "it, extract it yourself and give the directory."
                    )
                file.write(block)
