"""`minilm predict`, and its shorter forms `classify`, `tag` and `answer`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minilm.cli.help import Command
from minilm.cli.model_options import (
    exit_options,
    given_thresholds,
    loading,
    model_options,
    set_thresholds,
    threshold_options,
)
from minilm.cli.part_options import (
    display,
    given_part_options,
    part_options,
    refuse_part_options,
    say_result,
)
from minilm.cli.record_options import record_options
from minilm.data.records.base import Policy
from minilm.errors import InputError
from minilm.files.progress import DELAY, counted, is_watched

if TYPE_CHECKING:
    from minilm.tasks.prediction import Input, Predictor

CHUNK = 1024
# options for formats that are read whole
_OF_TABLES = (
    "no_header",
    "delimiter",
    "quoting",
    "escape",
    "token_column",
    "tag_column",
    "encoding",
    "repair_offsets",
)
# turns an input and its prediction into what is printed, lines or none
Show = Callable[["Input", dict[str, Any]], Iterable[str]]
BATCH = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Largest number of records to read before their predictions are printed; 1 = one by one. "
    f"Default: {CHUNK}, with smaller batches at the start; 1 on a terminal.",
)
FILE = click.option(
    "-f",
    "--file",
    "path",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Text file with one text on each line (UTF-8), instead of TEXTS; - is standard input. "
    "Default: standard input, if there are no TEXTS.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")


@click.command(cls=Command)
@click.argument("model")
@click.argument("data", default="-")
@record_options()
@model_options()
@threshold_options()
@exit_options()
@BATCH
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory to write the predictions to, in parts of JSON lines, for many records. "
    "Default: they are printed.",
)
@part_options()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as this command always does.")
def command(
    model: str,
    data: str,
    batch_size: int | None,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Predict with the fine-tuned MODEL for every record of DATA.

    DATA is a file as `minilm finetune` takes it, labels not needed, or a text file (.txt, or
    --format text) with one text a line; "-" is standard input: plain texts, one a line, or with
    --format jsonl JSON objects, one a line.

    Output is one JSON object for each record, in the same order, with the "line" it is from (the
    "row" of Parquet, the "record" of a JSON list) and the record's own "id" if it has one. A blank
    line, or a record that was skipped, has "error". At a bad record the command stops after the
    predictions of those before it, unless --on-bad-record is skip. The command prints
    which columns it reads, unless you name them or they are those of training.

    With --output, text, JSON lines and Parquet are read a part at a time, by several processes
    (--workers) and machines (--shard), and the same command resumes after an interruption.

    \b
    Examples:
      echo "I cannot sign in any more." | minilm predict support
        {"line": 1, "label": "account", "confidence": 0.96..., "probabilities": {"account": 0.96...
      minilm predict support messages.tsv > predictions.jsonl
      minilm predict support messages.parquet -o predictions --workers 8 --shard 1/4
      minilm predict support messages.txt
    """
    from minilm.cli.inputs import line_of, of_data, saying_guesses
    from minilm.tasks.layouts import plain
    from minilm.tasks.prediction import Predictor

    if output is not None:
        if batch_size is not None:
            raise click.UsageError("--batch-size is for predictions that are printed.")
        _write_parts(model, data, output, options)
        return
    refuse_part_options(options, "predictions are printed")
    predictor = Predictor.from_pretrained(model, **loading(options))
    predictor.task.name_columns(options)
    set_thresholds(predictor.task, options)

    def show(item: Input, prediction: dict[str, Any]) -> Iterable[str]:
        record = item.record if isinstance(item.record, Mapping) else {}
        name = plain(record.get("id"))
        known = {} if name is None else {"id": name}
        # an id from Parquet may be a time or bytes
        line = {**line_of(item), **known, **prediction}
        yield json.dumps(line, ensure_ascii=False, default=str)

    inputs = of_data(data, options, predictor.task.name)
    total = len(inputs) if isinstance(inputs, Sized) else None
    inputs = saying_guesses(inputs, predictor.task)
    policy = options["on_bad_record"]
    write(predictor, inputs, show, policy=policy, batch_size=batch_size, total=total)


def _write_parts(model: str, data: str, output: Path, options: dict[str, Any]) -> None:
    """Makes the parts of a directory."""
    from minilm.tasks.bulk import predict_file

    if data == "-":
        raise click.UsageError(
            f"{output} is a directory of parts, for which the records are read several times: put "
            "them into a file."
        )
    for name in _OF_TABLES:
        if options[name]:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(f"{option} is not for --output: see its formats in --help.")
    how = given_part_options(options, options["threads"])
    options["threads"] = None  # of the workers, not of this process
    how |= loading(options)
    exits = {name: how.pop(name) for name in list(how) if name.startswith("exit_")}
    thresholds = given_thresholds(options)
    with display("record") as shown:
        result = predict_file(
            model,
            data,
            output,
            **how,
            exits=exits,
            thresholds=thresholds,
            columns=options,
            format=options["format"],
            on_bad_record=options["on_bad_record"],
            progress=shown.progress,
            on_bytes=shown.on_bytes,
            say=lambda message: click.echo(message, err=True),
        )
    say_result(result, output, how.get("shard"), "record")
    say_counts(result.counts)


