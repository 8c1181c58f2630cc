"""Reads config.json strictly, and names the file in every error about its content."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minilm.errors import ConfigError
from minilm.files.file_names import CONFIG
from minilm.files.json_file import read_json

MAX_BYTES = 10_000_000


def read_config(directory: Path) -> dict[str, Any]:
    """Reads `directory`/config.json.

    Raises:
        ConfigError: the file is missing, too large or not a JSON object.
    """
    return read_json(directory / CONFIG, max_bytes=MAX_BYTES, error=ConfigError)


@contextmanager
def prefix_errors(directory: Path) -> Iterator[None]:
    """Puts the path of config.json before the message of every ConfigError raised inside."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{directory / CONFIG}: {error}") from None
