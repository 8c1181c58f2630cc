"""Decodes stored bytes to text and lines.

Labelled data fits into memory, so files are read whole; corpora for pretraining are not
(minilm/data/text_files.py).
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from minilm.errors import DataError, InputError, setting

_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
    ".bz2": bz2.decompress,
}

# First bytes of files that are not text, or not the text expected.
_SIGNATURES = {
    b"\x1f\x8b": "It is compressed by gzip: add .gz to its name.",
    b"\xfd7zXZ": "It is compressed by xz: add .xz to its name.",
    b"BZh": "It is compressed by bzip2: add .bz2 to its name.",
    b"PK\x03\x04": "It is a zip archive, or a table of Excel: unpack it, or save it as text.",
    b"PAR1": "It is Parquet: add .parquet to its name.",
}

# The byte order marks of encodings; those of UTF-32 begin with those of UTF-16.
_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


def is_compressed(path: Path) -> bool:
    """Whether `read_text` decompresses a file, by its name."""
    return path.suffix.lower() in _DECOMPRESS


def suffix_of(path: Path) -> str:
    """The suffix of the format: ".csv" for both a.csv and A.CSV.GZ."""
    name = Path(path.name.lower())
    return name.with_suffix("").suffix if name.suffix in _DECOMPRESS else name.suffix


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Reads the text of a file, perhaps compressed (.gz, .xz, .bz2), without a byte order mark.

    A file that begins with the byte order mark of UTF-16 or UTF-32, such as Excel's "Unicode
    text", is decoded as such. In a file without any `\\n`, `\\r` becomes `\\n`: lines ended so on
    old Macs, and still do in Excel's "CSV (Macintosh)".

    Raises:
        DataError: the file cannot be read, is damaged, is not in this encoding or has NUL
            characters. The message names the line.
        InputError: there is no such encoding.
    """
    data = _stored(path)
    hint = next((hint for start, hint in _SIGNATURES.items() if data.startswith(start)), None)
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), encoding)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        byte = problem.start - data.rfind(b"\n", 0, problem.start)
        advice = hint or f"Convert it, or name its encoding, e.g. {setting('encoding', 'latin-1')}."
        raise DataError(
            f"{path}, line {line}: byte {byte} (0x{data[problem.start]:02x}) is not "
            f"{encoding.upper()}. {advice}"
        ) from problem
    except (LookupError, UnicodeError, ValueError) as problem:
        raise InputError(
            f"{setting('encoding', encoding)} is not a text encoding ({problem}). "
            'Use one such as "utf-8", "utf-16" or "latin-1".'
        ) from problem
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        advice = hint or "Is it a text file? Make or fetch it again."
        raise DataError(f"{path}, line {line}: a NUL character, which no text has. {advice}")
    text = text.removeprefix("\ufeff")
    return text if "\n" in text else text.replace("\r", "\n")


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines without their ends, numbered from 1. Only `\\n` and `\\r\\n` end a line."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return ((number, line.removesuffix("\r")) for number, line in enumerate(lines, 1))


def _stored(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        decompress = _DECOMPRESS.get(path.suffix.lower())
        return decompress(data) if decompress else data
    except FileNotFoundError as problem:
        raise DataError(f"{path} does not exist.") from problem
    except IsADirectoryError as problem:
        raise DataError(f"{path} is a directory, expected a file.") from problem
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as problem:
        raise DataError(
            f"{path} is damaged or cut off: {problem}. Make or fetch it again."
        ) from problem
    except (OSError, ValueError) as problem:
        raise DataError(f"{path} cannot be read: {problem}.") from problem