def say_counts(counts: Mapping[str, int], depth: int | None = None) -> None:
    """Says which predictions are missing, and how many layers texts went through, of `depth`."""
    if predicted := counts.get("predicted"):
        mean, of = counts["applications"] / predicted, "" if depth is None else f" of {depth}"
        click.echo(f"layers applied to a text: {mean:.2f}{of}, on average", err=True)
    if skipped := counts.get("skipped"):
        click.echo(f'{counted(skipped, "record")} skipped: see "error" in the output', err=True)
    if blank := counts.get("blank"):
        click.echo(f"{counted(blank, 'blank line')} without a prediction", err=True)


def write(
    predictor: Predictor,
    inputs: Iterable[Input],
    show: Show,
    *,
    policy: Policy = "raise",
    batch_size: int | None = None,
    total: int | None = None,
) -> None:
    """Prints every prediction, formatted by `show`, as soon as it is available.

    Args:
        predictor: the model.
        inputs: the inputs to predict for.
        show: see `Show`.
        policy: what to do with bad records.
        batch_size: largest number of inputs to read before their predictions are printed; None = 1
            on a terminal.
        total: number of inputs, if known.
    """
    from tqdm.auto import tqdm

    if batch_size is None:
        batch_size = CHUNK if total is not None or not sys.stdin.isatty() else 1
    counts: Counter[str] = Counter()
    with tqdm(
        total=total, unit=" records", file=sys.stderr, disable=not is_watched(), delay=DELAY
    ) as bar:
        for item, prediction in predictor.predict_inputs(inputs, policy, chunk=batch_size):
            counts["blank"] += item.record is None
            counts["skipped"] += "error" in prediction and item.record is not None
            if "applications" in prediction:
                counts["predicted"] += 1
                counts["applications"] += prediction["applications"]
            for line in show(item, prediction):
                click.echo(line)
            bar.update()
    exits = predictor.early_exit
    say_counts(counts, None if exits is None else exits.applications)


def _load(model: str, options: dict[str, Any], *tasks: str) -> Predictor:
    from minilm.tasks.prediction import Predictor

    predictor = Predictor.from_pretrained(model, **loading(options))
    if predictor.task.name not in tasks:
        raise InputError(
            f"{model} was fine-tuned for {predictor.task.name}, not for {' or '.join(tasks)}: use "
            "minilm predict."
        )
    set_thresholds(predictor.task, options)
    return predictor


def _json(item: Input, prediction: Mapping[str, Any]) -> str:
    from minilm.cli.inputs import line_of

    record = item.record
    text = record["text"] if isinstance(record, Mapping) else ""
    return json.dumps({**line_of(item), "text": text, **prediction}, ensure_ascii=False)


