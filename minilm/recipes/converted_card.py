"""The card of a converted checkpoint: that of its source, and how it was converted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minilm.checkpoints.hub import resolve
from minilm.errors import CheckpointError, MinilmError
from minilm.files.file_names import CONFIG, MODULES, TASK
from minilm.files.json_file import read_json
from minilm.models.int8 import stored_int8
from minilm.recipes.card import (
    README,
    Card,
    command_line,
    is_hub_name,
    pipeline,
    shown_name,
    usage,
    without_mark,
)

_HEAD = re.compile(r"---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)
_LIBRARY = re.compile(r"^library_name:.*$", re.MULTILINE)
_MAX_BYTES = 1_000_000  # of the card of the source


def converted_card(source: str, destination: Path, options: Mapping[str, Any]) -> Card:
    """The card of what `minilm convert` has written.

    The head of the source's card, with licence and language, stays as it is, and its text follows:
    the weights still have the same authors. Only the library changes if no other one reads 8 bits.

    Args:
        source: the converted checkpoint, as the user named it.
        destination: the new checkpoint.
        options: the options of the command.
    """
    config = read_json(destination / CONFIG, max_bytes=_MAX_BYTES, error=CheckpointError)
    names = config.get("architectures")
    class_name = str(names[0]) if isinstance(names, list) and names else "checkpoint"
    head, text = _card_of(source)
    name, origin = destination.absolute().name, shown_name(source)
    command = command_line("convert", options, origin, name)
    sections = {
        "Conversion": f"Made from {origin} by\n\n```text\n{command}\n```\n\nIts licence is that of "
        f"{origin}."
    }
    if text:
        sections[f"The card of {origin}"] = _lowered(text)
    int8 = stored_int8(config, destination)
    stored = ", stored in 8 bits (int8), which only minilm reads" if int8 else ""
    sentence = (destination / MODULES).exists()
    library = "minilm" if int8 else "sentence-transformers" if sentence else "transformers"
    if head and (int8 or "library_name: minilm" in head.splitlines()):  # to 8 bits, or back
        head = _LIBRARY.sub(f"library_name: {library}", head)
    task = (destination / TASK).exists()
    return Card(
        name=name,
        summary=f"{class_name}, the weights of {origin} in a new file{stored}.",
        use=usage(name, class_name, sentence=sentence, task=task),
        sections=sections,
        library=library,
        pipeline="sentence-similarity" if sentence else pipeline(class_name),
        base_models=[source] if is_hub_name(source) else [],
        head=head,
    )


def _lowered(text: str) -> str:
    """Markdown with its headings two levels lower; code is left alone."""
    lines, in_code = [], False
    for line in text.splitlines():
        in_code ^= line.lstrip().startswith("```")
        lines.append(f"##{line}" if line.startswith("#") and not in_code else line)
    return "\n".join(lines)


def _card_of(source: str) -> tuple[str | None, str]:
    """Head and text of the source's README.md, as far as there is one."""
    try:
        path = Path(resolve(source, weights=False, local_files_only=True)) / README
    except MinilmError:  # a directory without a tokenizer, or one of pickled weights
        path = Path(source) / README
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        return None, ""
    text = without_mark(path.read_text(encoding="utf-8", errors="replace"))
    found = _HEAD.match(text)
    if found is None:
        return None, text
    return found[1], text[found.end() :]
