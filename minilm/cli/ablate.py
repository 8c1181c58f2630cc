"""`minilm ablate`: the same distillation with single settings changed, each with several seeds."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from minilm.cli.help import Command
from minilm.cli.model_options import threads_option
from minilm.cli.options import Option, field_value, given_fields, options_of, together
from minilm.errors import DataError, InputError
from minilm.files.json_file import read_bytes, read_json
from minilm.files.progress import counted
from minilm.recipes.ablation import (
    ACCURACY,
    LOSS,
    TABLES,
    Ablation,
    AblationResult,
    Spread,
    Variant,
    VariantResult,
    check_fields,
    grid,
)
from minilm.recipes.distillation import DistillationRecipe

UNKNOWN = "–"
_MAX_BYTES = 1_000_000  # of a file of variants


def _options() -> Option[Any]:
    return together(
        [
            click.option(
                "--table",
                "tables",
                multiple=True,
                type=click.Choice(list(TABLES)),
                help="Built-in set of variants: the ablation of DistilBERT's paper (Table 4), "
                "or that of a student that is distilled, shared and factorised. May be "
                "given several times. Default: none.",
            ),
            click.option(
                "--variant",
                "variants",
                multiple=True,
                metavar="'NAME: FIELD=VALUE ...'",
                help="Variant: its name, and the options that it changes with their values. May "
                "be given several times. Default: none.",
            ),
            click.option(
                "--variants",
                "files",
                multiple=True,
                type=click.Path(path_type=Path),
                help="File of variants, TOML or JSON: under the name of each variant a table "
                "(an object) of the settings that it changes. May be given several times. "
                "Default: none.",
            ),
            click.option(
                "--axis",
                "axes",
                multiple=True,
                metavar="'FIELD=VALUE VALUE ...'",
                help="Axis of a grid: a setting and its values. Given several times, every "
                "combination of values is a variant. Default: none.",
            ),
            click.option(
                "--seeds",
                default=3,
                show_default=True,
                type=click.IntRange(min=1),
                help="Number of seeds to train every variant with: --seed and the seeds after it.",
            ),
            *options_of(DistillationRecipe, usual_length=DistillationRecipe.usual_length),
            click.option(
                "--output",
                required=True,
                type=click.Path(path_type=Path),
                help="Directory for the runs, one below it for each variant and seed.",
            ),
            threads_option(),
            click.option(
                "--device",
                help="Device to train on, such as cpu or cuda. Default: a GPU if there is one.",
            ),
            click.option(
                "--allow-changes",
                is_flag=True,
                help="Resume the runs in --output although settings or data have changed.",
            ),
            click.option("--json", "as_json", is_flag=True, help="Print JSON."),
            click.option("--markdown", "as_markdown", is_flag=True, help="Print a Markdown table."),
        ]
    )


@click.command(cls=Command)
@_options()
def command(**options: Any) -> None:
    """Distil the same student several times with single settings changed, and compare the results.

    The options are those of `minilm distill`; each variant changes some of them. Every variant is
    trained with several seeds and evaluated on the same masked words of the held-out documents. The
    table shows for each variant the mean and standard deviation, the difference from the first
    variant (paired by seed: the runs of one seed read the same text), and the share of the
    teacher's masked-LM accuracy.

    If an ablation is interrupted, the same command resumes it; finished runs are not repeated.
    Their snapshots are removed, their models are kept. With --teacher-cache there is one cache for
    each seed, which all variants share.

    \b
    Examples:
      minilm ablate --teacher bert-mini --corpus store --held-out 50 --max-length 128 \\
        --tokens-per-step 2048 --steps 40 --evaluate-every 40 --seeds 2 --output ablation \\
        --variant "text alone: kl=0" --variant "random start: start=random"
        variant       masked words right (%)     difference  of the teacher's    masked loss ...
        base                    41.23 ± 0.12              –             94.9%  3.520 ± 0.005 ...
        text alone              38.11 ± 0.42   -3.11 ± 0.30             87.7%  3.777 ± 0.034 ...
        random start            12.16 ± 0.41  -29.06 ± 0.54             28.0%  7.089 ± 0.011 ...
        ...
      minilm ablate --teacher bert-base-uncased --corpus store --held-out 200 --steps 1000 \\
        --table distilbert --output ablation
    """
    import torch

    from minilm.training.distributed import join

    if options["as_json"] and options["as_markdown"]:
        raise click.UsageError("Choose one of --json and --markdown.")
    if (options["steps"] is None) == (options["epochs"] is None):
        raise click.UsageError("Give one of --steps and --epochs.")
    variants = _variants(options)
    if not variants:
        raise click.UsageError("Give at least one of --table, --variant, --variants and --axis.")
    base = DistillationRecipe(**given_fields(DistillationRecipe, options))
    ablation = Ablation(base=base, variants=variants, seeds=options["seeds"])
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    with join(options["device"]) as processes:

        def say(text: str) -> None:
            if processes.first:
                click.echo(text, err=True)

        result = ablation.run(
            options["output"],
            processes=processes,
            allow_changes=options["allow_changes"],
            say=say,
        )
        if result.finished and processes.first:
            if options["as_json"]:
                click.echo(json.dumps(result.to_json(), indent=2))
            else:
                click.echo(report(result, markdown=options["as_markdown"]))
    if result.exit_code:
        raise SystemExit(result.exit_code)


def _variants(options: Mapping[str, Any]) -> list[Variant]:
    """All variants that the options name, in the order of the help.

    If neither a table nor a grid gives a reference, it is the unchanged recipe.
    """
    built_in = [variant for name in options["tables"] for variant in TABLES[name]]
    axes = dict(_axis(text) for text in options["axes"])
    own = [_variant(text) for text in options["variants"]]
    own += [variant for path in options["files"] for variant in _read(path)]
    found = [*built_in, *(grid(axes) if axes else []), *own]
    if own and len(own) == len(found) and all(variant.changes for variant in own):
        found.insert(0, Variant("base"))
    return found


def _variant(text: str) -> Variant:
    name, colon, changes = text.partition(":")
    if not colon:
        raise click.UsageError(
            f"--variant {text!r} has no colon: expected 'NAME: FIELD=VALUE FIELD=VALUE'."
        )
    pairs = [_pair("--variant", text, word) for word in _words("--variant", changes)]
    return _checked(Variant(name.strip(), dict(pairs)))


def _axis(text: str) -> tuple[str, list[Any]]:
    first, *more = _words("--axis", text) or [""]
    name, value = _pair("--axis", text, first)
    read = [_checked(Variant(text, {name: value})) for value in (value, *more)]
    return name, [variant.changes[name] for variant in read]


def _words(option: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as problem:
        raise click.UsageError(f"{option} {text!r}: {problem}.") from problem


def _pair(option: str, text: str, word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise click.UsageError(f"{option} {text!r}: {word!r} has no =, expected FIELD=VALUE.")
    return name.removeprefix("--").replace("-", "_"), value


def _checked(variant: Variant) -> Variant:
    """The same variant with every value parsed as by its option."""
    check_fields(variant)
    values = {}
    for name, given in variant.changes.items():
        try:
            values[name] = field_value(DistillationRecipe, name, given)
        except click.BadParameter as problem:
            raise InputError(f"Variant {variant.name!r}: {name}: {problem.message}") from problem
    return Variant(variant.name, values)


def _read(path: Path) -> list[Variant]:
    """The variants of a TOML or JSON file."""
    import tomllib

    if path.suffix.lower() == ".json":
        found = read_json(path, max_bytes=_MAX_BYTES, error=DataError)
    elif path.suffix.lower() == ".toml":
        content = read_bytes(path, max_bytes=_MAX_BYTES, error=DataError)
        try:
            found = tomllib.loads(content.decode("utf-8"))
        except (ValueError, RecursionError) as problem:
            raise DataError(f"{path} is not valid TOML: {problem}.") from problem
    else:
        raise DataError(f"{path}: variants are read from TOML or JSON; expected .toml or .json.")
    variants = []
    for name, changes in found.items():
        if not isinstance(changes, dict):
            raise DataError(
                f"{path}: {name} is no table of settings. Expected the changes under the name of "
                f'each variant, such as {{"without cosine": {{"cosine": 0}}}}.'
            )
        settings = {key.replace("-", "_"): value for key, value in changes.items()}
        variants.append(_checked(Variant(name, settings)))
    if not variants:
        raise DataError(f"{path} names no variant.")
    return variants


def report(result: AblationResult, *, markdown: bool = False) -> str:
    """The table, with an explanation of its figures below it.

    Args:
        result: the result of an ablation, complete or not.
        markdown: whether to make a Markdown table instead of one for a terminal.
    """
    if not result.variants:
        return "No run is finished yet. The same command resumes the ablation."
    rows = [_HEADINGS, *(_cells(result, row) for row in result.variants)]
    kept = [n for n in range(len(_HEADINGS)) if any(row[n] != UNKNOWN for row in rows[1:])]
    rows = [[row[n] for n in kept] for row in rows]
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines.insert(1, "|---" + "|---:" * (len(kept) - 1) + "|")
    else:
        widths = [max(len(row[n]) for row in rows) for n in range(len(kept))]
        lines = [
            "  ".join(
                cell.ljust(width) if n == 0 else cell.rjust(width)
                for n, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
    return "\n".join([*lines, "", *_remarks(result)])


_HEADINGS = [
    "variant",
    "masked words right (%)",
    "difference",
    "of the teacher's",
    "masked loss",
    "difference",
    "parameters",
    "tokens",
]


def _cells(result: AblationResult, row: VariantResult) -> list[str]:
    first = row is result.variants[0]
    share = result.of_teacher(row)
    return [
        row.variant.name,
        _spread(result.spread(row, ACCURACY), 100, 2),
        UNKNOWN if first else _spread(result.difference(row, ACCURACY), 100, 2, sign="+"),
        f"{share:.1%}" if math.isfinite(share) else UNKNOWN,
        _spread(result.spread(row, LOSS), 1, 3),
        UNKNOWN if first else _spread(result.difference(row, LOSS), 1, 3, sign="+"),
        f"{row.parameters:,}",
        f"{row.tokens:,.0f}",
    ]


def _spread(found: Spread, scale: float, digits: int, sign: str = "") -> str:
    if not math.isfinite(found.mean):
        return UNKNOWN
    shown = f"{scale * found.mean:{sign}.{digits}f}"
    if math.isfinite(found.deviation):
        shown += f" ± {scale * found.deviation:.{digits}f}"
    return shown


def _remarks(result: AblationResult) -> Sequence[str]:
    seeds = len(result.variants[0].runs)
    lines = [
        f"{counted(result.masked_tokens, 'masked token')} of "
        f"{counted(result.documents, 'held-out document')}; {counted(seeds, 'seed')}"
        + (", mean ± standard deviation." if seeds > 1 else ", so the spread is unknown.")
    ]
    if len(result.variants) > 1:
        lines.append(
            f"Differences are from {result.variants[0].variant.name!r}"
            + (", seed by seed." if seeds > 1 else ".")
        )
    if result.teacher:
        lines.append(
            f"The teacher: {result.teacher[ACCURACY]:.2%} right, loss {result.teacher[LOSS]:.3f}."
        )
    return lines