@click.command(cls=Command)
@click.argument("model")
@click.argument("texts", nargs=-1)
@FILE
@click.option("--pair", help="Second text, for models that classify pairs of texts. Default: none.")
@model_options()
@threshold_options("min_confidence", "threshold")
@exit_options()
@BATCH
@AS_JSON
def classify(
    model: str,
    texts: tuple[str, ...],
    path: str | None,
    pair: str | None,
    batch_size: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Classify each of TEXTS, or each line of a file or of standard input.

    For every text one line is printed: the label, its probability and the text, with tabs between
    them. For a blank text the columns hold "-".

    \b
    Examples:
      minilm classify support "The parcel never came." "Give me back what I paid."
        delivery  0.97...  The parcel never came.
        refund    0.9...   Give me back what I paid.
      minilm classify support --file messages.txt

    The model "support" is made by the first command of examples/tasks.md.
    """
    from minilm.cli.inputs import of_texts

    predictor = _load(model, options, "classification", "multi-label", "regression", "utterances")
    if pair is not None and predictor.task.name == "utterances":
        raise InputError("utterances takes one text, not a pair.")
    if pair is None and predictor.task.texts == (2,):
        raise InputError(f"{model} was trained on pairs of texts: give the second one with --pair.")
    columns = 1 if predictor.task.name in ("multi-label", "regression") else 2  # before the text

    def show(item: Input, prediction: dict[str, Any]) -> Iterable[str]:
        text = item.record["text"] if isinstance(item.record, Mapping) else ""
        if as_json:
            yield _json(item, prediction)
        elif "error" in prediction:
            yield "-\t" * columns
        elif "value" in prediction:
            yield f"{prediction['value']:.4f}\t{text}"
        elif "labels" in prediction:
            yield f"{', '.join(prediction['labels']) or '-'}\t{text}"
        else:
            label = prediction.get("label", prediction.get("intent"))
            yield f"{label}\t{prediction['confidence']:.4f}\t{text}"

    write(predictor, of_texts(texts, path, pair), show, batch_size=batch_size)


@click.command(cls=Command)
@click.argument("model")
@click.argument("texts", nargs=-1)
@FILE
@model_options()
@BATCH
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write an HTML page with the entities marked in the texts; it needs no other file. "
    "Default: none.",
)
@AS_JSON
def tag(
    model: str,
    texts: tuple[str, ...],
    path: str | None,
    batch_size: int | None,
    html: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the entities in each of TEXTS, or in each line of a file or of standard input.

    Columns: start and end in characters, type, text, confidence. Unless exactly one text is
    given, the first column is the number of the text or of its line.

    \b
    Examples:
      minilm tag entities "Ada Lovelace met Charles Babbage in London."
        0   12  PER  Ada Lovelace     0.9931
        17  32  PER  Charles Babbage  0.9874
        36  42  LOC  London           0.9902
      minilm tag entities --file letters.txt --html letters.html
    """
    from minilm.cli.inputs import of_texts

    predictor = _load(model, options, "tagging", "utterances")
    alone = len(texts) == 1
    found: list[tuple[str, Mapping[str, Any]]] = []  # for the page

    def show(item: Input, prediction: dict[str, Any]) -> Iterable[str]:
        if html is not None:
            text = item.record["text"] if isinstance(item.record, Mapping) else ""
            found.append((text, prediction))
        number = "" if alone else item.place.rpartition(" ")[2] + "\t"
        if as_json:
            yield _json(item, prediction)
        elif "error" in prediction:
            return
        elif "entities" not in prediction:
            pairs = zip(prediction["tokens"], prediction["tags"], strict=True)
            yield number + " ".join(f"{word}/{label}" for word, label in pairs)
        else:
            for entity in prediction["entities"]:
                yield (
                    f"{number}{entity['start']}\t{entity['end']}\t{entity['type']}\t"
                    f"{entity['text']}\t{entity['confidence']:.4f}"
                )

    write(predictor, of_texts(texts, path), show, batch_size=batch_size)
    if html is not None:
        from minilm.files.atomic import replace_files
        from minilm.pages.entities import entities_page

        page = entities_page(f"Entities found by {Path(model).name}", found)
        replace_files({html: lambda place: place.write_text(page, encoding="utf-8")})
        click.echo(html, err=True)


@click.command(cls=Command)
@click.argument("model")
@click.argument("question")
@click.argument("context", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--n-best",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of candidate answers to print.",
)
@model_options()
@threshold_options("null_threshold")
@BATCH
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object for each question.")
def answer(
    model: str,
    question: str,
    context: str,
    n_best: int,
    batch_size: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Answer QUESTION from the text in the file CONTEXT; either may be "-" for standard input.

    Columns of the output: the answer, its probability, and its start and end in characters. With
    "-" as QUESTION, each line of standard input is a question, and the number of the line is the
    first column.

    \b
    Examples:
      minilm answer qa "Who wrote it?" article.txt
        Ada Lovelace  0.8127  31-43
      minilm answer qa - article.txt < questions.txt
    """
    from minilm.cli.inputs import STDIN, of_lines, text_lines
    from minilm.tasks.prediction import Input

    if question == context == "-":
        raise click.UsageError("QUESTION and CONTEXT cannot both be standard input.")
    predictor = _load(model, options, "answering")
    text = "\n".join(text_lines(context))
    several = question == "-"
    asked = (
        of_lines(text_lines("-"), STDIN, "question")
        if several
        else iter([Input("question 1", {"question": question})])
    )
    inputs = (
        Input(item.place, {**item.record, "context": text} if item.record else None)  # type: ignore[dict-item]
        for item in asked
    )

    def show(item: Input, prediction: dict[str, Any]) -> Iterable[str]:
        number = item.place.rpartition(" ")[2]
        column = f"{number}\t" if several else ""
        if as_json:
            best = {"n_best": prediction["n_best"][:n_best]} if "n_best" in prediction else {}
            line = {"line": int(number)} if several else {}
            yield json.dumps({**line, **prediction, **best}, ensure_ascii=False)
            return
        if "error" in prediction:
            yield f"{column}-\t"
            return
        if not prediction["answer"]:
            yield f"{column}-\t{prediction['confidence']:.4f}\tno answer in the text"
        for one in prediction["n_best"][: n_best if n_best > 1 else bool(prediction["answer"])]:
            shown = " ".join(one["answer"].split())
            yield f"{column}{shown}\t{one['confidence']:.4f}\t{one['start']}-{one['end']}"

    write(predictor, inputs, show, batch_size=batch_size)
