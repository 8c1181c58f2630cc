"""Encodes a file of texts to a directory of vectors, with several workers and machines."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch

from minilm.checkpoints.hub import resolve
from minilm.data.part_runs import (
    PartsProgress,
    ShardResult,
    check_texts,
    checked_shard,
    cuts_unsaid,
    run_parts,
    scan_rows,
)
from minilm.data.parts import MANIFEST, PART_ROWS, Parts, PartsManifest, Shard
from minilm.data.row_files import RowFile, RowReader
from minilm.errors import InputError
from minilm.files.arrays import npy_writer
from minilm.files.json_file import json_bytes
from minilm.files.progress import cut_message
from minilm.files.pyarrow_library import pyarrow_for
from minilm.files.workers import Result, Work
from minilm.sentence.encoder import TOKENS_PER_BATCH, Encoder, Pooling, Vectors
from minilm.sentence.index import maker_of

VectorFormat: TypeAlias = Literal["npy", "parquet"]


def encode_file(
    model: str | os.PathLike[str],
    texts: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    shard: str | Shard = "1/1",
    workers: int | None = None,
    threads: int = 1,
    part_rows: int = PART_ROWS,
    output_format: VectorFormat = "npy",
    format: str | None = None,
    text_key: str = "text",
    pooling: Pooling | None = None,
    normalize: bool = True,
    max_length: int | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[PartsProgress], object] = lambda _: None,
    on_bytes: Callable[[int], object] = lambda _: None,
) -> ShardResult:
    """Encodes every row of a file to a vector, in parts of a directory.

    Called again with the same arguments it makes the missing parts, so an interruption or a kill at
    any moment costs each worker one part at most. Several machines may each take a shard, in one
    shared directory or in several that are merged afterwards. On processors of one kind, the bits
    of the parts do not depend on shards, workers or interruptions. Each worker holds only one part
    in memory. `EncodedTexts.open(directory)` reads the vectors.

    Args:
        model: a directory, a hub name, or the short name of a model that comes with the repository.
        texts: a file with a text in each line (UTF-8, blank lines are texts too), JSON lines or
            Parquet, as its name says; text and JSON lines may be compressed (.gz, .xz, .bz2). It is
            read once before the work begins.
        directory: the directory for the parts; new, or begun with the same arguments.
        shard: "2/8" makes the second of eight shards: every eighth part, from the second one.
        workers: number of processes; None = as many as torch would use threads on a CPU, and 1 on
            other devices. A script that uses more than one must start them under
            `if __name__ == "__main__":`.
        threads: number of torch threads in every worker. It may change the last bits.
        part_rows: number of texts in a part.
        output_format: "npy", (rows, H) float32; or "parquet", with the columns "row" (int64, from
            0) and "vector" (a list of H float32).
        format: "text", "jsonl" or "parquet"; None = as the name of the file says.
        text_key: the key of JSON objects, or the column of Parquet files, that holds the text.
        pooling, normalize, max_length, prompt, prompt_name, tokens_per_batch: as for
            `Encoder.encode`.
        dtype, device: as for `Encoder.from_pretrained`.
        progress: called after every batch of a worker.
        on_bytes: called with the number of bytes just read while the texts are checked first.

    Returns:
        A summary; its `counts` has "truncated", the number of texts that were cut.

    Raises:
        DataError: the file or a row (the message names it) cannot be read; the directory holds
            something else, or was begun with other texts, another model or other arguments;
            another process works on the shard; or a worker was killed.
        MinilmError: the model cannot be loaded, or an argument is wrong.

    Example:
        >>> minilm.encode_file("sentence-mini", "texts.txt", "vectors")  # doctest: +SKIP
        >>> minilm.EncodedTexts.open("vectors").shape  # doctest: +SKIP
        (10000000, 256)
    """
    if output_format not in get_args(VectorFormat):
        raise InputError(
            f"output_format is {output_format!r}: expected one of "
            f"{', '.join(get_args(VectorFormat))}."
        )
    shard, target = checked_shard(shard), Path(directory)
    if output_format == "parquet":
        pyarrow_for(target)
    folder = resolve(model)
    encoder = Encoder.from_pretrained(folder, dtype=dtype, device=device)
    how: dict[str, Any] = {
        "pooling": pooling or encoder.pooling,
        "normalize": normalize,
        "max_length": max_length or encoder.max_length,
        "prompt": encoder.resolve_prompt(prompt, prompt_name),
        "tokens_per_batch": tokens_per_batch,
    }
    encoder.encode_stream([], **how)  # checks the arguments
    file = scan_rows(Path(texts), part_rows, threads, format, on_bytes)
    manifest = PartsManifest(
        kind="vectors",
        rows=file.rows,
        part_rows=part_rows,
        suffix=output_format,
        settings={
            "model": model_digest(encoder),
            "texts": file.sha256,
            "format": file.format,
            "text_key": None if file.format == "text" else text_key,
            "threads": threads,
            "device": encoder.device.type,
            "width": encoder.get_embedding_dimension(),
            **how,
        },
    )
    if not (target / MANIFEST).exists():
        check_texts(file, text_key)
    parts = Parts.begin(target, manifest)
    job = EncodeJob(folder, dtype, device, how, threads, parts, file, text_key)
    kind = encoder.device.type
    del encoder  # workers load their own
    result = run_parts(
        parts, shard, job, workers=workers, threads=threads, device=kind, progress=progress
    )
    if cut := result.counts.get("truncated"):
        warnings.warn(
            cut_message(cut, result.rows, "text", how["max_length"]),
            stacklevel=2,
        )
    return result


@dataclass(frozen=True)
class EncodeJob:
    """Encodes parts; the attributes are the arguments of `encode_file`."""

    model: Path
    dtype: torch.dtype | str | None
    device: torch.device | str | None
    how: Mapping[str, Any]
    threads: int
    parts: Parts
    file: RowFile
    text_key: str

    @contextmanager
    def open(self) -> Iterator[Work]:
        """Loads the model and opens the file."""
        torch.set_num_threads(self.threads)
        encoder = Encoder.from_pretrained(self.model, dtype=self.dtype, device=self.device)

        def work(part: int, on_rows: Callable[[int], object]) -> Result:
            start, stop = self.parts.manifest.rows_of(part)
            texts = list(reader.texts(start, stop, self.text_key))
            stream = encoder.encode_stream(texts, **self.how, on_batch=on_rows)
            vectors = np.empty((len(texts), encoder.get_embedding_dimension()), np.float32)
            done = truncated = 0
            with cuts_unsaid():
                for chunk in stream:
                    vectors[done : done + len(chunk)] = chunk
                    done += len(chunk)
                    truncated += len(stream.truncated)
            self.file.check_unchanged()
            counts = {"truncated": truncated}
            self.parts.write(part, _writer(self.parts, part, vectors), counts)
            return counts

        with RowReader(self.file) as reader:
            yield work


def model_digest(encoder: Encoder) -> str:
    """A digest of a model and its tokenizer, independent of their paths."""
    maker = maker_of(encoder)
    names = ("weights", "config", "tokenizer", "include_prompt")
    content = json_bytes({name: maker[name] for name in names})
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _writer(parts: Parts, part: int, vectors: Vectors) -> Callable[[Path], object]:
    if parts.manifest.suffix == "npy":
        return npy_writer(vectors)
    arrow, parquet = pyarrow_for(parts.path(part))
    start, stop = parts.manifest.rows_of(part)
    columns = {
        "row": arrow.array(np.arange(start, stop)),
        "vector": arrow.FixedSizeListArray.from_arrays(
            arrow.array(vectors.reshape(-1)), vectors.shape[1]
        ),
    }
    table = arrow.table(columns)
    # the numbers of vectors do not repeat, and compression would not shrink them
    return lambda path: parquet.write_table(table, path, compression="none", use_dictionary=False)
