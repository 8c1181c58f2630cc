"""`minilm predict`, and its shorter forms `classify`, `tag` and `answer`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minilm.cli.encode import read_lines
from minilm.cli.evaluate import set_confidence
from minilm.cli.record_options import COLUMNS, read, record_options
from minilm.data.records.base import Policy, RecordError, Skips
from minilm.data.records.json_lines import strict_json
from minilm.errors import InputError

if TYPE_CHECKING:
    from minilm.tasks.prediction import Predictor


@click.command()
@click.argument("model")
@click.argument("data", default="-")
@record_options()
@click.option("--device", help="Device to run the model on, such as cpu or cuda. Default: the CPU.")
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    help="For models with an out-of-scope label: predictions with a lower confidence get that "
    "label.",
)
def command(model: str, data: str, min_confidence: float | None, **options: Any) -> None:
    """Predict with MODEL, a fine-tuned checkpoint, for every record of DATA.

    DATA is a file as `minilm finetune` takes it, labels not needed; "-" is standard input: plain
    texts, one a line, or JSON objects, one a line. Output is one JSON object for each record, in
    the same order, with the record's own "id" if it has one; a record that was skipped has "error".
    A row that cannot be parsed always ends the command.

    \b
    Examples:
      minilm predict sentiment reviews.tsv > predictions.jsonl
      echo "What a film!" | minilm predict sentiment
    """
    from minilm.tasks.prediction import Predictor

    predictor = Predictor.from_pretrained(model, device=options["device"])
    set_confidence(predictor.task, min_confidence)
    policy = options["on_bad_record"]
    if data == "-":
        records: Iterable[Mapping[str, Any]] = _from_stdin(options)
    else:
        records = read(Path(data), options, Skips("raise"), labelled=False)
    write(predictor, records, policy)


def write(predictor: Predictor, records: Iterable[Mapping[str, Any]], policy: Policy) -> None:
    """Prints a line of JSON for every record, as soon as a few are ready."""
    from tqdm.auto import tqdm

    total = len(records) if isinstance(records, Sized) else None
    skipped = 0
    quiet = not sys.stderr.isatty()
    with tqdm(total=total, unit=" records", file=sys.stderr, disable=quiet) as bar:
        for record, prediction in predictor.predict_each(records, policy):
            skipped += "error" in prediction
            line = {**({"id": record["id"]} if "id" in record else {}), **prediction}
            click.echo(json.dumps(line, ensure_ascii=False))
            bar.update()
    if skipped:
        click.echo(f'{skipped} records skipped: see "error" in the output', err=True)


def _from_stdin(options: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    from minilm.tasks.fields import under_our_names

    columns = {name: options[option] for option, name in COLUMNS.items()}
    for number, line in enumerate(read_lines(sys.stdin.buffer, "standard input"), 1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            yield {"text": line}
            continue
        try:
            record = strict_json(line)
        except RecordError as problem:
            raise InputError(f"standard input, line {number}: {problem}") from problem
        yield under_our_names(record, columns)


def _texts(texts: tuple[str, ...]) -> Iterable[dict[str, Any]]:
    if texts:
        return [{"text": text} for text in texts]
    return (
        {"text": line} for line in read_lines(sys.stdin.buffer, "standard input") if line.strip()
    )


def _load(model: str, *tasks: str) -> Predictor:
    from minilm.tasks.prediction import Predictor

    predictor = Predictor.from_pretrained(model)
    if predictor.task.name not in tasks:
        raise InputError(
            f"{model} was fine-tuned for {predictor.task.name}, not for {' or '.join(tasks)}: use "
            "minilm predict."
        )
    return predictor


@click.command()
@click.argument("model")
@click.argument("texts", nargs=-1)
@click.option("--pair", help="Second text, for models that classify pairs of texts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def classify(model: str, texts: tuple[str, ...], pair: str | None, as_json: bool) -> None:
    """Say the class of each of TEXTS, or of each line of standard input.

    \b
    Example:
      minilm classify sentiment "What a film!" "I left after an hour."
    """
    predictor = _load(model, "classification", "multi-label", "regression", "utterances")
    for record in _texts(texts):
        prediction = predictor(record["text"], pair)
        if as_json:
            click.echo(json.dumps({"text": record["text"], **prediction}, ensure_ascii=False))
        elif "value" in prediction:
            click.echo(f"{prediction['value']:.4f}\t{record['text']}")
        elif "labels" in prediction:
            click.echo(f"{', '.join(prediction['labels']) or '-'}\t{record['text']}")
        else:
            label = prediction.get("label", prediction.get("intent"))
            click.echo(f"{label}\t{prediction['confidence']:.4f}\t{record['text']}")


@click.command()
@click.argument("model")
@click.argument("texts", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def tag(model: str, texts: tuple[str, ...], as_json: bool) -> None:
    """Find the entities in each of TEXTS, or in each line of standard input.

    \b
    Example:
      minilm tag entities "Ada Lovelace met Charles Babbage in London."
    """
    predictor = _load(model, "tagging", "utterances")
    for record in _texts(texts):
        prediction = predictor(record["text"])
        if as_json:
            click.echo(json.dumps({"text": record["text"], **prediction}, ensure_ascii=False))
        elif "entities" not in prediction:
            pairs = zip(prediction["tokens"], prediction["tags"], strict=True)
            click.echo(" ".join(f"{word}/{label}" for word, label in pairs))
        else:
            for entity in prediction["entities"]:
                click.echo(
                    f"{entity['start']}\t{entity['end']}\t{entity['type']}\t{entity['text']}\t"
                    f"{entity['confidence']:.4f}"
                )


@click.command()
@click.argument("model")
@click.argument("question")
@click.argument("context", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--n-best",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of answers to print.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def answer(model: str, question: str, context: str, n_best: int, as_json: bool) -> None:
    """Answer QUESTION from the text in the file CONTEXT ("-": standard input).

    \b
    Example:
      minilm answer qa "Who wrote it?" article.txt
    """
    predictor = _load(model, "answering")
    if context == "-":
        text = "\n".join(read_lines(sys.stdin.buffer, "standard input"))
    else:
        with open(context, "rb") as file:
            text = "\n".join(read_lines(file, context))
    prediction = predictor(question, text)
    if as_json:
        click.echo(
            json.dumps({**prediction, "n_best": prediction["n_best"][:n_best]}, ensure_ascii=False)
        )
        return
    if not prediction["answer"]:
        click.echo(f"-\t{prediction['confidence']:.4f}\tno answer in the text")
    for one in prediction["n_best"][: n_best if n_best > 1 else bool(prediction["answer"])]:
        shown = " ".join(one["answer"].split())
        click.echo(f"{shown}\t{one['confidence']:.4f}\t{one['start']}-{one['end']}")
