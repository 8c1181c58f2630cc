"""A comparison in words: rows of figures, as a plain table or in Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from minilm.compare.quantities import ABOUT_EQUAL, UNKNOWN, quantities
from minilm.files.progress import counted

NARROWEST = 11  # characters of a column: a figure with its error
GAP = "  "


def descriptions(model: Mapping[str, Any]) -> dict[str, str]:
    """A description of a model in words; what its card does not say is left out."""
    card = model["card"]
    found = {
        "architecture": model["architecture"],
        "compression": card.get("compression"),
        "training objective": card.get("objective"),
    }
    return {title: str(text) for title, text in found.items() if text}


def table_rows(result: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Everything about all models, a title and a text for each model in every row.

    The title of a part of the row above begins with two spaces.
    """
    models = result["models"]
    texts = [descriptions(model) for model in models]
    rows = [
        (title, [text.get(title, UNKNOWN) for text in texts])
        for title in ("architecture", "compression", "training objective")
        if any(title in text for text in texts)
    ]
    return rows + _figures(result)


def _figures(result: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    return [
        (
            f"  {quantity.title}" if quantity.part else quantity.heading,
            [quantity.cell(value) for value in quantity.values],
        )
        for quantity in quantities(result)
    ]


def table(result: Mapping[str, Any], width: int = 80) -> str:
    """Plain text for a terminal: the models, their figures, and how to read them.

    If the models do not fit beside each other, there are several tables, each with the first model
    in front.

    Args:
        result: what `minilm.compare.measure.compare` returned.
        width: width of the terminal in characters; below 55 the tables are wider than that.
    """
    models = result["models"]
    names = [model["name"] for model in models]
    blocks = ["\n".join(_description(model, width)) for model in models]
    rows = _figures(result)
    left = max(len(title) for title, _ in rows)
    fitting = max(2, (width - left) // (len(GAP) + NARROWEST))
    others = list(range(1, len(names)))
    per_block = fitting - 1
    groups = [others[n : n + per_block] for n in range(0, len(others), per_block)] or [[]]
    for group in groups:
        shown = [0, *group]
        column = max(NARROWEST, (width - left) // len(shown) - len(GAP))
        lines = _row("", [names[n] for n in shown], left, column)
        for title, values in rows:
            lines += _row(title, [values[n] for n in shown], left, column)
        blocks.append("\n".join(lines))
    blocks.append("\n".join(line for remark in remarks(result) for line in _wrap(remark, width)))
    return "\n\n".join(blocks)


def _description(model: Mapping[str, Any], width: int) -> list[str]:
    lines = _wrap(f"{model['name']} ({model['class']})", width)
    for title, text in descriptions(model).items():
        lines += textwrap.wrap(
            f"{title}: {text}", width, initial_indent="  ", subsequent_indent="    "
        )
    return lines


def _row(title: str, values: Sequence[str], left: int, column: int) -> list[str]:
    """The lines of a row whose cells are wrapped to the width of a column."""
    cells = [textwrap.wrap(value, column) for value in values]
    return [
        GAP.join(
            [
                (title if n == 0 else "").ljust(left),
                *((cell[n] if n < len(cell) else "").ljust(column) for cell in cells),
            ]
        ).rstrip()
        for n in range(max(map(len, cells)))
    ]


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ")


def markdown(result: Mapping[str, Any]) -> str:
    """The same as a Markdown table, and the remarks as paragraphs below it."""
    names = [model["name"] for model in result["models"]]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {title.strip()} | {' | '.join(values)} |" for title, values in table_rows(result)]
    return "\n\n".join(["\n".join(lines), *remarks(result)])


def remarks(result: Mapping[str, Any]) -> list[str]:
    """How the figures were measured, how to read them, and why sharing makes no model faster."""
    workload, models = result["workload"], result["models"]
    lines = [
        machine_line(result),
        *_busy(result["machine"].get("load")),
        f"Speed: {counted(workload['texts'], 'text')} of uneven length "
        f"({counted(workload['tokens'], 'token')}), the models in turn, {_formats(models)}. "
        + _rounds(workload["rounds"], models),
    ]
    scores = [model["scores"] for model in models if model["scores"]]
    if scores:
        masked = " or ".join(sorted({f"{found['masked_tokens']:,}" for found in scores}))
        lines.append(
            f"Masked words: {masked} masked tokens, 15% of {workload['source']}; ± is one standard "
            "error."
        )
    if pairs := {found["pairs"] for found in scores if found["pairs"]}:
        counts = " or ".join(f"{count:,}" for count in sorted(pairs))
        lines.append(f"Sentence order: {counts} pairs, every other one swapped; guessing gets 50%.")
    if len(models) > 1:
        lines.append(
            f"In brackets: the share of {models[0]['name']}'s figure, for speed how many times as "
            f"fast; {ABOUT_EQUAL} = the difference from it is smaller than its standard error."
        )
    shared = [
        f"{model['name']} stores {counted(model['layers']['stored'], 'layer')} and computes "
        f"{model['layers']['applied']}"
        for model in models
        if model["layers"]["stored"] < model["layers"]["applied"]
    ]
    if shared:
        lines.append(
            f"{'; '.join(shared)}. Sharing saves memory, not time: every application is as much "
            "work as a layer of its own."
        )
    return lines


def machine_line(result: Mapping[str, Any]) -> str:
    """When, on which processor and with which versions the figures were taken."""
    machine = result["machine"]
    return (
        f"Measured on {machine['date']}: {machine['processor']} ({machine['instructions']}), "
        f"{counted(machine['threads'], 'thread')}; minilm {machine['minilm']}, torch "
        f"{machine['torch']}, Python {machine['python']}."
    )


def _busy(load: Mapping[str, Any] | None) -> list[str]:
    """A warning if other processes used the machine meanwhile."""
    if load is None or not load["busy"]:
        return []
    others = load.get("others_during")
    share = "" if others is None else f" ({others:.0%} of its {counted(load['cpus'], 'CPU')})"
    return [
        f"The machine was busy with other work meanwhile{share}: times are too long, and "
        "differences of speed may be chance."
    ]


def _formats(models: Sequence[Mapping[str, Any]]) -> str:
    """The number formats of the weights, of each model where they differ."""
    if len({model["dtype"] for model in models}) == 1:
        return f"in {models[0]['dtype']}"
    return ", ".join(f"{model['name']} in {model['dtype']}" for model in models)


def _rounds(rounds: int, models: Sequence[Mapping[str, Any]]) -> str:
    lone = {len(model.get("rounds", {}).get("one_text_seconds", [])) for model in models} - {0}
    if rounds == 1 and not lone - {1}:
        return "One round: how much the figures vary is not known."
    of_one = f" ({max(lone)} for one text)" if lone else ""
    return (
        f"Medians of {counted(rounds, 'round')}{of_one}; ± is half the distance between their "
        "quartiles."
    )
