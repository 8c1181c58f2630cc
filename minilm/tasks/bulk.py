"""Predictions for files, in parts, by several workers on several machines."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from minilm.checkpoints.hub import resolve
from minilm.data.part_runs import (
    PartsProgress,
    ShardResult,
    checked_shard,
    cuts_unsaid,
    run_parts,
    scan_rows,
)
from minilm.data.parts import PART_ROWS, Parts, PartsManifest, Shard
from minilm.data.records.base import Policy, RecordError
from minilm.data.row_files import RowFile, RowReader
from minilm.files.json_file import json_bytes
from minilm.files.progress import cut_message
from minilm.files.workers import Result, Work
from minilm.models.digest import weights_digest
from minilm.tasks.layouts import SETTINGS, plain
from minilm.tasks.prediction import CHUNK, Input, Predictor
from minilm.tasks.task import Prediction

_OFTEN = 64  # rows between two reports of progress


def predict_file(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    shard: str | Shard = "1/1",
    workers: int | None = None,
    threads: int = 1,
    part_rows: int = PART_ROWS,
    format: str | None = None,
    on_bad_record: Policy = "raise",
    columns: Mapping[str, Any] | None = None,
    thresholds: Mapping[str, float] | None = None,
    exits: Mapping[str, Any] | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[PartsProgress], object] = lambda _: None,
    on_bytes: Callable[[int], object] = lambda _: None,
    say: Callable[[str], object] = lambda _: None,
) -> ShardResult:
    """Predicts for every row of a file, in parts of a directory.

    Each part is a file of JSON lines, with one object for every row: "line" or "row", from 1, and
    what `Predictor.predict` gives, or "error". `cat DIRECTORY/part-*.jsonl` gives all of them in
    order. Interruptions, shards and workers are as for `encode_file`.

    Args:
        model: a fine-tuned checkpoint: a directory or a hub name.
        data: file of one text a line, JSON lines or Parquet, according to its name; lines may be
            compressed.
        directory: directory of the parts, either new or begun with the same arguments.
        shard, workers, threads, part_rows, format, progress, on_bytes: as for `encode_file`.
        on_bad_record: "raise" stops at a bad record, "skip" writes an "error" in its place.
        columns: "text_column" and "pair_column", the columns to read; None = found by their names.
        thresholds: decision thresholds to use instead of those stored with the model.
        exits: "exit_threshold", "exit_patience", "exit_tolerance", see
            `Predictor.from_pretrained`.
        dtype, device: as for `Predictor.from_pretrained`.
        say: receives a message about the columns that are read, if they were guessed.

    Returns:
        What was done; its `counts` may have "truncated", "skipped" (bad records), "blank" (lines),
        and with exits "applications" of layers and "predicted" texts.

    Raises:
        DataError: as for `encode_file`.
        MinilmError: the model cannot be loaded, or an argument is wrong.
    """
    shard = checked_shard(shard)
    named = {name: (columns or {}).get(name) for name in SETTINGS}
    job = PredictJob(
        resolve(model), dtype, device, dict(exits or {}), named, dict(thresholds or {})
    )
    predictor = job.load()
    file = scan_rows(Path(data), part_rows, threads, format, on_bytes)
    manifest = PartsManifest(
        kind="predictions",
        rows=file.rows,
        part_rows=part_rows,
        suffix="jsonl",
        settings={
            "model": _digest(predictor),
            "data": file.sha256,
            "format": file.format,
            "threads": threads,
            "device": predictor.model.device.type,
            **{name: value for name, value in named.items() if value is not None},
        },
    )
    _say_guesses(predictor, file, say)
    parts = Parts.begin(Path(directory), manifest)
    limit, kind = predictor.task.limit, predictor.model.device.type
    del predictor  # workers load their own
    work = PartsJob(job, threads, parts, file, on_bad_record)
    result = run_parts(
        parts, shard, work, workers=workers, threads=threads, device=kind, progress=progress
    )
    if cut := result.counts.get("truncated"):
        predicted = result.rows - result.counts.get("blank", 0) - result.counts.get("skipped", 0)
        warnings.warn(cut_message(cut, predicted, "record", limit), stacklevel=2)
    return result


@dataclass(frozen=True)
class PredictJob:
    """How to make a predictor; the attributes are the arguments of `predict_file`."""

    model: Path
    dtype: torch.dtype | str | None
    device: torch.device | str | None
    exits: Mapping[str, Any]
    columns: Mapping[str, Any]
    thresholds: Mapping[str, float]

    def load(self) -> Predictor:
        """The predictor."""
        predictor = Predictor.from_pretrained(
            self.model, dtype=self.dtype, device=self.device, **self.exits
        )
        predictor.task.name_columns(self.columns)
        predictor.task.set_thresholds(self.thresholds)
        return predictor


@dataclass(frozen=True)
class PartsJob:
    """Predicts parts.

    Attributes:
        predict: makes the predictor.
        threads, parts, file, policy: arguments of `predict_file`, or made by it.
    """

    predict: PredictJob
    threads: int
    parts: Parts
    file: RowFile
    policy: Policy

    @contextmanager
    def open(self) -> Iterator[Work]:
        """Loads the model and opens the file."""
        torch.set_num_threads(self.threads)
        predictor = self.predict.load()

        def work(part: int, on_rows: Callable[[int], object]) -> Result:
            start, stop = self.parts.manifest.rows_of(part)
            counts: Counter[str] = Counter()
            lines = []
            inputs = (
                Input(self.file.place(row), record)
                for row, record in enumerate(reader.records(start, stop), start)
            )
            with cuts_unsaid():
                found = predictor.predict_inputs(inputs, self.policy, chunk=CHUNK)
                for row, (item, prediction) in enumerate(found, start):
                    _count(counts, item, prediction)
                    lines.append(self._line(row, item, prediction))
                    if len(lines) % _OFTEN == 0:
                        on_rows(_OFTEN)
            on_rows(len(lines) % _OFTEN)
            self.file.check_unchanged()
            content = "".join(lines).encode("utf-8", "surrogatepass")
            self.parts.write(part, lambda path: path.write_bytes(content), counts)
            return dict(counts)

        with RowReader(self.file) as reader:
            yield work

    def _line(self, row: int, item: Input, prediction: Prediction) -> str:
        record = item.record if isinstance(item.record, Mapping) else {}
        name = plain(record.get("id"))
        place = {"row" if self.file.format == "parquet" else "line": row + 1}
        known = {} if name is None else {"id": name}
        # an id from Parquet may be a time or bytes
        line = json.dumps({**place, **known, **prediction}, ensure_ascii=False, default=str)
        return line + "\n"


def _count(counts: Counter[str], item: Input, prediction: Prediction) -> None:
    if item.record is None:
        counts["blank"] += 1
    elif "error" in prediction:
        counts["skipped"] += 1
    if "truncated" in prediction:
        counts["truncated"] += 1
    if "applications" in prediction:
        counts["predicted"] += 1
        counts["applications"] += prediction["applications"]


def _digest(predictor: Predictor) -> str:
    """A short name for everything that a prediction depends on."""
    exits = predictor.early_exit
    content = json_bytes(
        {
            "weights": weights_digest(predictor.model),
            "config": predictor.model.config.to_dict(),
            "tokenizer": predictor.tokenizer.backend.to_str(),
            "task": [predictor.task.name, list(predictor.task.labels), predictor.task.settings()],
            "exits": None if exits is None else [weights_digest(exits.heads), asdict(exits.rule)],
        }
    )
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _say_guesses(predictor: Predictor, file: RowFile, say: Callable[[str], object]) -> None:
    """Reports which columns are read if they were only found by their names."""
    with RowReader(file) as reader:
        for row, record in enumerate(reader.records(0, min(file.rows, file.step))):
            if isinstance(record, Mapping):
                with suppress(RecordError):  # which is said when the row is predicted
                    guesses = predictor.task.layouts([record], labelled=False).guesses(record)
                    if guesses:
                        say(f"{file.place(row)}: {guesses}")
                return
