"""A teacher's outputs for texts, computed once and stored in a directory.

    DIRECTORY/targets.json       identifies texts and teacher; numbers and sizes
              tokens.npy         (T,) int32, all texts one after another, with special tokens
              lengths.npy        (N,) int32, number of tokens of each text
              vectors-00000.npy  (n, H) float16, vectors of the first PART texts, and so on
              states-00000.npy   (t, H) float16, states of their tokens, if they are learned

Every file appears whole or not at all. Missing parts are computed when the same command runs again,
so an interruption costs one part. The numbers are targets of a loss: 16 bits are enough.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from filelock import FileLock
from tqdm.auto import tqdm

from minilm.errors import DataError, InputError
from minilm.files.arrays import Integers, npy_writer
from minilm.files.atomic import make_directory, replace_files
from minilm.files.json_file import json_bytes, read_json
from minilm.files.progress import counted
from minilm.sentence.encoder import TOKENS_PER_BATCH, SentenceEncoder, pack, pool

VERSION = 1
MANIFEST = "targets.json"
PART = 4096  # texts
Half = npt.NDArray[np.float16]


class SentenceTargets:
    """Tokens of N texts, and a teacher's vectors and token states for them.

    Args:
        directory: a directory filled by `make_targets`.

    Attributes:
        identity: JSON values that identify texts and teacher.
        lengths: (N,) number of tokens of each text.

    Raises:
        DataError: a file is missing or damaged.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        manifest = read_json(self.directory / MANIFEST, max_bytes=1_000_000, error=DataError)
        if manifest.get("version") != VERSION:
            raise DataError(
                f"{self.directory / MANIFEST} is of version {manifest.get('version')!r}, expected "
                f"{VERSION}. Remove the directory: it is computed again."
            )
        self.identity: dict[str, Any] = manifest["identity"]
        self.width: int = manifest["hidden_size"]
        self.has_states: bool = manifest["identity"]["states"]
        self.lengths: Integers = self._array("lengths.npy").astype(np.int64)
        self._open: dict[str, npt.NDArray[Any]] = {}
        self._first: Integers = np.concatenate([[0], self.lengths.cumsum()])
        self._ids = self._array("tokens.npy", (int(self._first[-1]),))

    def __len__(self) -> int:
        return len(self.lengths)

    def gather(self, texts: Integers) -> tuple[Integers, Half, Half | None]:
        """Reads the texts with these numbers, (B,).

        Returns:
            (T,) int64 ids, (B, H) float16 vectors, and (T, H) float16 states if there are any.
        """
        ids = [self._ids[self._first[n] : self._first[n + 1]] for n in texts.tolist()]
        vectors = [self._part("vectors", n // PART)[n % PART] for n in texts.tolist()]
        states = None
        if self.has_states:
            states = np.concatenate([np.zeros((0, self.width), np.float16), *map(self._of, texts)])
        return (
            np.concatenate([np.zeros(0, np.int64), *ids]).astype(np.int64),
            np.stack(vectors) if vectors else np.zeros((0, self.width), np.float16),
            states,
        )

    def _of(self, text: int) -> Half:
        """(t, H) the token states of one text."""
        number = int(text) // PART
        begin = self._first[text] - self._first[number * PART]
        return self._part("states", number)[begin : begin + self.lengths[text]]

    def _part(self, name: str, number: int) -> Half:
        file = _name(name, number)
        found = self._open.get(file)
        if found is None:
            found = self._open[file] = self._array(file, self.part_shape(name, number))
        return found

    def part_shape(self, name: str, number: int) -> tuple[int, int]:
        """The shape of a part: (texts, H) for vectors, (tokens, H) for states."""
        begin, end = number * PART, min((number + 1) * PART, len(self))
        rows = end - begin if name == "vectors" else int(self._first[end] - self._first[begin])
        return rows, self.width

    def _array(self, name: str, shape: tuple[int, ...] | None = None) -> npt.NDArray[Any]:
        return _mapped(self.directory / name, shape)


def _mapped(path: Path, shape: tuple[int, ...] | None) -> npt.NDArray[Any]:
    """Maps a .npy file into memory.

    Raises:
        DataError: the file is missing, damaged or of another shape.
    """
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as problem:
        raise DataError(
            f"{path} cannot be read: {problem}. Remove it: it is computed again."
        ) from (problem)
    if shape is not None and array.shape != shape:
        raise DataError(
            f"{path} is of shape {array.shape}, expected {shape}. Remove it: it is computed again."
        )
    return array


def _name(name: str, number: int) -> str:
    return f"{name}-{number:05}.npy"


def make_targets(
    directory: str | os.PathLike[str],
    teacher: SentenceEncoder,
    texts: Callable[[], Sequence[str]],
    *,
    max_length: int,
    states: bool,
    identity: Mapping[str, Any],
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> SentenceTargets:
    """Computes the missing targets of a teacher.

    Args:
        directory: the directory for the targets, created if it does not exist. Other processes
            wait until it is filled.
        teacher: the encoder; its vectors keep their norms.
        texts: returns N strings, at least one; called if the directory has no texts yet.
        max_length: length at which texts are cut, in tokens.
        states: whether to store the state of every token too: T x H numbers besides N x H.
        identity: JSON values that identify texts and teacher.
        progress: show a progress bar on stderr.
        say: receives messages.

    Raises:
        InputError: there are no texts.
        DataError: the directory holds other targets, or is damaged.
    """
    directory = Path(directory)
    make_directory(directory)
    known = {**identity, "max_length": max_length, "states": states}
    with FileLock(directory / "lock"):
        if not (directory / MANIFEST).exists():
            _write_tokens(directory, teacher, texts(), max_length, known)
        targets = SentenceTargets(directory)
        check_identity(targets, known)
        _fill(targets, teacher, progress, say)
    return targets


def _write_tokens(
    directory: Path,
    teacher: SentenceEncoder,
    texts: Sequence[str],
    max_length: int,
    identity: Mapping[str, Any],
) -> None:
    if not texts:
        raise InputError("There are no texts to learn from.")
    batch = teacher.tokenizer(list(texts), max_length=max_length, layout="packed")
    manifest = {
        "version": VERSION,
        "identity": dict(identity),
        "hidden_size": teacher.get_embedding_dimension(),
    }
    ids = batch["input_ids"].numpy().astype(np.int32)
    lengths = batch["lengths"].numpy().astype(np.int32)
    replace_files(
        {
            directory / "tokens.npy": npy_writer(ids),
            directory / "lengths.npy": npy_writer(lengths),
            directory / MANIFEST: lambda path: path.write_bytes(json_bytes(manifest)),
        }
    )


def check_identity(targets: SentenceTargets, known: Mapping[str, Any]) -> None:
    """Raises DataError if the targets belong to other texts or another teacher."""
    found = targets.identity
    if wrong := sorted(name for name in {*found, *known} if found.get(name) != known.get(name)):
        raise DataError(
            f"{targets.directory} holds targets of another run: they differ in "
            f"{', '.join(wrong)}. Give another directory, or remove this one."
        )


def _fill(
    targets: SentenceTargets,
    teacher: SentenceEncoder,
    progress: bool,
    say: Callable[[str], None],
) -> None:
    """Computes the missing parts."""
    names = ("vectors", "states") if targets.has_states else ("vectors",)
    parts = range(-(-len(targets) // PART))
    missing = [
        number
        for number in parts
        if not all((targets.directory / _name(name, number)).exists() for name in names)
    ]
    total = sum(targets.part_shape("vectors", number)[0] for number in missing)
    if total:
        say(f"the teacher reads {counted(total, 'sentence')}")
    with tqdm(total=total, unit=" texts", file=sys.stderr, disable=not progress) as bar:
        bar.set_description("teacher")
        for number in missing:
            texts = np.arange(number * PART, min((number + 1) * PART, len(targets)))
            vectors, states = _compute(targets, teacher, texts, bar)
            made = {"vectors": vectors, "states": states}
            replace_files(
                {targets.directory / _name(name, number): npy_writer(made[name]) for name in names}
            )


@torch.inference_mode()
def _compute(
    targets: SentenceTargets, teacher: SentenceEncoder, texts: Integers, bar: Any
) -> tuple[Half, Half]:
    """(n, H) vectors and (t, H) token states of some consecutive texts."""
    lengths = targets.lengths[texts]
    first = np.concatenate([[0], lengths.cumsum()])
    begin = targets._first[texts[0]]
    ids = torch.from_numpy(targets._ids[begin : begin + first[-1]].astype(np.int64))
    vectors = np.empty((len(texts), targets.width), np.float16)
    states = np.empty((int(first[-1]) if targets.has_states else 0, targets.width), np.float16)
    for rows in pack(lengths.tolist(), TOKENS_PER_BATCH):
        pieces = [ids[first[row] : first[row + 1]] for row in rows]
        found = torch.from_numpy(lengths[rows]).to(teacher.device)
        hidden = teacher.model.base(torch.cat(pieces).to(teacher.device), lengths=found)
        last = hidden.last_hidden_state  # (t, H)
        pooled = F.normalize(pool(last, found, teacher.pooling), dim=1)
        vectors[rows] = pooled.cpu().numpy()
        if targets.has_states:
            for row, state in zip(rows, torch.split(last, lengths[rows].tolist()), strict=True):
                states[first[row] : first[row + 1]] = state.float().cpu().numpy()
        bar.update(len(rows))
    if not (np.isfinite(vectors).all() and np.isfinite(states).all()):
        raise DataError(
            "The teacher gives vectors that are not finite in 16 bits: its checkpoint is damaged, "
            "or it is not a sentence encoder. Use another teacher."
        )
    return vectors, states
