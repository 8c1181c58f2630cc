"""`minilm tokenize`: text files to a token store."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from minilm.cli.help import Command
from minilm.cli.text_options import text_options
from minilm.data.text_records import EncodingErrors
from minilm.data.token_store import TokenStore
from minilm.data.tokenize import SHARD_TOKENS, TokenizeProgress, tokenize_corpus
from minilm.files.progress import counted, is_watched
from minilm.tokenization.tokenizer import Tokenizer

_SECONDS_BETWEEN_LINES = 10.0


class ProgressDisplay:
    """A bar on stderr if that is a terminal, otherwise a line now and then.

    Attributes:
        last: the latest report; None if there was none.
    """

    def __init__(self) -> None:
        self.last: TokenizeProgress | None = None
        self._start = self._spoken = time.perf_counter()
        self._bar: Any = None

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def report(self, progress: TokenizeProgress) -> None:
        """Shows the progress."""
        self.last = progress
        if is_watched():
            self._move_bar(progress)
        elif time.perf_counter() - self._spoken >= _SECONDS_BETWEEN_LINES:
            self._spoken = time.perf_counter()
            done = progress.bytes_read / max(progress.bytes_total, 1)
            click.echo(
                f"{done:.0%} read, {counted(progress.documents, 'document')}, "
                f"{counted(progress.tokens, 'token')}, {self.seconds:.0f} s",
                err=True,
            )

    def say(self, message: str) -> None:
        """Shows a message."""
        click.echo(message, err=True)

    def _move_bar(self, progress: TokenizeProgress) -> None:
        from tqdm.auto import tqdm

        if self._bar is None:
            self._bar = tqdm(total=progress.bytes_total, unit="B", unit_scale=True)
        self._bar.set_postfix_str(counted(progress.tokens, "token"), refresh=False)
        self._bar.update(progress.bytes_read - self._bar.n)


def describe(store: TokenStore, display: ProgressDisplay) -> dict[str, Any]:
    """Everything that `minilm tokenize --json` prints."""
    found: dict[str, Any] = {
        "store": str(store.path),
        "documents": store.num_documents,
        "empty_documents": store.num_empty_documents,
        "sentences": store.num_sentences,
        "tokens": store.num_tokens,
        "tokens_per_document": store.num_tokens / store.num_documents,
        "unknown_share": store.num_unknown / store.num_tokens,
        "fingerprint": store.fingerprint,
    }
    if display.last is not None:
        seconds = display.seconds
        found["seconds"] = seconds
        found["characters_per_second"] = display.last.characters / seconds
        found["tokens_per_second"] = (store.num_tokens - display.last.tokens_before) / seconds
    return found


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--tokenizer",
    "model",
    required=True,
    help="Model directory or hub name whose tokenizer is used.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the store.",
)
@click.option(
    "--workers",
    "--num-workers",
    type=click.IntRange(min=0),
    help="Number of processes that tokenize. Default: one for each processor. The result is "
    "the same.",
)
@text_options
@click.option(
    "--shard-tokens",
    type=click.IntRange(min=1),
    default=SHARD_TOKENS,
    show_default=True,
    help="Tokens in one file (shard) of the store; an interrupted run resumes after the last "
    "complete one.",
)
@click.option(
    "--restart", is_flag=True, help="Delete the store that OUTPUT holds, and start again."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    files: tuple[Path, ...],
    model: str,
    output: Path,
    workers: int | None,
    text_key: str,
    document_per_line: bool,
    errors: EncodingErrors,
    shard_tokens: int,
    restart: bool,
    as_json: bool,
) -> None:
    """Turn text FILES into a token store, which pretraining and distillation read.

    FILES end in .txt or .md (a blank line between documents), .jsonl (one object a line) or .json
    (the same, or a list of objects), each also compressed (.gz or .xz), or in .parquet (one row for
    each document). If the command is interrupted, the same command resumes.

    \b
    Examples:
      minilm tokenize articles.txt --tokenizer bert-mini -o store
        store
          documents               77  (0 without any text left out)
          sentences           10,803
          tokens             357,370  (4,641.2 a document, 0.00% unknown)
          speed               16,826  tokens a second (70,513 characters a second, 21.2 s in all)
      minilm tokenize part-*.jsonl.gz --text-key body --tokenizer ./model -o corpus.store
      minilm tokenize train-*.parquet --tokenizer bert-base-uncased -o corpus.store
    """
    tokenizer = Tokenizer.from_pretrained(model)
    with ProgressDisplay() as display:
        try:
            store = tokenize_corpus(
                files,
                tokenizer,
                output,
                workers=workers,
                resume=not restart,
                encoding_errors=errors,
                text_key=text_key,
                document_per_line=document_per_line,
                shard_tokens=shard_tokens,
                progress=display.report,
                say=display.say,
            )
        except KeyboardInterrupt:
            again = " (without --restart)" if restart else ""
            display.say(
                f"\nThe finished shards are in {output}: the same command{again} resumes there."
            )
            raise
        found = describe(store, display)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{output}")
    click.echo(
        f"  documents  {store.num_documents:>15,}  "
        f"({store.num_empty_documents:,} without any text left out)"
    )
    click.echo(f"  sentences  {store.num_sentences:>15,}")
    click.echo(
        f"  tokens     {store.num_tokens:>15,}  ({found['tokens_per_document']:,.1f} a document, "
        f"{found['unknown_share']:.2%} unknown)"
    )
    if "seconds" in found:
        click.echo(
            f"  speed      {found['tokens_per_second']:>15,.0f}  tokens a second "
            f"({found['characters_per_second']:,.0f} characters a second, "
            f"{found['seconds']:,.1f} s in all)"
        )
