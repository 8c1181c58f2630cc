"""The teacher cache of a distillation, opened or made from its settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilm.data.masked_lm import MaskedLMData
from minilm.data.teacher_cache import TeacherCache, free_bytes
from minilm.errors import setting
from minilm.files.progress import counted
from minilm.learners.cached_teacher import CachedTeacher, CacheDtype, StoredTargets
from minilm.losses.distillation import DistillationLoss
from minilm.models.pretrained import PretrainedModel
from minilm.recipes.corpus import CorpusSettings
from minilm.recipes.identity import weights_digest

# parts of a data set's fingerprint that change neither its samples' texts nor their masks
_NEUTRAL = ("tokens_per_step", "mask_rounds", "sequences.documents")


@dataclass(frozen=True, kw_only=True)
class TeacherCacheSettings:
    """Where and how the outputs of a teacher are kept.

    Attributes:
        directory: directory of the cache, which later runs may share.
        dtype: type of the numbers on the disk: "float32", which changes a loss by rounding only, or
            "float16".
        top_k: number of most probable tokens to keep for each position instead of hidden states;
            None = hidden states.
    """

    directory: str | os.PathLike[str]
    dtype: CacheDtype = "float32"
    top_k: int | None = None


def open_teacher_cache(
    settings: TeacherCacheSettings,
    loss: DistillationLoss,
    teacher: PretrainedModel,
    data: MaskedLMData,
    corpus: CorpusSettings,
    say: Callable[[str], None] = lambda _: None,
) -> CachedTeacher:
    """Opens a cache, or prepares a new one.

    Args:
        settings: where and how to keep the outputs.
        loss: the loss, which determines which outputs of the teacher are kept.
        teacher: the model whose outputs are kept.
        data: the samples.
        corpus: how the samples are masked.
        say: receives a message about the size of the cache.

    Raises:
        InputError: the loss reads what a cache does not keep.
        DataError: the directory holds other files, targets of another teacher, corpus or masks, or
            a damaged file.
    """
    directory = Path(settings.directory)
    stored = StoredTargets.of(loss, directory, settings.dtype, settings.top_k)
    identity = {
        **stored.identity(),
        "teacher": weights_digest(teacher),
        **{name: value for name, value in _flat(data.fingerprint).items() if name not in _NEUTRAL},
    }
    columns = stored.columns(teacher.config.hidden_size, teacher.config.vocab_size)
    cache = TeacherCache(directory, identity, columns)
    say(_room(cache, stored, data, corpus))
    return CachedTeacher(cache, stored)


def _room(
    cache: TeacherCache, stored: StoredTargets, data: MaskedLMData, corpus: CorpusSettings
) -> str:
    """The space that the cache will take on the disk, and how much is free."""
    share = 1.0 if stored.positions == "attended" else corpus.probability
    rounds = corpus.mask_rounds or 1
    whole = share * data.count_tokens() * cache.bytes_per_row * rounds
    there, free = cache.bytes_on_disk, free_bytes(cache.directory)
    period = f"{rounds} rounds of masks" if rounds > 1 else "one round of masks"
    message = (
        f"teacher cache: {cache.directory} has targets of {counted(len(cache), 'sample')} "
        f"({_size(there)}); {period} take about {_size(whole)}, {cache.bytes_per_row:,} bytes "
        f"for each {'token' if stored.positions == 'attended' else 'predicted token'}; "
        f"{_size(free)} are free"
    )
    if corpus.mask_rounds is None or corpus.segments != "single":
        message += (
            ". Every epoch has masks of its own and takes as much again; only another run with the "
            f"same seed reads them. To read them in later epochs, repeat masks "
            f"({setting('mask_rounds', 10)})."
        )
    if whole - there > free:
        message += ". Warning: that is more than there is room for."
    return message


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested JSON values by names with dots."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _size(size: float) -> str:
    """Bytes in a unit that leaves few digits."""
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            return f"{size / least:.1f} {unit}"
    return f"{size:.0f} bytes"
